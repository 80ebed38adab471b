"""Tiny randomly initialised models of every family, and inputs for them. Nothing is downloaded."""

from __future__ import annotations

import itertools
import zlib

import torch
import transformers
from torch import Tensor

from models import pictures

FAMILIES = ("llava", "llava_next", "llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The `model_type` of each family's configuration."""

VARIANTS = (*FAMILIES, "internvl_qwen3")
"""What `build` knows: the families, and InternVL over a Qwen3 decoder."""

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])

PAD, BOS, IMAGE, VIDEO, VISION_START, VISION_END = 0, 1, 150, 151, 152, 153
WORDS = range(2, IMAGE)  # ids of ordinary text
VOCABULARY = 160
HIDDEN, HEADS, HEAD_SIZE = 64, 4, 16

CLASSES = {
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "llava_onevision": "LlavaOnevisionForConditionalGeneration",
    "internvl": "InternVLForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}


# --- Models -------------------------------------------------------------------------------------------------


def _configuration(variant: str, layers: int):
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
    if variant.startswith("qwen"):
        return _qwen_configuration(variant, text)
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"image_token_index": IMAGE, "tie_word_embeddings": False}
    grid = {"image_grid_pinpoints": [[12, 24], [24, 12], [24, 24]]}
    if variant == "llava":
        vision = transformers.CLIPVisionConfig(**vision, image_size=20, patch_size=4)
        return transformers.LlavaConfig(
            vision_config=vision, text_config=transformers.LlamaConfig(**text), image_seq_length=25, **ids
        )
    if variant == "llava_next":
        vision = transformers.CLIPVisionConfig(**vision, image_size=12, patch_size=4)
        return transformers.LlavaNextConfig(
            vision_config=vision, text_config=transformers.LlamaConfig(**text), **grid, **ids
        )
    if variant == "llava_onevision":
        vision = transformers.SiglipVisionConfig(**vision, image_size=12, patch_size=4, vision_use_head=False)
        ids |= {"video_token_index": VIDEO}
        return transformers.LlavaOnevisionConfig(
            vision_config=vision, text_config=transformers.Qwen2Config(**text), **grid, **ids
        )
    vision = transformers.InternVLVisionConfig(**vision, image_size=[32, 32], patch_size=[4, 4])
    qwen3 = variant == "internvl_qwen3"
    text = transformers.Qwen3Config(**text, head_dim=HEAD_SIZE) if qwen3 else transformers.Qwen2Config(**text)
    return transformers.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=IMAGE, image_seq_length=16, tie_word_embeddings=False
    )


def _qwen_configuration(variant: str, text: dict):
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3]}  # half a head: time, height, width
    vision = {"depth": 2, "num_heads": 2, "in_channels": 3, "patch_size": 4, "temporal_patch_size": 2}
    vision |= {"spatial_merge_size": 2}
    text |= {"rope_theta": 10000.0, "rope_scaling": rope}
    if variant == "qwen2_vl":
        cls = transformers.Qwen2VLConfig
        vision |= {"embed_dim": 32, "hidden_size": HIDDEN, "mlp_ratio": 2}
    elif variant == "qwen2_5_vl":
        cls = transformers.Qwen2_5_VLConfig
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48}
        vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    else:
        cls = transformers.Qwen3VLConfig
        vision |= {"hidden_size": 32, "out_hidden_size": HIDDEN, "intermediate_size": 48, "depth": 3}
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        text |= {"head_dim": HEAD_SIZE, "rope_scaling": rope | {"mrope_section": [4, 2, 2], "mrope_interleaved": True}}
    return cls(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )


def _weights(name: str, parameter: Tensor, seed: int) -> Tensor:
    """Random values of a size at which attention is neither flat nor one-hot and every token counts.

    Seeded by name, so that the order of the parameters does not matter, nor the version of transformers.
    """
    generator = torch.Generator().manual_seed(zlib.crc32(name.replace("vision_model.", "").encode()) + seed)
    noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if parameter.ndim == 1:
        if name.endswith("bias"):
            return 0.1 * noise
        if "newline" in name:
            return noise
        if name.endswith("weight"):  # of a norm; Qwen3's norms of queries and keys set the scale of the logits
            return (1.5 if name.endswith(("q_norm.weight", "k_norm.weight")) else 1.0) + 0.1 * noise
        return 0.3 + 0.1 * noise  # class embedding, layer scale
    if "position_embedding" in name or "pos_embed" in name or name.endswith("cls_token"):
        return 0.1 * noise  # small: like patches should become like tokens
    if name.endswith("embed_tokens.weight"):
        return noise
    gain = 1.5 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.2
    return gain * noise / (parameter.numel() / parameter.shape[0]) ** 0.5


