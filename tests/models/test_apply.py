"""A reduced model computes what a full-length one that only masks computes; keeping all tokens, what it always did."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import transformers

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig, methods, ops
from pact_ext.models.families import FAMILIES

LAYER, STEPS = 3, 6
KEEP = PactConfig(cluster=False, prune_ratio=0.0, layer=LAYER)
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)
OTHERS = {
    "prune only": PactConfig(cluster=False, prune_ratio=0.6, layer=LAYER),
    "cluster only": PactConfig(prune=False, dc=0.3, layer=LAYER),
    "no recovery, no merging": PactConfig(dc=0.25, recover=False, merge=False, layer=LAYER),
    "one token": PactConfig(prune_ratio=1.0, alpha=0.0, layer=LAYER),
    "first layer": PactConfig(dc=0.25, layer=0),
    "last layer": PactConfig(dc=0.25, layer=5),
}
# HF's eager attention takes its softmax in float32 whatever the dtype (and makes NaN of padding in float64).
ROUTES = [("sdpa", "auto"), ("sdpa", "dense"), ("eager", "auto")]
DTYPE = {"sdpa": None, "eager": torch.float32}
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}

PROOFS = pytest.mark.parametrize(
    ("variant", "route", "batch"),
    [
        *itertools.product(tiny.KINDS, ROUTES, [2]),
        *itertools.product(tiny.OTHERS, ROUTES[:1], [2]),
        # A row alone has no mask by itself; where one is made all the same, of one axis or of three.
        *itertools.product(tiny.KINDS, ROUTES[:1], [1]),
        *itertools.product(["llava", "qwen2_vl"], ROUTES[1:], [1]),
    ],
)

build = functools.cache(tiny.build)  # one model for many tests: each has to leave it as it was


def present(inputs):
    return inputs["attention_mask"].bool()


@PROOFS
def test_keeping_everything_changes_nothing(variant, route, batch):
    implementation, attention = route
    model = build(variant, attn_implementation=implementation, dtype=DTYPE[implementation])
    inputs = tiny.inputs(model, batch)
    before = model(**inputs, use_cache=False).logits
    decoded, tokens = tiny.generate(model, inputs, STEPS)
    with pact_ext.apply(model, KEEP, attention=attention):
        for cache in (True, False):
            after = model(**inputs, use_cache=cache).logits
            assert torch.equal(after[present(inputs)], before[present(inputs)])
        again, same = tiny.generate(model, inputs, STEPS)
    assert torch.equal(same, tokens)
    assert (again - decoded).abs().max() < (1e-6 if model.dtype == torch.float64 else 1e-5)


@PROOFS
def test_equals_the_model_that_only_masks(variant, route, batch):
    implementation, attention = route
    model = build(variant, attn_implementation=implementation, dtype=DTYPE[implementation])
    inputs = tiny.inputs(model, batch)
    expected, tokens, rows = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        for use_cache in (True, False):
            logits, same = tiny.generate(model, inputs, STEPS, use_cache=use_cache)
            assert torch.equal(same, tokens)
            assert (logits - expected).abs().max() < TOLERANCE[model.dtype]
    for reduction, row in zip(handle.last, rows, strict=True):
        assert torch.equal(row.visual[reduction.centers], row.centers)
        assert torch.equal(reduction.labels, row.labels)
        assert reduction.sizes.max() > 1
    assert any((reduction.labels < 0).any() for reduction in handle.last)


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("name", OTHERS)
def test_every_kind_of_reduction(name, attention):
    config = OTHERS[name]
    model = build("qwen2_vl")
    inputs = tiny.inputs(model, 2)
    expected, tokens, _ = oracle.masked_logits(model, inputs, config.layer, config, STEPS)
    with pact_ext.apply(model, config, attention=attention):
        logits, same = tiny.generate(model, inputs, STEPS)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("variant", tiny.KINDS)
def test_a_wrong_model_is_told_apart(variant):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG):
        logits, tokens = tiny.generate(model, inputs, STEPS)
    for mistake in ({"log_sizes": False}, {"renumber": True}, {"extra": 1}):
        wrong, _, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS, forced=tokens, **mistake)
        assert (logits - wrong).abs().amax(dim=(1, 2)).min() > 1e-4, mistake


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("variant", ["llava_onevision", "qwen3_vl"])
def test_a_row_without_images(variant, attention):
    model = build(variant)
    inputs = tiny.inputs(model, 2, text_only_row=True)
    expected, tokens, _ = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
        assert handle.last[1] is None
        assert handle.report().visual_in[1] == 0
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("keep", [None, 0.4])
def test_a_batch_is_one_call_of_an_operator(batch, keep, monkeypatch):
    called = []
    for name in ("reduce", "reduce_to", "reduce_packed", "reduce_to_packed"):
        operator = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, _o=operator, _n=name, **k: (called.append(_n), _o(*a, **k))[1])
    model = build("qwen2_vl")
    with pact_ext.apply(model, methods.Pact(CONFIG, keep=keep)):
        model(**tiny.inputs(model, batch))
    assert called == [("reduce" if keep is None else "reduce_to") + ("_packed" if batch > 1 else "")]


@pytest.mark.parametrize("variant", tiny.KINDS)
def test_a_prompt_without_images_is_left_alone(variant):
    model = build(variant)
    inputs = tiny.inputs(model, 2, text_only=True)
    before = tiny.generate(model, inputs, STEPS)
    with pact_ext.apply(model, CONFIG) as handle:
        after = tiny.generate(model, inputs, STEPS)
        assert handle.last == []
    assert torch.equal(before[0], after[0])


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_padding_on_the_right(variant):
    """A forward returns the logits of the tokens that remain, in order, and of the padding after them."""
    model = build(variant)
    left = tiny.inputs(model, 2)
    shift = int((left["attention_mask"][1] == 0).sum())
    assert shift > 0
    right = dict(left)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        if name in left:
            right[name] = torch.stack([left[name][0], left[name][1].roll(-shift)])
    logits = []
    for inputs in (left, right):
        inputs["position_ids"] = tiny.positions(model, inputs)
        with pact_ext.apply(model, CONFIG) as handle:
            logits.append(model(**inputs).logits)
    lengths = left["attention_mask"].sum(1) - torch.tensor([r.n_in - r.n_out for r in handle.last])
    for row, end in ((0, 0), (1, shift)):
        expected, got = (x[row, -int(lengths[row]) - gap :] for x, gap in zip(logits, (0, end), strict=True))
        assert (expected - got[: len(got) - end]).abs().max() < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("attention", ["fused", "dense"])
def test_every_dtype(dtype, attention):
    exact = build("llava_onevision")
    model = build("llava_onevision", dtype=dtype)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        logits, tokens = tiny.generate(model, inputs, STEPS)
        assert all(r.merged.dtype == dtype for r in handle.last)
        columns = model(**inputs, use_cache=True).past_key_values.stages[-1].log_sizes
        for row, reduction in zip(columns, handle.last, strict=True):  # not rounded to a half
            assert torch.equal(row[row > 0].sort().values, reduction.log_sizes[reduction.sizes > 1].sort().values)
    assert logits.dtype == dtype
    assert logits.isfinite().all()
    if dtype == torch.float32:
        expected, _, _ = oracle.masked_logits(exact, tiny.inputs(exact, 2), LAYER, CONFIG, STEPS, forced=tokens)
        assert (logits - expected).abs().max() < 1e-3


@pytest.mark.parametrize("attention", ["fused", "dense"])
def test_under_autocast(attention):
    model = build("llava_onevision", dtype=torch.float32)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG, attention=attention) as handle:
        expected = model(**inputs).logits[:, -1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(**inputs).logits[:, -1]
    assert handle.last[0].merged.dtype == torch.float32
    assert 0 < (logits.float() - expected).abs().max() < 0.5  # logits of about 1, in bfloat16


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "qwen3_vl"])
def test_reductions_carry_the_position_ids_of_their_centers(variant):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    positions = tiny.positions(model, inputs)
    with pact_ext.apply(model, CONFIG) as handle:
        tiny.generate(model, inputs, 1)
    visual = inputs["input_ids"] == tiny.IMAGE
    for row, reduction in enumerate(handle.last):
        places = visual[row].nonzero().flatten()[reduction.centers]
        assert torch.equal(reduction.position_ids, positions[..., row, places])


def test_the_report_counts_what_is_there():
    model = build("llava_onevision", dtype=torch.float32)
    inputs = tiny.inputs(model, 2)

    def cache_bytes(cache):
        return sum(2 * layer.keys.nbytes for layer in cache.layers)

    full = cache_bytes(model(**inputs, use_cache=True).past_key_values)
    with pact_ext.apply(model, PactConfig(prune_ratio=0.3, dc=0.25, layer=2)) as handle:
        with pytest.raises(RuntimeError, match="no images have passed"):
            handle.report()
        cache = model(**inputs, use_cache=True).past_key_values
        report = handle.report(synchronize=True)
        assert report.cache_bytes == cache_bytes(cache)
        assert report.cache_bytes + report.cache_bytes_saved == full
        assert report.tokens_in == inputs["input_ids"].shape[1]
        assert report.tokens_out == cache.layers[2].keys.shape[-2]
        left = inputs["attention_mask"].sum(1) - torch.tensor([r.n_in - r.n_out for r in handle.last])
        assert report.tokens_out == left.max()  # the padding there was is not kept
        assert report.visual_in == (inputs["input_ids"] == tiny.IMAGE).sum(1).tolist()
        assert report.visual_out == [r.n_out for r in handle.last]
        before, after = sum(report.visual_in), sum(report.visual_out)
        assert report.mean_visual_tokens == (2 * before + 4 * after) / 6
        assert report.seconds > 0
        assert report.as_dict()["reduction_ratio"] == 1 - after / before
        table = str(report)
        for number in (*report.visual_in, *report.visual_out, before, after):
            assert f" {number} " in table
        assert f"{100 * (before - after) / before:.1f} %" in table
        assert f"key-value cache {cache_bytes(cache) / 1024**2:.2f} MiB" in table
        model(**inputs, use_cache=False)
        assert handle.report().cache_bytes == handle.report().cache_bytes_saved == 0


def test_bytes_of_a_column_follow_the_head_size():
    config = transformers.Qwen3Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, head_dim=32)
    assert FAMILIES["internvl"].column_bytes(config, torch.float16) == 2 * 2 * 32 * 2
