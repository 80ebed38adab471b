"""Handles that are dropped, found again, copied and saved; caches that outlive a process or their handle."""

from __future__ import annotations

import copy
import functools
import gc
import io
import pickle
import subprocess
import sys
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
STEP = {"input_ids": torch.tensor([[5]]), "attention_mask": None}

build = functools.cache(tiny.build)


class Wrapped(torch.nn.Module):
    """As PEFT's models are built: the stock model two attributes down, and `get_base_model` to ask for it."""

    def __init__(self, model):
        super().__init__()
        self.base_model = torch.nn.Module()
        self.base_model.model = model

    def get_base_model(self):
        return self.base_model.model

    def forward(self, *args, **kwargs):
        return self.base_model.model(*args, **kwargs)


# --- Handles ------------------------------------------------------------------------------------------------


def test_a_handle_is_found_again():
    model = tiny.build("llava")
    wrapped = Wrapped(model).eval()
    inputs = tiny.inputs(model, 1)
    stock = model(**inputs).logits
    assert pact_ext.handle_of(model) is None
    for given in (model, model.model, wrapped, torch.compile(model)):
        handle = pact_ext.apply(given, CONFIG)
        for asked in (model, model.model, wrapped):
            assert pact_ext.handle_of(asked) is handle
            with pytest.raises(RuntimeError, match="reduced already"):
                pact_ext.apply(asked, CONFIG)
        reduced = wrapped(**inputs).logits
        with pytest.raises(RuntimeError, match="labels were given"):
            wrapped(**inputs, labels=inputs["input_ids"])
        last = handle.last
        del handle
        assert torch.equal(model(**inputs).logits, reduced)  # kept or not
        assert last is not pact_ext.handle_of(wrapped).last
        pact_ext.remove(wrapped if given is model else model)
        assert pact_ext.handle_of(given) is None
        assert torch.equal(model(**inputs).logits, stock)
    pact_ext.remove(model)  # once more does nothing
    for function in (pact_ext.handle_of, pact_ext.remove):
        with pytest.raises(TypeError, match="must be a torch.nn.Module, got str"):
            function("llava")


def test_a_model_that_goes_without_its_handle_being_removed():
    model = tiny.build("llava")
    twin = type(model)(model.config).double().eval().requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    inputs = tiny.inputs(model, 2)
    stock = twin(**inputs).logits
    pact_ext.apply(model, CONFIG)
    model(**inputs)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert twin.get_decoder().config._attn_implementation == "sdpa"
    assert torch.equal(twin(**inputs).logits, stock)
    pact_ext.apply(twin, CONFIG).remove()
    assert torch.equal(twin(**inputs).logits, stock)


def test_attention_that_the_user_has_set_stays():
    model = tiny.build("llava")
    attention = model.get_decoder().layers[LAYER].self_attn
    with pact_ext.apply(model, CONFIG):
        model.set_attn_implementation("eager")
        with pytest.raises(RuntimeError, match="changed to 'eager' after pact_ext.apply, which found 'sdpa'"):
            model(**tiny.inputs(model, 1))
    assert model.get_decoder().config._attn_implementation == "eager"
    assert attention.config is model.get_decoder().config


# --- Copies -------------------------------------------------------------------------------------------------


def test_a_copy_has_a_handle_of_its_own():
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    stock = model(**inputs).logits
    handle = pact_ext.apply(model, CONFIG)
    out = model(**inputs, use_cache=True)
    twin, copied = copy.deepcopy((model, handle))
    assert copied is pact_ext.handle_of(twin)
    assert copied is not handle
    assert copied.last == []
    assert torch.equal(twin(**inputs).logits, out.logits)
    with pytest.raises(RuntimeError, match="reduced already"):
        pact_ext.apply(twin, CONFIG)
    with pytest.raises(RuntimeError, match="reduced by another handle"):
        twin(**STEP, past_key_values=out.past_key_values)
    copied.remove()
    assert torch.equal(twin(**inputs).logits, stock)
    assert torch.equal(model(**inputs).logits, out.logits)
    assert handle.active
    assert model(**STEP, past_key_values=out.past_key_values).logits.shape[1] == 1


