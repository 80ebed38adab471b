"""On a card transformers compiles the steps of a generation over a static cache, with CUDA graphs; a minute of it."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch

import pact_ext
from models import tiny
from models.cards import build, card_of


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_a_static_cache_is_compiled_over(variant, monkeypatch):
    with card_of("cuda", monkeypatch) as card:
        torch._dynamo.reset()
        model = card.put(build(variant, dtype=torch.float32))
        inputs = card.put(tiny.inputs(model, 2))
        with pact_ext.apply(model, "pact:layer=3;dc=0.6"):
            expected = model.generate(**inputs, max_new_tokens=8)
            compiled = [
                model.generate(**inputs, max_new_tokens=8, cache_implementation="static").clone() for _ in range(2)
            ]
        assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
        assert all(torch.equal(one, expected) for one in compiled)
