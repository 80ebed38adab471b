"""Which attention a reduced model runs: the fused route without a dense mask, and FlashAttention's by its own name."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig
from pact_ext.models import interface

LAYER, LAYERS, STEPS = 3, 6, 4
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)


@pytest.fixture
def calls(monkeypatch):
    """Counts the fused calls, and the queries of every dense mask."""
    seen = {"fused": 0, "masks": []}

    def fused(*args, **kwargs):
        seen["fused"] += 1
        return pact_ext.attention.proportional_attention(*args, **kwargs)

    def mask(log_sizes, queries, *args, **kwargs):
        seen["masks"].append(queries)
        return pact_ext.attention.dense_mask(log_sizes, queries, *args, **kwargs)

    monkeypatch.setattr(interface, "proportional_attention", fused)
    monkeypatch.setattr(interface, "dense_mask", mask)
    return seen


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_route_that_is_chosen(implementation, calls):
    model = tiny.build("llava", attn_implementation=implementation, dtype=torch.float32)
    inputs = tiny.inputs(model, 1)  # with padding, the steps have a mask already
    with pact_ext.apply(model, CONFIG) as handle:
        tiny.generate(model, inputs, STEPS)
        layers = model.get_decoder().layers
        names = [layer.self_attn.config._attn_implementation for layer in layers]
        assert model.get_decoder().config._attn_implementation == implementation
    if implementation == "eager":
        assert handle.attention == "dense"
        assert names == LAYERS * ["eager"]
        assert calls == {"fused": 0, "masks": []}  # the mask is made once a call, by the pass itself
    else:
        assert handle.attention == "fused"
        assert names == LAYER * ["sdpa"] + (LAYERS - LAYER) * ["pact_sdpa"]
        assert calls["fused"] == LAYERS - LAYER  # the prompt in every layer from the reduction on
        assert calls["masks"] == (STEPS - 1) * [1]  # one row a step, shared by the layers


def test_nothing_to_weigh_takes_the_stock_route(calls):
    model = tiny.build("llava")
    with pact_ext.apply(model, PactConfig(cluster=False, prune_ratio=0.0, layer=LAYER)):
        tiny.generate(model, tiny.inputs(model, 1), STEPS)
    assert calls == {"fused": 0, "masks": []}


def test_layers_from_the_reduction_on_get_no_position_ids():
    """To FlashAttention their gaps would mean several sequences in one row."""
    model = tiny.build("qwen2_vl")
    seen = []
    with pact_ext.apply(model, CONFIG):
        for layer in model.get_decoder().layers:
            layer.self_attn.register_forward_pre_hook(
                lambda module, args, kwargs: seen.append(kwargs["position_ids"] is None), with_kwargs=True
            )
        tiny.generate(model, tiny.inputs(model, 1), 2)
    assert seen == 2 * (LAYER * [False] + (LAYERS - LAYER) * [True])


def flash_attn_func(q, k, v, *, softmax_scale, causal):
    n, queries = k.shape[1], q.shape[1]
    mask = torch.ones(queries, n, dtype=torch.bool).tril(n - queries) if causal else None
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=softmax_scale, enable_gqa=True).transpose(1, 2)


@pytest.fixture
def flash(monkeypatch):
    """Stand-ins for the flash-attn package and for transformers' integration of it: both need a card."""
    names = []

    def integration(module, query, key, value, attention_mask, scaling=None, **kwargs):
        names.append(module.config._attn_implementation)
        n, queries = key.shape[2], query.shape[2]
        mask = torch.ones(queries, n, dtype=torch.bool).tril(n - queries)
        if attention_mask is not None:  # [B, n], as FlashAttention gets it
            mask = mask & attention_mask[:, None, None].bool() | torch.eye(n, dtype=torch.bool)[-queries:]
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_func=flash_attn_func))
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", integration)
    return names


@pytest.mark.parametrize("variant", ["llava", "llava_onevision", "qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("batch", [1, 2])
def test_flash_attention(variant, batch, flash, calls):
    model = tiny.build(variant)
    inputs = tiny.inputs(model, batch)
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with pact_ext.apply(model, CONFIG):
        logits, same = tiny.generate(model, inputs, STEPS)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12
    assert calls["fused"] == LAYERS - LAYER
    assert len(flash) == STEPS * LAYER  # the layers before the reduction, in every step
    assert set(flash) == {"flash_attention_2"}


def test_flash_attention_without_images(flash):
    """It finds its library by the configuration's name, in layers that could be handed sizes too."""
    model = tiny.build("llava")
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    inputs = tiny.inputs(model, 1, text_only=True)
    expected = model(**inputs).logits
    with pact_ext.apply(model, CONFIG):
        assert torch.equal(model(**inputs).logits, expected)
    assert flash == 2 * LAYERS * ["flash_attention_2"]


def test_flash_attention_with_nothing_to_weigh(flash):
    """In a second turn a fused kernel's causal flag would align the first query with the first key."""
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    words = torch.tensor([[5, 6, 7]])
    expected = model(**{**inputs, "input_ids": torch.cat([inputs["input_ids"], words], 1), "attention_mask": None})
    model.get_decoder().config._attn_implementation = "flash_attention_2"
    with pact_ext.apply(model, PactConfig(cluster=False, prune_ratio=0.0, layer=LAYER)):
        cache = model(**inputs, use_cache=True).past_key_values
        logits = model(input_ids=words, past_key_values=cache).logits
    assert (logits - expected.logits[:, -3:]).abs().max() < 1e-12


@pytest.mark.parametrize("attention", ["fused", "dense"])
def test_a_scale_of_the_models_own(attention):
    model = tiny.build("llava")
    for layer in model.get_decoder().layers:
        layer.self_attn.scaling = 0.4
    inputs = tiny.inputs(model, 2)
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    with pact_ext.apply(model, CONFIG, attention=attention):
        logits, same = tiny.generate(model, inputs, STEPS)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12
