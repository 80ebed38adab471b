"""Calls in which a reduced model is not reduced, and gradients, which end at a reduction."""

from __future__ import annotations

import copy
import functools
import threading

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import tiny
from pact_ext import PactConfig

LAYER = 3
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)

build = functools.cache(tiny.build)


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("variant", ["llava", "qwen3_vl"])
def test_off_is_the_model_as_it_was(variant, attention):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    stock, ids = model(**inputs).logits, model.generate(**inputs, max_new_tokens=3)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle, torch.no_grad():
        reduced = model(**inputs).logits
        model.generate(**inputs, max_new_tokens=3, cache_implementation="static")  # models keep such a cache
        last, columns = handle.last, handle.columns
        with handle.off():
            assert torch.equal(model(**inputs).logits, stock)
            assert torch.equal(model.generate(**inputs, max_new_tokens=3), ids)
            with pytest.raises(KeyError), handle.off():
                raise KeyError
            assert torch.equal(model(**inputs).logits, stock)  # the inner one ended
            assert torch.equal(model.generate(**inputs, max_new_tokens=3, cache_implementation="static"), ids)
            assert model(**inputs, labels=inputs["input_ids"]).loss > 0
            model.get_decoder()(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]))
        assert handle.last is last
        assert handle.columns is columns
        assert torch.equal(model(**inputs).logits, reduced)


def test_off_is_off_for_one_model_in_one_thread():
    model, other = build("internvl"), tiny.build("llava")
    inputs, others = tiny.inputs(model, 1), tiny.inputs(other, 1)
    got = []
    with pact_ext.apply(model, CONFIG) as handle, pact_ext.apply(other, CONFIG) as second:
        reduced, counted = model(**inputs).logits, other(**others).logits
        with handle.off():
            thread = threading.Thread(target=lambda: got.append(model(**inputs).logits))
            thread.start()
            thread.join()
            assert model(**inputs).logits.shape[1] > reduced.shape[1]
            assert torch.equal(other(**others).logits, counted)
            with second.off():
                assert model(**inputs).logits.shape[1] > reduced.shape[1]
                assert other(**others).logits.shape[1] > counted.shape[1]
            assert torch.equal(other(**others).logits, counted)
    assert got[0].shape == reduced.shape


@pytest.mark.parametrize("layer", [0, LAYER])
def test_a_reduced_cache_is_not_continued_while_off(layer):
    model = build("llava")
    inputs, step = tiny.inputs(model, 1), {"input_ids": torch.tensor([[5]])}
    with pact_ext.apply(model, PactConfig(dc=0.25, layer=layer)) as handle:
        cache = model(**inputs, use_cache=True).past_key_values
        expected = model(**step, past_key_values=copy.deepcopy(cache)).logits
        with handle.off(), pytest.raises(RuntimeError, match="or by one that is off"):
            model(**step, past_key_values=cache)
        assert torch.equal(model(**step, past_key_values=cache).logits, expected)


def test_gradients_come_to_the_reduction_and_no_further():
    model = tiny.build("llava", dtype=torch.float32)
    inputs = tiny.inputs(model, 1)
    decoder = model.get_decoder()
    with pact_ext.apply(model, CONFIG) as handle:
        expected = model(**inputs).logits
        decoder.layers[-1].requires_grad_(True)
        model(**inputs).logits.sum().backward()
        assert decoder.layers[-1].self_attn.q_proj.weight.grad.abs().sum() > 0
        model.requires_grad_(True)  # as every model is loaded
        logits = model(**inputs).logits
        assert torch.equal(logits, expected)
        (head,) = torch.autograd.grad(logits.sum(), model.lm_head.weight, retain_graph=True)
        assert head.abs().sum() > 0
        with pytest.raises(RuntimeError, match=r"pact_ext: backward\(\) came to a reduction .* handle.off\(\)"):
            logits.sum().backward()
        with handle.off():
            model(**inputs).logits.sum().backward()
        assert decoder.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
