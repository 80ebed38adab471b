"""The handle: it leaves nothing behind, knows its models apart, and refuses loudly what it cannot do."""

from __future__ import annotations

import functools
import gc
import threading
import weakref

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import transformers

import pact_ext
from models import tiny
from pact_ext import PactConfig

LAYER = 3
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)

build = functools.cache(tiny.build)


def state(model):
    """Everything that a module could keep: hooks, attributes, parameters by identity, configuration."""
    modules = {}
    for name, module in model.named_modules():
        kept = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        hooks = [len(value) for key, value in vars(module).items() if "hooks" in key and hasattr(value, "__len__")]
        modules[name] = {key: id(value) for key, value in kept.items()}, hooks, "forward" in vars(module)
    parameters = {name: (parameter.data_ptr(), parameter._version) for name, parameter in model.named_parameters()}
    return modules, parameters, model.config.to_json_string(), model.get_decoder().config._attn_implementation


# --- Leaving ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("variant", tiny.KINDS)
def test_removal_leaves_nothing(variant, attention):
    model = tiny.build(variant)
    inputs = tiny.inputs(model, 2)
    logits = model(**inputs, use_cache=False).logits  # first: models remember rope_deltas by themselves
    before = state(model)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        assert handle.active
        model.generate(**inputs, max_new_tokens=3)
        if hasattr(model.model, "rope_deltas"):
            model(**inputs, use_cache=False)
    after = state(model)
    for kind in (before, after):
        kind[0]["model"][0].pop("rope_deltas", None)
    assert after == before
    assert torch.equal(model(**inputs, use_cache=False).logits, logits)
    assert not handle.active
    handle.remove()  # once more does nothing
    assert state(model)[0]["model"][1:] == before[0]["model"][1:]


def test_removal_after_an_error_in_the_middle():
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    expected = model(**inputs).logits

    def fail(module, args):
        raise KeyError("stop")

    with pact_ext.apply(model, CONFIG) as handle:
        hook = model.get_decoder().layers[-1].register_forward_pre_hook(fail)
        with pytest.raises(KeyError):
            model(**inputs)
        hook.remove()
        assert not handle._hooks.in_call
        reduced = model(**inputs).logits
        assert reduced.shape[1] < expected.shape[1]
    assert torch.equal(model(**inputs).logits, expected)


def test_a_removed_handle_and_its_model_can_be_freed():
    model = tiny.build("llava")
    with pact_ext.apply(model, CONFIG) as handle:
        cache = model(**tiny.inputs(model, 1), use_cache=True).past_key_values
    gone = weakref.ref(model), weakref.ref(handle)
    del model, handle
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert cache.stages[-1].count > 0  # a cache that is kept holds neither


def test_applying_again_after_removal_and_with_another_config():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    counts = []
    for ratio in (0.0, 0.9, 0.0):
        with pact_ext.apply(model, PactConfig(cluster=False, prune_ratio=ratio, layer=LAYER)) as handle:
            model(**inputs)
            counts.append(handle.last[0].n_out)
    assert counts[0] == counts[2] == 50
    assert counts[1] < 10


# --- Several models -----------------------------------------------------------------------------------------


def test_two_models_at_once():
    models = [tiny.build("llava"), tiny.build("qwen2_vl")]
    configs = [CONFIG, PactConfig(cluster=False, prune_ratio=0.5, layer=2)]
    inputs = [tiny.inputs(model, 2) for model in models]
    alone = []
    for model, config, given in zip(models, configs, inputs, strict=True):
        with pact_ext.apply(model, config):
            alone.append(tiny.generate(model, given, 4)[0])
    with pact_ext.apply(models[0], configs[0]) as one, pact_ext.apply(models[1], configs[1]) as two:
        together = [tiny.generate(model, given, 4)[0] for model, given in zip(models, inputs, strict=True)]
        assert one.report().layer == LAYER
        assert two.report().layer == 2
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a, b)


def test_models_that_share_a_configuration():
    model = tiny.build("llava")
    twin = type(model)(model.config).double().eval().requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    assert twin.get_decoder().config is model.get_decoder().config
    inputs = tiny.inputs(model, 2)
    stock = model(**inputs).logits
    first = pact_ext.apply(model, CONFIG, attention="fused")
    reduced = model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, stock)  # not applied: not changed
    second = pact_ext.apply(twin, CONFIG, attention="fused")
    first.remove()
    assert torch.equal(twin(**inputs).logits, reduced)
    assert torch.equal(model(**inputs).logits, stock)
    second.remove()
    assert torch.equal(twin(**inputs).logits, stock)
    assert model.get_decoder().config._attn_implementation == "sdpa"


