"""Everything that generation does to a model and to its cache, on a reduced one."""

from __future__ import annotations

import copy
import dataclasses
import functools

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import transformers

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig

LAYER, STEPS = 3, 6
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)
KEEP = PactConfig(cluster=False, prune_ratio=0.0, layer=LAYER)
ATTENTION = pytest.mark.parametrize("attention", ["fused", "dense"])

build = functools.cache(tiny.build)


def greedy(model, inputs, cache, tokens):
    """Logits ``[B, len(tokens)]`` of a prompt and of all but the last of the tokens after it, one by one."""
    mask, positions = inputs["attention_mask"], tiny.positions(model, inputs)
    out = model(**inputs, position_ids=positions, past_key_values=cache, use_cache=True)
    logits, position = [out.logits[:, -1]], positions.amax(-1, keepdim=True)
    for step in range(tokens.shape[1] - 1):
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
        position = position.amax(0, keepdim=True).expand_as(position) + 1 if position.ndim == 3 else position + 1
        ids = tokens[:, step : step + 1]
        logits.append(
            model(input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache).logits[:, -1]
        )
    return torch.stack(logits, dim=1)


@ATTENTION
@pytest.mark.parametrize("variant", tiny.KINDS)
def test_static_cache(variant, attention):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        expected, tokens = tiny.generate(model, inputs, STEPS)
        assert handle.report().cache_bytes_saved > 0
        logits, same = tiny.generate(model, inputs, STEPS, cache_implementation="static")
        assert handle.report().cache_bytes_saved == 0  # all of it is there from the start
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@ATTENTION
def test_static_cache_with_nothing_reduced(attention):
    model = build("llava_onevision")
    inputs = tiny.inputs(model, 1)
    expected, tokens = tiny.generate(model, inputs, STEPS, cache_implementation="static")
    with pact_ext.apply(model, KEEP, attention=attention):
        logits, same = tiny.generate(model, inputs, STEPS, cache_implementation="static")
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@ATTENTION
def test_static_cache_used_again(attention):
    model = build("llava")
    cache = transformers.StaticCache(config=model.config, max_cache_len=100)
    prompts = [tiny.inputs(model, 1, seed=seed) for seed in (0, 1)]
    with pact_ext.apply(model, CONFIG, attention=attention):
        for inputs in prompts:
            expected, tokens = tiny.generate(model, inputs, STEPS)
            cache.reset()
            assert (greedy(model, inputs, cache, tokens) - expected).abs().max() < 1e-12


@ATTENTION
def test_static_cache_reduced_at_the_first_layer(attention):
    """Where the keys of the first row's padding are the first that a cache sees."""
    model = build("llava")
    inputs = tiny.inputs(model, 2, counts=[1, 2])
    assert not inputs["attention_mask"][0].all()
    with pact_ext.apply(model, dataclasses.replace(CONFIG, layer=0), attention=attention):
        expected, tokens = tiny.generate(model, inputs, 3)
        cache = transformers.StaticCache(config=model.config, max_cache_len=100)
        assert (greedy(model, inputs, cache, tokens) - expected).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_beam_search(variant, attention):
    if variant == "llava" and tiny.VERSION < (5, 0):
        pytest.skip("up to transformers 4, beams of a prompt with several images get each other's images")
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    beams = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": STEPS}
    with pact_ext.apply(model, CONFIG, attention=attention):
        ids = model.generate(**inputs, **beams)
        assert torch.equal(ids, model.generate(**inputs, **beams, use_cache=False))
    assert not torch.equal(ids, model.generate(**inputs, **beams))


@pytest.mark.parametrize("several", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_rows_are_counted_once_whatever_generate_makes_of_them(several):
    model = build("qwen2_vl")
    inputs = tiny.inputs(model, 2, text_only_row=True)
    with pact_ext.apply(model, CONFIG) as handle:
        model(**inputs)
        last, report = handle.last, handle.report()
        model.generate(**inputs, **several, max_new_tokens=2)
        assert handle.last is not last
        assert [row and row.labels.tolist() for row in handle.last] == [row and row.labels.tolist() for row in last]
        assert handle.report().visual_in == report.visual_in
        assert handle.report().visual_out == report.visual_out
        model(**{name: torch.cat([value, value]) for name, value in inputs.items()})
        assert len(handle.last) == 4  # the user's own


def test_sampling():
    model = build("internvl")
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG):
        ids = []
        for cache in (True, False):
            torch.manual_seed(3)
            ids.append(model.generate(**inputs, do_sample=True, max_new_tokens=STEPS, use_cache=cache))
    assert torch.equal(*ids)


