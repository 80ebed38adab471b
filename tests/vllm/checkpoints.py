"""Small random checkpoints that vLLM can load too: heads of 32 channels, and the names of weights that it expects."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import qwen
import torch
import transformers
from models import checkpoints
from safetensors.torch import load_file, save_file

HEADS = 2  # of 32 channels; the CPU build has no attention for smaller ones
FRAMES = 4


def onevision(folder: Path) -> Path:
    """LLaVA-OneVision: the whole picture in 8 x 8 tokens, then tiles with a newline after each row; videos of 4 x 4
    tokens a frame."""
    side = checkpoints.SIDE
    pinpoints = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]
    towers = checkpoints.towers(HEADS)
    vision = transformers.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=side,
        patch_size=checkpoints.PATCH,
        vision_use_head=False,
    )
    text = transformers.Qwen2Config(**{k: v for k, v in towers["text_config"].to_dict().items() if k in TEXT})
    special = checkpoints.SPECIAL
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_grid_pinpoints=pinpoints,
        image_token_index=256 + special.index("<image>"),
        video_token_index=256 + special.index("<unk>"),
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    square = {"height": side, "width": side}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=square, image_grid_pinpoints=pinpoints),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=square),
        tokenizer=checkpoints.tokenizer(),
        num_image_tokens=(side // checkpoints.PATCH) ** 2,
        vision_feature_select_strategy="full",
        image_token="<image>",
        video_token="<unk>",
        chat_template=checkpoints.TEMPLATE,
    )
    model = transformers.LlavaOnevisionForConditionalGeneration(config).eval()
    return checkpoints.save(folder, model, processor, torch.float32)


TEXT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"),
)
BUILDERS = {
    "llava": lambda folder: checkpoints.llava(folder, heads=HEADS),
    "llava_next": lambda folder: checkpoints.llava_next(folder, heads=HEADS),
    "llava_onevision": onevision,
    **{family: partial(qwen.build, family) for family in qwen.FAMILIES},
}


def build(family: str, folder: Path) -> tuple[Path, Path]:
    """A checkpoint for transformers and the same for vLLM, which knows the vision tower's weights by older names."""
    stock = BUILDERS[family](folder / family)
    if family.startswith("qwen"):
        return stock, stock
    served = Path(shutil.copytree(stock, folder / f"{family}-vllm"))
    weights = load_file(stock / "model.safetensors")
    for name in [name for name in weights if name.startswith("vision_tower.")]:
        if not name.startswith("vision_tower.vision_model."):
            weights[name.replace("vision_tower.", "vision_tower.vision_model.", 1)] = weights.pop(name)
    save_file(weights, served / "model.safetensors", metadata={"format": "pt"})
    return stock, served
