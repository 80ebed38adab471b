"""Small random checkpoints of the Qwen families: pictures of at most 64 tokens, in grids of any shape."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from models import checkpoints

FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
HIDDEN, HEAD_SIZE, PATCH, MERGE = 64, 32, 4, 2
CLASSES = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}
IMAGE, VIDEO, START, END = "<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", IMAGE, VIDEO, START, END]


def build(family: str, folder: Path) -> Path:
    """A checkpoint that transformers and vLLM load alike."""
    vision = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": PATCH, "temporal_patch_size": 2}
    vision |= {"spatial_merge_size": MERGE}
    turned = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    text = {"vocab_size": 256 + len(SPECIAL), "hidden_size": HIDDEN, "intermediate_size": 96, "num_hidden_layers": 4}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048}
    text |= {"bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 259, "tie_word_embeddings": False}
    if family == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    elif family == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48, "depth": 3}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": HEAD_SIZE}
        turned |= {"mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text |= {"rope_scaling": turned, "rope_theta": 10000.0}
    ids = {"image_token_id": _id(IMAGE), "video_token_id": _id(VIDEO)}
    ids |= {"vision_start_token_id": _id(START), "vision_end_token_id": _id(END)}
    name = CLASSES[family]
    config = getattr(transformers, f"{name}Config")(
        text_config=text, vision_config=vision, tie_word_embeddings=False, **ids
    )
    model = getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()
    return checkpoints.save(folder, model, _processor(family), torch.float32)


def _id(token: str) -> int:
    return 256 + SPECIAL.index(token)


def _processor(family: str):
    side = MERGE * PATCH
    how = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
    how |= {"size": {"shortest_edge": side**2, "longest_edge": 64 * side**2}}
    how |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # vLLM's model takes a picture's for a video as well
    video = transformers.Qwen3VLVideoProcessor if family == "qwen3_vl" else transformers.Qwen2VLVideoProcessor
    video_how = how | {"size": {"shortest_edge": side**2, "longest_edge": 256 * side**2}}
    name = "Qwen2_5_VL" if family == "qwen2_5_vl" else CLASSES[family]
    return getattr(transformers, f"{name}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**how),
        video_processor=video(**video_how),
        tokenizer=checkpoints.tokenizer(SPECIAL, IMAGE),
        chat_template=checkpoints.TEMPLATE,
    )