def build(
    variant: str, *, dtype: torch.dtype = torch.float64, attn_implementation="sdpa", seed: int = 0, layers: int = 6
) -> torch.nn.Module:
    """A model in eval mode. The same arguments give the same weights; it never stops generating by itself."""
    config = _configuration(variant, layers)
    cls = getattr(transformers, CLASSES.get(variant, "InternVLForConditionalGeneration"))
    model = cls._from_config(config, attn_implementation=attn_implementation).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_weights(name, parameter, seed))
        model.lm_head.weight[[PAD, BOS, *range(IMAGE, VOCABULARY)]] = 0  # never the largest logit: only words come out
    model.requires_grad_(False)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=None, do_sample=False
    )
    return model


def generate(model, inputs: dict[str, Tensor], steps: int, **arguments) -> tuple[Tensor, Tensor]:
    """Logits ``[B, steps, V]`` and tokens ``[B, steps]`` of ``model.generate``. (The logits that `generate` itself
    returns are rounded to float32.)"""
    logits = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: logits.append(output[:, -1]))
    try:
        ids = model.generate(**inputs, max_new_tokens=steps, **arguments)
    finally:
        hook.remove()
    return torch.stack(logits, dim=1), ids[:, -steps:]


# --- Prompts ------------------------------------------------------------------------------------------------


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(WORDS.start, WORDS.stop, (count,), generator=generator).tolist()


def _runs(ids: Tensor) -> list[int]:
    """How many tokens each image of a row has; text stands between any two."""
    return [len(run) for run in "".join(".#"[token == IMAGE] for token in ids.tolist()).split(".") if run]


def _placeholders(family: str, image: pictures.Image) -> list[int]:
    """Qwen finds an image by the token before it."""
    ids = [IMAGE] * image.tokens
    return [VISION_START, *ids, VISION_END] if family.startswith("qwen") else ids


def _finish(family: str, rows: list[list[int]], images: list[pictures.Image], dtype: torch.dtype) -> dict[str, Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), **pictures.as_inputs(family, images, dtype)}
    if family.startswith("qwen") and VERSION >= (5, 0):  # transformers 4 refuses what it does not know
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    return inputs


def inputs(
    model, batch: int = 1, seed: int = 0, *, text_only_row: bool = False, text_only: bool = False
) -> dict[str, Tensor]:
    """A prompt for ``model(**inputs)`` and ``model.generate(**inputs)``; shorter rows are padded on the left.

    The first row holds two images with text before, between and after; the second one image, of another size where
    the family has sizes. A row is the same in any batch.

    Args:
        text_only_row: the last row has no image.
        text_only: no row has one.
    """
    family = model.config.model_type
    rows, images = [], []
    for index in range(batch):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        row = [BOS, *_words(7 - index % 2, generator)]
        sizes = [] if text_only or (text_only_row and index == batch - 1) else pictures.SIZES[family][index % 2]
        for number, size in enumerate(sizes):
            image = pictures.picture(family, *size, generator)
            row += (_words(3, generator) if number else []) + _placeholders(family, image)
            images.append(image)
        rows.append(row + _words(8 - 2 * (index % 2), generator))
    return _finish(family, rows, images, model.dtype)


def more(
    model, inputs: dict[str, Tensor], generated: Tensor, *, image: bool = False, seed: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The next turn of a conversation: `inputs`, the ids ``[B, k]`` generated from them, new text, and in it a new
    image when asked for.

    Returns:
        whole: the conversation in one piece, for a model without a cache.
        turn: only what is new, for ``model(**turn, past_key_values=cache)`` where the cache is what `generate` left
            (without the last generated token). Its positions are explicit; its attention_mask spans everything.
    """
    family = model.config.model_type
    runs = [_runs(ids) for ids in inputs["input_ids"]]
    before = iter(pictures.split(family, inputs, list(itertools.chain(*runs))))
    rows, images, added = [], [], []
    for index, own in enumerate(runs):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        row = _words(6, generator)
        images += itertools.islice(before, len(own))
        if image:
            size = pictures.SIZES[family][1][0]  # the same in every row: nothing to pad inside
            added.append(pictures.picture(family, *size, generator))
            images.append(added[-1])
            row += _placeholders(family, added[-1]) + _words(5, generator)
        rows.append(inputs["input_ids"][index].tolist() + generated[index].tolist() + row)

    whole = _finish(family, rows, images, model.dtype)
    past = inputs["input_ids"].shape[1] + generated.shape[1] - 1
    turn = {
        "input_ids": whole["input_ids"][:, past:],
        "attention_mask": whole["attention_mask"],
        "position_ids": positions(model, whole)[..., past:],
        **pictures.as_inputs(family, added, model.dtype),
    }
    if "mm_token_type_ids" in whole:
        turn["mm_token_type_ids"] = whole["mm_token_type_ids"][:, past:]
    return whole, turn


def has_grids(inputs: dict[str, Tensor]) -> bool:
    """Whether positions have three axes."""
    return "image_grid_thw" in inputs or "video_grid_thw" in inputs


def positions(model, inputs: dict[str, Tensor]) -> Tensor:
    """Position ids as `generate` counts them, padding left out: ``[B, N]``, for Qwen with images ``[3, B, N]``."""
    if has_grids(inputs):
        names = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw", "mm_token_type_ids")
        return model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})[0]
    mask = inputs["attention_mask"]
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