def test_threads_share_a_model():
    model = build("internvl")  # some stock models are not safe to share
    prompts = [tiny.inputs(model, 2, seed=seed) for seed in range(4)]
    with pact_ext.apply(model, CONFIG), torch.no_grad():
        expected = [model(**inputs).logits for inputs in prompts]
        got = {}

        def run(i):
            with torch.no_grad():
                got[i] = model(**prompts[i]).logits

        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(prompts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for i, logits in enumerate(expected):
        assert (got[i] - logits).abs().max() < 1e-12  # each Python thread has its own number of torch's


# --- Errors -------------------------------------------------------------------------------------------------


def test_a_model_of_no_known_family():
    config = transformers.LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    with pytest.raises(ValueError, match=r"known family \(.*llava, .*got LlamaForCausalLM of type 'llama'"):
        pact_ext.apply(transformers.LlamaForCausalLM(config))
    with pytest.raises(ValueError, match="got Linear of type None"):
        pact_ext.apply(torch.nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("implementation", "attention", "message"),
    [
        ("flex_attention", "auto", "one of sdpa, flash_attention_2 for attention='fused', got 'flex_attention'"),
        ("flex_attention", "dense", "one of eager, sdpa for attention='dense', got 'flex_attention'"),
        ("flash_attention_2", "dense", "got 'flash_attention_2', which would drop the sizes"),
        ("eager", "fused", "got 'eager', which would drop the sizes"),
        ("sdpa", "fast", "attention must be 'auto', 'dense' or 'fused', got 'fast'"),
    ],
)
def test_attention_that_would_drop_the_sizes(implementation, attention, message):
    model = tiny.build("llava")
    model.get_decoder().config._attn_implementation = implementation
    before = state(model)
    with pytest.raises(ValueError, match=message):
        pact_ext.apply(model, CONFIG, attention=attention)
    assert state(model) == before


def test_layers_that_cannot_be_reduced_at():
    with pytest.raises(ValueError, match=r"layer must be in 0 to 5 for this model, got 6"):
        pact_ext.apply(build("llava"), PactConfig(layer=6))
    with pytest.raises(ValueError, match=r"layer must be in 2 to 5 for this model, got 1; its layers before 2 add"):
        pact_ext.apply(build("qwen3_vl"), PactConfig(layer=1))
    model = tiny.build("llava_onevision")
    model.get_decoder().config.layer_types = 4 * ["full_attention"] + 2 * ["sliding_attention"]
    with pytest.raises(ValueError, match="must have full attention, got .*'sliding_attention'"):
        pact_ext.apply(model, CONFIG)
    model.get_decoder().config.layer_types = 3 * ["sliding_attention"] + 3 * ["full_attention"]
    pact_ext.apply(model, CONFIG).remove()  # windows before the reduction are windows still


def test_applying_twice():
    model = build("llava")
    with pact_ext.apply(model, CONFIG):
        with pytest.raises(RuntimeError, match="reduced already"):
            pact_ext.apply(model, CONFIG)
        with pytest.raises(RuntimeError, match="reduced already"):
            pact_ext.apply(model.model, CONFIG)  # the same without its head
        model(**tiny.inputs(model, 1))


def test_bad_arguments():
    with pytest.raises(ValueError, match="per_image must be True or False, got 'yes'"):
        pact_ext.apply(build("llava"), CONFIG, per_image="yes")
    with pytest.raises(ValueError, match="no preset named 'gpt'"):
        pact_ext.apply(build("llava"), "gpt")
    with pytest.raises(TypeError, match="config must be"):
        pact_ext.apply(build("llava"), 3)


def test_the_loss_of_experts_is_refused():
    """It pairs their choices with every token of the prompt's mask."""
    model = tiny.build("qwen3_vl_moe")
    inputs = tiny.inputs(model, 1)
    with pact_ext.apply(model, CONFIG):
        with pytest.raises(RuntimeError, match="pact_ext: output_router_logits was asked for"):
            model(**inputs, output_router_logits=True)
        model.config.text_config.output_router_logits = True
        with pytest.raises(RuntimeError, match="pact_ext: output_router_logits was asked for"):
            model(**inputs)
        model(**inputs, output_router_logits=False)


def test_calls_that_cannot_be_reduced():
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    with pact_ext.apply(model, CONFIG):
        with pytest.raises(RuntimeError, match="labels were given"):
            model(**inputs, labels=inputs["input_ids"])
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        with pytest.raises(RuntimeError, match="input_ids must be given"):
            model(inputs_embeds=embeds, attention_mask=inputs["attention_mask"])
        with pytest.raises(RuntimeError, match="decoder was called by itself"):
            model.get_decoder()(inputs_embeds=embeds)
        model.train()
        with pytest.raises(RuntimeError, match="training mode"):
            model(**inputs)


def test_a_mask_that_is_too_short():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    with pact_ext.apply(model, CONFIG):
        cache = model(**inputs, use_cache=True).past_key_values
        turn = {"input_ids": torch.tensor([[5, 6, 7]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
        with pytest.raises(RuntimeError, match="must be 72 long, for 69 tokens before this call and its 3, got 3"):
            model(**turn, past_key_values=cache)


def test_a_cache_changed_layer_by_layer():
    model = build("llava")
    with pact_ext.apply(model, CONFIG):
        cache = model(**tiny.inputs(model, 1), use_cache=True).past_key_values
        for layer in cache.layers:
            layer.keys, layer.values = layer.keys[:, :, :-1], layer.values[:, :, :-1]
        with pytest.raises(RuntimeError, match="through its own methods"):
            model(input_ids=torch.tensor([[5]]), past_key_values=cache)