@ATTENTION
@pytest.mark.parametrize("variant", ["llava", "llava_onevision", "qwen2_5_vl"])
def test_assisted_decoding_crops_what_it_rejects(variant, attention, monkeypatch):
    """The assistant is the model itself with other weights in its head, so that some of its guesses are rejected."""
    model, inputs = build(variant), None
    assistant = copy.deepcopy(model)
    with torch.no_grad():
        assistant.lm_head.weight += 0.5 * torch.randn_like(assistant.lm_head.weight)
    inputs = tiny.inputs(model, 1)
    crops = []
    crop = transformers.DynamicCache.crop
    monkeypatch.setattr(transformers.DynamicCache, "crop", lambda cache, n: (crops.append(n), crop(cache, n))[1])
    model.generation_config.eos_token_id = assistant.generation_config.eos_token_id = tiny.VOCABULARY - 1
    try:
        with pact_ext.apply(model, CONFIG, attention=attention):
            expected = model.generate(**inputs, max_new_tokens=20)
            ids = model.generate(**inputs, max_new_tokens=20, assistant_model=assistant)
    finally:
        model.generation_config.eos_token_id = None
    assert torch.equal(ids, expected)
    assert any(n < 0 for n in crops)


@ATTENTION
@pytest.mark.parametrize("variant", tiny.KINDS)
def test_a_second_turn_of_text(variant, attention):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG, attention=attention):
        out = model.generate(**inputs, max_new_tokens=STEPS, return_dict_in_generate=True)
        generated = out.sequences[:, -STEPS:]
        _, turn = tiny.more(model, inputs, generated)
        logits = model(**turn, past_key_values=out.past_key_values).logits
    new = turn["input_ids"][:, 1:]
    forced = torch.cat([generated, new], dim=1)
    expected, _, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, forced.shape[1], forced=forced)
    assert (logits[:, :-1] - expected[:, STEPS:]).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("variant", tiny.KINDS)
def test_a_second_turn_with_an_image(variant, attention):
    """With images apart, the reductions of two turns are those of the whole conversation."""
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG, attention=attention, per_image=True):
        out = model.generate(**inputs, max_new_tokens=STEPS, return_dict_in_generate=True)
        whole, turn = tiny.more(model, inputs, out.sequences[:, -STEPS:], image=True)
        cache = out.past_key_values
        first = model(**turn, past_key_values=cache).logits[:, -1]
        step = {"input_ids": first.argmax(-1, keepdim=True), "past_key_values": cache}
        step["attention_mask"] = torch.nn.functional.pad(whole["attention_mask"], (0, 1), value=1)
        last = turn["position_ids"].amax(-1, keepdim=True)
        step["position_ids"] = (last.amax(0, keepdim=True).expand_as(last) if last.ndim == 3 else last) + 1
        second = model(**step).logits[:, -1]
    apart = tiny.image_tokens(whole["input_ids"])
    expected, _, _ = oracle.masked_logits(model, whole, LAYER, CONFIG, 2, apart=apart)
    assert (torch.stack([first, second], dim=1) - expected).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("config", [CONFIG, KEEP], ids=["reduced", "kept"])
def test_a_second_turn_with_padding_inside(config, attention):
    """The second row says less in its second turn, so that its padding lies between two turns."""
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    if config is KEEP:  # and no other padding anywhere: two rows of one length
        inputs = tiny.inputs(model, 2, text_only=True)
        inputs = {name: inputs[name][:, -7:] for name in ("input_ids", "attention_mask")}
        image = tiny.inputs(model, 1, seed=5)
        start = int((image["input_ids"][0] == tiny.IMAGE).nonzero()[0])
        picture = image["input_ids"][:, start : start + 25].expand(2, -1)
        inputs["input_ids"] = torch.cat([inputs["input_ids"], picture, inputs["input_ids"][:, -3:]], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["pixel_values"] = image["pixel_values"]
    length = inputs["input_ids"].shape[1]
    words = torch.randint(tiny.WORDS.start, tiny.WORDS.stop, (2, 6), generator=torch.Generator().manual_seed(2))
    words[1, :4] = tiny.PAD
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], words], dim=1)}
    whole["attention_mask"] = torch.cat([inputs["attention_mask"], (words != tiny.PAD).long()], dim=1)
    positions = tiny.positions(model, whole)
    expected, tokens, _ = oracle.masked_logits(model, whole, LAYER, config, 2)
    with pact_ext.apply(model, config, attention=attention):
        cache = model(**inputs, position_ids=positions[:, :length], use_cache=True).past_key_values
        turn = {"input_ids": words, "attention_mask": whole["attention_mask"], "position_ids": positions[:, length:]}
        first = model(**turn, past_key_values=cache).logits[:, -1]
        step = {"input_ids": tokens[:, :1], "position_ids": positions[:, -1:] + 1}
        step["attention_mask"] = torch.nn.functional.pad(whole["attention_mask"], (0, 1), value=1)
        second = model(**step, past_key_values=cache).logits[:, -1]
    assert (torch.stack([first, second], dim=1) - expected).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("config", [CONFIG, KEEP], ids=["reduced", "kept"])
