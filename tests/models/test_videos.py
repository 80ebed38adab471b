"""Prompts with videos. All frames of one, and the images beside it, are one pool; apart, each video is one."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import oracle, tiny
from models.configurations import VIDEO_END, VIDEO_START
from pact_ext import PactConfig

LAYER, STEPS = 3, 4
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)

build = functools.cache(tiny.build)


def onevision(generator) -> tuple[list[int], dict[str, Tensor], list[int]]:
    """Two videos of four frames, side by side: 3 x 3 tokens a frame, pooled to 2 x 2, and a newline at the end."""
    pixels = torch.randn(2, 4, 3, 12, 12, generator=generator, dtype=torch.float64)
    return [tiny.VIDEO] * 34, {"pixel_values_videos": pixels}, [17, 17]


def qwen2(generator) -> tuple[list[int], dict[str, Tensor], list[int]]:
    """A video of three pairs of frames in one piece."""
    pixels = {"pixel_values_videos": torch.randn(72, 96, generator=generator, dtype=torch.float64)}
    grids = {"video_grid_thw": torch.tensor([(3, 4, 6)])}
    return [tiny.VISION_START, *[tiny.VIDEO] * 18, tiny.VISION_END], pixels | grids, [18]


def qwen3(generator) -> tuple[list[int], dict[str, Tensor], list[int]]:
    """The same with a time before each pair of frames."""
    _, given, tokens = qwen2(generator)
    return 3 * [tiny.WORDS[7], tiny.VISION_START, *[tiny.VIDEO] * 6, tiny.VISION_END], given, tokens


def glm(generator) -> tuple[list[int], dict[str, Tensor], list[int]]:
    """Two videos of image tokens, of two pairs of frames and of one, with a time after each."""
    pixels = {"pixel_values_videos": torch.randn(64, 96, generator=generator, dtype=torch.float64)}
    grids = {"video_grid_thw": torch.tensor([(2, 4, 6), (1, 4, 4)])}
    frames = [[tiny.VISION_START, *[tiny.IMAGE] * count, tiny.VISION_END, tiny.WORDS[7]] for count in (6, 6, 4)]
    ids = [VIDEO_START, *frames[0], *frames[1], VIDEO_END, tiny.WORDS[3], VIDEO_START, *frames[2], VIDEO_END]
    return ids, pixels | grids, [12, 4]


VIDEOS = {"llava_onevision": onevision, "qwen2_vl": qwen2, "qwen3_vl": qwen3, "glm4v": glm}


def with_video(model) -> tuple[dict[str, Tensor], list[int]]:
    """One row: the images of `tiny.inputs`, then videos; and how many tokens each of them has. GLM takes no images in
    a call with videos."""
    family = model.config.model_type
    ids, given, tokens = VIDEOS[family](torch.Generator().manual_seed(7))
    inputs = tiny.inputs(model, 1, text_only=family == "glm4v")
    added = torch.cat([torch.tensor([ids]), inputs["input_ids"][:, -5:]], dim=1)
    tokens = tiny.image_tokens(inputs["input_ids"])[0] + tokens
    if "mm_token_type_ids" in inputs:
        types = 2 * torch.isin(added, torch.tensor([tiny.VIDEO, tiny.IMAGE])).int()
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], types], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return inputs | given, tokens


def test_a_video_alone():
    model = build("llava_onevision")
    inputs, _ = with_video(model)
    image = inputs["input_ids"] == tiny.IMAGE
    inputs = {name: inputs[name][:, ~image[0]] for name in ("input_ids", "attention_mask")} | {
        "pixel_values_videos": inputs["pixel_values_videos"]
    }
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    with pact_ext.apply(model, CONFIG) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
    assert handle.last[0].n_in == 34
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("per_image", [False, True], ids=["pooled", "apart"])
@pytest.mark.parametrize("variant", VIDEOS)
def test_video(variant, per_image):
    model = build(variant)
    inputs, counts = with_video(model)
    apart = [counts] if per_image else None
    expected, tokens, (row,) = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS, apart=apart)
    with pact_ext.apply(model, CONFIG, per_image=per_image) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
        assert handle.last[0].n_in == sum(counts)
        assert torch.equal(handle.last[0].labels, row.labels)
        model(**inputs)  # with pixels, where `generate` brings features
        assert torch.equal(handle.last[0].labels, row.labels)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12
