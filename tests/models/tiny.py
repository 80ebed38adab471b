"""Tiny randomly initialised models of every family, and inputs for them. Nothing is downloaded."""

from __future__ import annotations

import itertools
import re
import zlib

import torch
import transformers
from torch import Tensor

from models import pictures
from models.configurations import (
    BOS,
    CLASSES,
    CLOSE,
    IMAGE,
    PAD,
    TILES,
    VIDEO,
    VISION_END,
    VISION_START,
    VOCABULARY,
    WHOLE,
    WORDS,
    configuration,
)

KINDS = ("llava", "llava_next", "llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The families that stand for all of them in what no family does by itself."""

FAMILIES = (*KINDS, "qwen3_vl_moe", "glm4v", "glm4v_moe", "idefics3", "smolvlm", "aya_vision")
"""The `model_type` of each family's configuration."""

VARIANTS = (*FAMILIES, "internvl_qwen3")
"""What `build` knows: the families, and InternVL over a Qwen3 decoder."""

OTHERS = tuple(variant for variant in VARIANTS if variant not in KINDS)

VERSION = tuple(int(part) for part in transformers.__version__.split(".")[:2])


# --- Models -------------------------------------------------------------------------------------------------


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
    if ".experts." in name:
        return noise / parameter.shape[-1] ** 0.5
    gain = 1.5 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.2
    return gain * noise / (parameter.numel() / parameter.shape[0]) ** 0.5


def build(
    variant: str, *, dtype: torch.dtype | None = None, attn_implementation="sdpa", seed: int = 0, layers: int = 6
) -> torch.nn.Module:
    """A model in eval mode. The same arguments give the same weights; it never stops generating by itself.

    Args:
        dtype: default float64, but float32 for GLM's experts, which take float32 weights whatever the dtype.
    """
    dtype = dtype or (torch.float32 if variant == "glm4v_moe" else torch.float64)
    config = configuration(variant, layers)
    cls = getattr(transformers, CLASSES[variant] + "ForConditionalGeneration")
    # The fused products of experts, from transformers 5 on, know no float64.
    experts = {"experts_implementation": "eager"} if variant.endswith("_moe") and VERSION >= (5, 0) else {}
    model = cls._from_config(config, attn_implementation=attn_implementation, **experts).to(dtype).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_weights(name, parameter, seed))
        model.lm_head.weight[[PAD, BOS, *range(IMAGE, VOCABULARY)]] = 0  # never the largest logit: only words come out
    model.requires_grad_(False)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=BOS, pad_token_id=PAD, eos_token_id=None, do_sample=False
    )
    return model


def decoder(model) -> torch.nn.Module:
    """The language model. (`get_decoder` finds none in Idefics3 up to transformers 4.)"""
    return getattr(model.model, "text_model", None) or model.get_decoder()


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


def image_tokens(ids: Tensor) -> list[list[int]]:
    """How many tokens each image or video of each row has: a run, or all tiles up to the one that shows the whole."""
    picture = re.compile(r"(?:#[#.]*)?w\.?#+" if (ids == WHOLE).any() else r"#+|\++")
    signs = {IMAGE: "#", VIDEO: "+", WHOLE: "w"}
    rows = ["".join(signs.get(token, ".") for token in row) for row in ids.tolist()]
    return [[len(found) - found.count(".") - found.count("w") for found in picture.findall(row)] for row in rows]


def _placeholders(family: str, image: pictures.Image) -> list[int]:
    """Qwen finds an image by the token before it; tiles are told apart by theirs."""
    if family in pictures.TILED:
        before = [VISION_START] if family != "aya_vision" else []
        after = [CLOSE] if family == "idefics3" else []
        tags = [*TILES[: image.tokens // 16 - 1], WHOLE]
        return [token for tag in tags for token in [*before, tag, *after, *[IMAGE] * 16]] + [VISION_END]
    ids = [IMAGE] * image.tokens
    return [VISION_START, *ids, VISION_END] if family in pictures.GRIDS else ids


def _finish(
    family: str, rows: list[list[int]], images: list[list[pictures.Image]], dtype: torch.dtype
) -> dict[str, Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    inputs = {"input_ids": ids, "attention_mask": (ids != PAD).long(), **pictures.as_inputs(family, images, dtype)}
    if family in pictures.GRIDS and VERSION >= (5, 0):  # transformers 4 refuses what it does not know
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    return inputs


def inputs(
    model,
    batch: int = 1,
    seed: int = 0,
    *,
    text_only_row: bool = False,
    text_only: bool = False,
    counts: list[int] | None = None,
) -> dict[str, Tensor]:
    """A prompt for ``model(**inputs)`` and ``model.generate(**inputs)``; shorter rows are padded on the left.

    The first row holds two images with text before, between and after; the second one image, of another size where
    the family has sizes. A row is the same in any batch.

    Args:
        text_only_row: the last row has no image.
        text_only: no row has one.
        counts: how many images each row has, in place of all that.
    """
    family = model.config.model_type
    rows, images = [], []
    for index in range(batch):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        row = [BOS, *_words(7 - index % 2, generator)]
        sizes = [] if text_only or (text_only_row and index == batch - 1) else pictures.SIZES[family][index % 2]
        if counts is not None:
            sizes = itertools.islice(itertools.cycle(pictures.SIZES[family][index % 2]), counts[index])
        images.append([])
        for number, size in enumerate(sizes):
            image = pictures.picture(family, *size, generator)
            row += (_words(3, generator) if number else []) + _placeholders(family, image)
            images[-1].append(image)
        rows.append(row + _words(8 - 2 * (index % 2), generator))
    return _finish(family, rows, images, model.dtype)


def more(
    model, inputs: dict[str, Tensor], generated: Tensor, *, image: bool = False, seed: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The next turn of a conversation: `inputs`, the ids ``[B, k]`` generated from them, new text, and in it a new
    image when asked for. For families without tiles told apart by text.

    Returns:
        whole: the conversation in one piece, for a model without a cache.
        turn: only what is new, for ``model(**turn, past_key_values=cache)`` where the cache is what `generate` left
            (without the last generated token). Its positions are explicit; its attention_mask spans everything.
    """
    family = model.config.model_type
    counts = image_tokens(inputs["input_ids"])
    before = iter(pictures.split(family, inputs, list(itertools.chain(*counts))))
    rows, images, added = [], [], []
    for index, own in enumerate(counts):
        generator = torch.Generator().manual_seed(1000 * seed + index)
        row = _words(6, generator)
        images.append(list(itertools.islice(before, len(own))))
        if image:
            size = pictures.SIZES[family][1][0]  # the same in every row: nothing to pad inside
            added.append([pictures.picture(family, *size, generator)])
            images[-1] += added[-1]
            row += _placeholders(family, *added[-1]) + _words(5, generator)
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
    """Position ids as `generate` counts them, padding left out: ``[B, N]``, or ``[3, B, N]`` beside a grid."""
    if has_grids(inputs):
        names = ("input_ids", "attention_mask", "image_grid_thw", "video_grid_thw", "mm_token_type_ids")
        return model.model.get_rope_index(**{name: inputs[name] for name in names if name in inputs})[0]
    mask = inputs["attention_mask"]
    return (mask.cumsum(-1) - 1).masked_fill(mask == 0, 0)
