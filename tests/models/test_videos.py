"""Prompts with a video: all its frames, and the images beside it, are one pool."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig

LAYER, STEPS = 3, 5
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)

build = functools.cache(tiny.build)


def with_video(model) -> dict[str, Tensor]:
    """One row: the images of `tiny.inputs`, then a video of three pairs of frames (Qwen) or of four frames."""
    inputs = tiny.inputs(model, 1)
    generator = torch.Generator().manual_seed(7)
    if model.config.model_type == "llava_onevision":
        frames, tokens = 4, 4 * 4 + 1  # 3 x 3 tokens a frame, pooled to 2 x 2, and a newline at the end
        inputs["pixel_values_videos"] = torch.randn(1, frames, 3, 12, 12, generator=generator, dtype=torch.float64)
        ids = [tiny.VIDEO] * tokens
    else:
        grid, tokens = (3, 4, 6), 3 * 4 * 6 // 4
        inputs["pixel_values_videos"] = torch.randn(3 * 4 * 6, 96, generator=generator, dtype=torch.float64)
        inputs["video_grid_thw"] = torch.tensor([grid])
        ids = [tiny.VISION_START, *[tiny.VIDEO] * tokens, tiny.VISION_END]
    ids = torch.tensor([ids])
    added = torch.cat([ids, inputs["input_ids"][:, -5:]], dim=1)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], added], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if "mm_token_type_ids" in inputs:
        types = 2 * (added == tiny.VIDEO).int()
        inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], types], dim=1)
    return inputs


def test_a_video_alone():
    model = build("llava_onevision")
    inputs = with_video(model)
    image = inputs["input_ids"] == tiny.IMAGE
    inputs = {name: inputs[name][:, ~image[0]] for name in ("input_ids", "attention_mask")} | {
        "pixel_values_videos": inputs["pixel_values_videos"]
    }
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    with pact_ext.apply(model, CONFIG) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
    assert handle.last[0].n_in == 17
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("variant", ["llava_onevision", "qwen2_vl", "qwen2_5_vl"])
def test_video(variant, per_image, attention):
    model = build(variant)
    inputs = with_video(model)
    expected, tokens, rows = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS, per_image=per_image)
    with pact_ext.apply(model, CONFIG, per_image=per_image, attention=attention) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
    visual = (inputs["input_ids"] == tiny.IMAGE) | (inputs["input_ids"] == tiny.VIDEO)
    assert handle.last[0].n_in == int(visual.sum())
    assert torch.equal(handle.last[0].labels, rows[0].labels)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12
