"""Tiny configurations of every family, and the vocabulary that they share."""

from __future__ import annotations

import transformers

PAD, BOS, IMAGE, VIDEO, VISION_START, VISION_END, VIDEO_START, VIDEO_END = 0, 1, *range(150, 156)
TILES, WHOLE, CLOSE = (
    (156, 157),
    158,
    159,
)  # what stands before the tiles of an image, and before the one that shows all
WORDS = range(2, IMAGE)  # ids of ordinary text
VOCABULARY = 160
HIDDEN, HEADS, HEAD_SIZE = 64, 4, 16

CLASSES = {
    "llava": "Llava",
    "pixtral": "Llava",
    "llava_next": "LlavaNext",
    "llava_onevision": "LlavaOnevision",
    "internvl": "InternVL",
    "internvl_qwen3": "InternVL",
    "qwen2_vl": "Qwen2VL",
    "qwen2_5_vl": "Qwen2_5_VL",
    "qwen3_vl": "Qwen3VL",
    "qwen3_vl_moe": "Qwen3VLMoe",
    "glm4v": "Glm4v",
    "glm4v_moe": "Glm4vMoe",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
    "aya_vision": "AyaVision",
}
"""What the names of a variant's classes begin with."""

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3]}  # half a head: time, height, width
EXPERTS = {"moe_intermediate_size": 32, "num_experts_per_tok": 2}


def configuration(variant: str, layers: int):
    """The model's configuration object."""
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS if variant == "llava" else 2,  # Vicuna has as many, every other family fewer
        "max_position_embeddings": 1024,
        "bos_token_id": BOS,
        "eos_token_id": None,
        "pad_token_id": PAD,
        "tie_word_embeddings": False,
    }
    configuration_class = getattr(transformers, CLASSES[variant] + "Config")
    if variant.startswith("qwen"):
        return configuration_class(**_qwen(variant, text), tie_word_embeddings=False)
    if variant.startswith("glm"):
        return configuration_class(**_glm(variant, text), tie_word_embeddings=False)
    if variant.startswith(("llava", "pixtral")):
        return configuration_class(**_llava(variant, text), tie_word_embeddings=False)
    return configuration_class(**_tiled(variant, text), tie_word_embeddings=False)


def _llava(variant: str, text: dict) -> dict:
    parts = {"text_config": transformers.LlamaConfig(**text), "image_token_index": IMAGE}
    grid = {"image_grid_pinpoints": [[12, 24], [24, 12], [24, 24]]}
    if variant == "llava":
        vision = transformers.CLIPVisionConfig(**VISION, image_size=20, patch_size=4)
        return parts | {"vision_config": vision, "image_seq_length": 25}
    if variant == "pixtral":
        vision = transformers.PixtralVisionConfig(**VISION, image_size=32, patch_size=4)
        return parts | {"vision_config": vision, "vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    if variant == "llava_next":
        return parts | grid | {"vision_config": transformers.CLIPVisionConfig(**VISION, image_size=12, patch_size=4)}
    vision = transformers.SiglipVisionConfig(**VISION, image_size=12, patch_size=4, vision_use_head=False)
    parts |= {"text_config": transformers.Qwen2Config(**text), "video_token_index": VIDEO}
    return parts | grid | {"vision_config": vision}


def _tiled(variant: str, text: dict) -> dict:
    """Tiles of 32 x 32 pixels, which become 4 x 4 tokens."""
    if variant.startswith("internvl"):
        qwen3 = variant == "internvl_qwen3"
        text = transformers.Qwen3Config(**text, head_dim=HEAD_SIZE) if qwen3 else transformers.Qwen2Config(**text)
        vision = transformers.InternVLVisionConfig(**VISION, image_size=[32, 32], patch_size=[4, 4])
        return {"vision_config": vision, "text_config": text, "image_token_id": IMAGE, "image_seq_length": 16}
    if variant == "aya_vision":
        vision = transformers.SiglipVisionConfig(**VISION, image_size=32, patch_size=4, vision_use_head=False)
        parts = {"image_token_index": IMAGE, "downsample_factor": 2}
        return parts | {"vision_config": vision, "text_config": transformers.CohereConfig(**text)}
    parts = {"image_token_id": IMAGE, "scale_factor": 2, "vision_config": VISION | {"image_size": 32, "patch_size": 4}}
    return parts | {"text_config": transformers.LlamaConfig(**text)}


def _qwen(variant: str, text: dict) -> dict:
    vision = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "temporal_patch_size": 2}
    vision |= {"spatial_merge_size": 2}
    text |= {"rope_theta": 10000.0, "rope_scaling": MROPE}
    if variant == "qwen2_vl":
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    elif variant == "qwen2_5_vl":
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    else:
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48, "depth": 3}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": HEAD_SIZE, "rope_scaling": MROPE | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}
        text |= EXPERTS | {"num_experts": 4} if variant == "qwen3_vl_moe" else {}
    return _with_ids({"text_config": text, "vision_config": vision})


def _glm(variant: str, text: dict) -> dict:
    vision = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "temporal_patch_size": 2}
    vision |= {"spatial_merge_size": 2, "hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48}
    vision |= {"image_size": 32}
    # Half of a head is turned.
    text |= {"rope_theta": 10000.0, "rope_scaling": MROPE | {"mrope_section": [1, 1, 2]}, "partial_rotary_factor": 0.5}
    if variant == "glm4v_moe":
        text |= EXPERTS | {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
        text |= {"first_k_dense_replace": 1, "head_dim": HEAD_SIZE}
    videos = {"video_start_token_id": VIDEO_START, "video_end_token_id": VIDEO_END}
    images = {"image_start_token_id": VISION_START, "image_end_token_id": VISION_END}
    return _with_ids({"text_config": text, "vision_config": vision}) | videos | images


def _with_ids(parts: dict) -> dict:
    ids = {"image_token_id": IMAGE, "video_token_id": VIDEO}
    return parts | ids | {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}