def test_a_copy_of_a_part_brings_nothing_but_the_part():
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    decoder, layer = model.get_decoder(), model.get_decoder().layers[LAYER]
    expected, size = decoder(inputs_embeds=embeds).last_hidden_state, len(pickle.dumps(layer))
    with pact_ext.apply(model, CONFIG):
        assert len(pickle.dumps(layer)) < size + 20_000  # hooks; the rest of the model is more
        part = copy.deepcopy(decoder)
        with pytest.raises(RuntimeError, match="decoder was called by itself"):
            part(inputs_embeds=embeds)
        pact_ext.remove(part)
        assert torch.equal(part(inputs_embeds=embeds).last_hidden_state, expected)
        with pytest.raises(RuntimeError, match="decoder was called by itself"):
            decoder(inputs_embeds=embeds)


def test_saving_with_torch_saves_a_reduced_model(tmp_path):
    """In another process it is reduced and continues its caches; here they are the original's."""
    model = tiny.build("internvl")  # LLaVA, loaded so, does not find its vision tower's outputs in transformers 5
    inputs = tiny.inputs(model, 1)
    saved = {"inputs": inputs}
    with pact_ext.apply(model, CONFIG) as handle:
        torch.save(model, tmp_path / "model.pt")  # first: a model of transformers 5 that was called cannot be saved
        with handle.off():
            saved["stock"] = model(**inputs).logits
        out = model(**inputs, use_cache=True)
        saved |= {"cache": out.past_key_values, "reduced": out.logits}
        saved["next"] = model(**STEP, past_key_values=copy.deepcopy(out.past_key_values)).logits
        torch.save(saved, tmp_path / "saved.pt")
        with pytest.raises(RuntimeError, match="reduced by another handle"):
            torch.load(tmp_path / "model.pt", weights_only=False)(**STEP, past_key_values=out.past_key_values)
    code = f"""
import torch
model, saved = (torch.load({str(tmp_path)!r} + name, weights_only=False) for name in ("/model.pt", "/saved.pt"))
inputs = saved["inputs"]
step = model(input_ids=torch.tensor([[5]]), past_key_values=saved["cache"]).logits
assert torch.equal(model(**inputs).logits, saved["reduced"])
assert torch.equal(step, saved["next"])
import pact_ext
pact_ext.handle_of(model).remove()
assert torch.equal(model(**inputs).logits, saved["stock"])
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_saved_checkpoint_knows_nothing_of_a_reduction(tmp_path):
    model = tiny.build("qwen2_vl", dtype=torch.float32)
    with pact_ext.apply(model, CONFIG):
        model.save_pretrained(tmp_path / "reduced")
    model.save_pretrained(tmp_path / "stock")
    files = {path.name for path in (tmp_path / "stock").iterdir()}
    assert "config.json" in files
    for name in files:
        assert (tmp_path / "reduced" / name).read_bytes() == (tmp_path / "stock" / name).read_bytes()


# --- Caches -------------------------------------------------------------------------------------------------


def through_torch_save(cache):
    file = io.BytesIO()
    torch.save(cache, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [through_torch_save, copy.deepcopy])
def test_a_copy_of_a_cache_goes_on_as_long_as_the_handle_lives(copied):
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    step = {"input_ids": torch.tensor([[5], [6]])}
    step["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    with pact_ext.apply(model, CONFIG) as handle:
        cache = model(**inputs, use_cache=True).past_key_values
        again = copied(cache)
        assert isinstance(again, transformers.DynamicCache)
        logits = model(**step, past_key_values=again).logits
        assert torch.equal(logits, model(**step, past_key_values=cache).logits)
        assert again.stages[-1].count == cache.stages[-1].count
        saved = pickle.dumps(again)
    del handle
    with pytest.raises(RuntimeError, match="reduced by a handle that has been removed, or that another process has"):
        model(input_ids=step["input_ids"], past_key_values=pickle.loads(saved))
    with pact_ext.apply(model, CONFIG), pytest.raises(RuntimeError, match="handle that has been removed"):
        model(input_ids=step["input_ids"], past_key_values=pickle.loads(saved))


@pytest.mark.parametrize("layer", [0, LAYER])
def test_a_cache_given_to_another_model(layer):
    model = build("llava")
    stock, reduced = tiny.build("llava"), tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    config = PactConfig(dc=0.25, layer=layer)
    with pact_ext.apply(model, config), pact_ext.apply(reduced, config):
        cache = model(**inputs, use_cache=True).past_key_values
        expected = model(**STEP, past_key_values=copy.deepcopy(cache)).logits
        for other in (stock, reduced):
            with pytest.raises(RuntimeError, match="reduced by another handle, or by one that is off"):
                other(**STEP, past_key_values=cache)
        assert torch.equal(model(**STEP, past_key_values=cache).logits, expected)  # nothing was written to it