def test_decoding_after_padding_on_the_right(config, attention):
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    shift = int((inputs["attention_mask"][1] == 0).sum())
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.stack([inputs[name][0], inputs[name][1].roll(-shift)])
    length = inputs["input_ids"].shape[1]
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([[5], [6]])], dim=1)}
    whole["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    positions = tiny.positions(model, whole)
    expected, _, _ = oracle.masked_logits(model, whole, LAYER, config, 1)
    with pact_ext.apply(model, config, attention=attention):
        cache = model(**inputs, position_ids=positions[:, :length], use_cache=True).past_key_values
        step = {"input_ids": whole["input_ids"][:, length:], "position_ids": positions[:, length:]}
        logits = model(**step, attention_mask=whole["attention_mask"], past_key_values=cache).logits[:, -1]
    assert (logits - expected[:, 0]).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("layer", [0, LAYER])
def test_a_loop_that_leaves_positions_to_the_model(layer, attention):
    """Positions go on from the tokens seen, which a reduced cache has to remember."""
    model = build("llava_onevision")
    inputs = tiny.inputs(model, 1)
    config = PactConfig(prune_ratio=0.3, dc=0.25, layer=layer)
    expected, tokens, _ = oracle.masked_logits(model, inputs, layer, config, 4)
    with pact_ext.apply(model, config, attention=attention):
        out = model(**inputs, use_cache=True)
        logits = [out.logits[:, -1]]
        for step in range(3):
            ids = tokens[:, step : step + 1]
            logits.append(model(input_ids=ids, past_key_values=out.past_key_values).logits[:, -1])
        assert out.past_key_values.get_seq_length() == inputs["input_ids"].shape[1] + 3
    assert (torch.stack(logits, dim=1) - expected).abs().max() < 1e-12


@ATTENTION
@pytest.mark.parametrize("config", [CONFIG, KEEP], ids=["reduced", "kept"])
def test_an_image_after_a_prefix_that_was_cached_without_one(config, attention):
    """A system prompt cached before there was a handle, and copied for each conversation; padding in it too."""
    model = build("llava_onevision")
    inputs = tiny.inputs(model, 2)
    inputs["position_ids"] = tiny.positions(model, inputs)
    split = 5  # ahead of the first image; in the second row all padding
    cache = transformers.DynamicCache(config=model.config)
    start = {name: inputs[name][:, :split] for name in ("input_ids", "attention_mask", "position_ids")}
    rest = {**inputs, "attention_mask": inputs["attention_mask"]}
    rest |= {name: inputs[name][:, split:] for name in ("input_ids", "position_ids")}
    model(**start, past_key_values=cache)
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, config, 2)
    step = {"input_ids": tokens[:, :1], "position_ids": inputs["position_ids"][:, -1:] + 1}
    step["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    with pact_ext.apply(model, config, attention=attention):
        for own in (copy.deepcopy(cache), cache):
            logits = [model(**given, past_key_values=own).logits[:, -1] for given in (rest, step)]
            assert (torch.stack(logits, dim=1) - expected).abs().max() < 1e-12


@ATTENTION
def test_a_copy_of_a_reduced_cache_goes_its_own_way(attention):
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    tokens = torch.randint(tiny.WORDS.start, tiny.WORDS.stop, (2, STEPS))
    with pact_ext.apply(model, CONFIG, attention=attention):
        cache = model(**inputs, use_cache=True).past_key_values
        copies = [copy.deepcopy(cache) for _ in range(2)]
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 3), value=1)
        ids = tokens[:, :3]
        a, b = (model(input_ids=ids, attention_mask=mask, past_key_values=c).logits for c in copies)
        c = model(input_ids=ids, attention_mask=mask, past_key_values=cache).logits
    assert torch.equal(a, b)
    assert torch.equal(a, c)


@ATTENTION
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_interleaved_generations(variant, attention):
    """Two prompts, one step of each in turn, on two caches: each as if it were alone."""
    model = build(variant)
    prompts = [tiny.inputs(model, 2, seed=seed) for seed in (0, 1)]
    tokens = torch.randint(tiny.WORDS.start, tiny.WORDS.stop, (2, 3))
    with pact_ext.apply(model, CONFIG, attention=attention):
        alone = [greedy(model, inputs, transformers.DynamicCache(), tokens) for inputs in prompts]
        caches = [transformers.DynamicCache() for _ in prompts]
        mixed = [
            [model(**p, position_ids=tiny.positions(model, p), past_key_values=c).logits[:, -1]]
            for p, c in zip(prompts, caches, strict=True)
        ]
        for step in range(2):
            for inputs, cache, logits in zip(prompts, caches, mixed, strict=True):
                mask = torch.nn.functional.pad(inputs["attention_mask"], (0, step + 1), value=1)
                last = tiny.positions(model, inputs).amax(-1, keepdim=True)
                last = (last.amax(0, keepdim=True).expand_as(last) if last.ndim == 3 else last) + step + 1
                ids = tokens[:, step : step + 1]
                out = model(input_ids=ids, attention_mask=mask, position_ids=last, past_key_values=cache)
                logits.append(out.logits[:, -1])
    for expected, logits in zip(alone, mixed, strict=True):
        assert torch.equal(torch.stack(logits, dim=1), expected)


def test_rows_of_a_reduced_cache_can_be_reordered_repeated_and_selected():
    model = build("llava")
    inputs = tiny.inputs(model, 2)  # rows of different lengths, so that a mixed-up row shows
    tokens = torch.tensor([[5], [6]])
    mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
    position = inputs["attention_mask"].sum(1, keepdim=True)

    def step(cache, rows):
        given = {"input_ids": tokens[rows], "attention_mask": mask[rows], "position_ids": position[rows]}
        return model(**given, past_key_values=cache).logits

    with pact_ext.apply(model, CONFIG):
        cache = model(**inputs, position_ids=tiny.positions(model, inputs), use_cache=True).past_key_values
        expected = step(copy.deepcopy(cache), [0, 1])
        for change, rows in (
            (lambda c: c.reorder_cache(torch.tensor([1, 0])), [1, 0]),
            (lambda c: c.batch_repeat_interleave(2), [0, 0, 1, 1]),
            (lambda c: c.batch_select_indices(torch.tensor([1])), [1]),
        ):
            changed = copy.deepcopy(cache)
            change(changed)
            assert (step(changed, rows) - expected[rows]).abs().max() < 1e-12


def test_cropping():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    tail = 8  # text after the last image
    major = int(transformers.__version__.split(".")[0])
    with pact_ext.apply(model, CONFIG, per_image=True):
        cache = model(**inputs, use_cache=True).past_key_values
        length = int(cache.get_seq_length())
        assert length == inputs["input_ids"].shape[1]
        columns = cache.layers[-1].keys.shape[-2]
        cache.crop(length - 3 if major < 5 else -3)
        assert cache.get_seq_length() == length - 3
        assert [layer.keys.shape[-2] for layer in cache.layers] == 3 * [length - 3] + 3 * [columns - 3]
        again = model(
            input_ids=inputs["input_ids"][:, -3:],
            attention_mask=inputs["attention_mask"],
            past_key_values=cache,
        ).logits[:, -1]
        assert (again - model(**inputs).logits[:, -1]).abs().max() < 1e-12
        with pytest.raises(RuntimeError, match=f"at most the {tail} tokens after them"):
            cache.crop(-tail - 1)


def test_cropping_stops_at_the_last_image_of_any_row():
    model = build("llava")
    inputs = tiny.inputs(model, 2)  # 8 words after the images of the first row, 6 after the second's
    with pact_ext.apply(model, CONFIG, per_image=True):
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        cache = out.past_key_values
        with pytest.raises(RuntimeError, match="at most the 8 tokens after them"):  # 6 and two generated
            cache.crop(-9)
        _, turn = tiny.more(model, inputs, out.sequences[:, -3:], image=True)
        model(**turn, past_key_values=cache)
        with pytest.raises(RuntimeError, match="at most the 5 tokens after them"):  # those after the new image
            cache.crop(-6)
        cache.crop(-5)


def test_compiled():
    """Graph breaks are allowed; other numbers are not."""
    model = tiny.build("llava", dtype=torch.float32, layers=2)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, dataclasses.replace(CONFIG, layer=1)):
        expected, tokens = tiny.generate(model, inputs, 2)
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager")
        with torch.no_grad():
            logits = greedy(compiled, inputs, transformers.DynamicCache(config=model.config), tokens)
    torch.compiler.reset()
    assert (logits - expected).abs().max() < 1e-5


def test_spread_by_accelerate():
    accelerate = pytest.importorskip("accelerate", reason="spreading a model needs accelerate")
    model = tiny.build("internvl")
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG):
        expected, tokens = tiny.generate(model, inputs, STEPS)
    layers = {f"model.language_model.layers.{i}": "cpu" for i in range(6)}
    rest = ("model.vision_tower", "model.multi_modal_projector", "lm_head")
    rest += ("model.language_model.embed_tokens", "model.language_model.norm", "model.language_model.rotary_emb")
    accelerate.dispatch_model(model, layers | dict.fromkeys(rest, "cpu"), main_device="cpu", force_hooks=True)
    with pact_ext.apply(model, CONFIG):
        logits, same = tiny.generate(model, inputs, STEPS)
    assert torch.equal(same, tokens)
    assert torch.equal(logits, expected)
