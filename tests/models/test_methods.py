"""Any method inside models: held to the full-length model that only masks, and its views to what the model computes."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import pytest
import torch

import pact_ext
from models import tiny
from models.replay import Pairs, Recorder, groups_of, replayed_logits
from pact_ext import methods
from pact_ext.methods import Selection

STEPS = 3

build = functools.cache(tiny.build)


@dataclass(frozen=True)
class PairsAndFastV(Pairs):
    """Merges at its first site, and at its second prunes what was merged, by attention."""

    needs = frozenset({"received"})

    def select(self, view):
        if view.site == 0:
            return super().select(view)
        return Selection(view.received("last").sort(descending=True).indices[: len(view) // 2].sort().values)


ENGINE = {
    "fastv": methods.FastV(layer=4, keep=0.4),
    "pyramiddrop": methods.PyramidDrop(keep=0.6, stages=2),
    "vtw": methods.VTW(),
    "tome": methods.ToMe(r=3, first=3),
    "pairs": Pairs(),
    "pairs and fastv": PairsAndFastV(),
}


def sites_of(method, model):
    return method.sites(len(tiny.decoder(model).layers))


# What a family does by itself: its attention, several sites. The rest knows of no family but its positions' axes.
@pytest.mark.parametrize(
    ("name", "per_image", "variant"),
    [
        *itertools.product(["fastv", "pairs and fastv"], [False], tiny.KINDS),
        *itertools.product(sorted({*ENGINE} - {"fastv", "pairs and fastv"}), [False], ["llava", "qwen2_vl"]),
        *itertools.product(["fastv", "pairs"], [True], ["llava_next", "internvl", "qwen3_vl"]),
    ],
)
def test_a_method_only_masks(name, per_image, variant):
    model = build(variant)
    inputs, recorder = tiny.inputs(model, 3, text_only_row=True), Recorder(ENGINE[name])
    with pact_ext.apply(model, recorder, per_image=per_image) as handle:
        logits, tokens = tiny.generate(model, inputs, STEPS)
        assert handle.last[2] is None
    groups = groups_of(inputs, per_image)
    expected = replayed_logits(model, inputs, sites_of(recorder, model), [(groups, recorder.found)], tokens)
    assert (logits - expected).abs().max() < 1e-9
    stock, _ = tiny.generate(model, inputs, STEPS)
    assert (logits[:2, 0] - stock[:2, 0]).abs().max() > 1e-4, "nothing was reduced"


CLUSTERINGS = {
    "dbscan": methods.DBSCAN(eps=0.4, min_samples=2, layer=3),
    "single": methods.Agglomerative(keep=0.3, layer=3),
    "average": methods.Agglomerative(keep=0.3, linkage="average", layer=3),
    "complete": methods.Agglomerative(keep=0.3, linkage="complete", layer=3),
    "dpc": methods.DPC(keep=0.3, layer=3),
    "tome, at every layer": methods.ToMe(r=2),
    "tome, by the schedule": methods.ToMe(keep=0.3, like=2),
    "pact": methods.Pact(pact_ext.PactConfig(layer=3, dc=0.6), scores="received-all"),
}


@pytest.mark.parametrize("name", CLUSTERINGS)
def test_a_clustering_only_masks(name):
    method = CLUSTERINGS[name]
    model, recorder = build("llava"), Recorder(method)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, recorder) as handle:
        logits, tokens = tiny.generate(model, inputs, STEPS)
        last = handle.last
    calls = [(groups_of(inputs), recorder.found)]
    assert (logits - replayed_logits(model, inputs, sites_of(method, model), calls, tokens)).abs().max() < 1e-9
    for row in last:
        assert row.n_out < row.n_in
        assert torch.equal(row.sizes, torch.bincount(row.labels[row.labels >= 0], minlength=row.n_out))
        assert name == "pact" or int(row.sizes.sum()) == row.n_in, "a token was lost"


def test_tome_merges_a_few_at_every_layer():
    model = build("llava")
    inputs, method = tiny.inputs(model, 2), methods.ToMe(r=2)
    with pact_ext.apply(model, method) as handle:
        expected, tokens = tiny.generate(model, inputs, STEPS)
        last, report = handle.last, handle.report()
        assert [r.n_out for r in last] == [method.count(r.n_in, 5) for r in last]
        assert report.visual_by_layer == [sum(method.count(r.n_in, site) for r in last) for site in range(6)]
        same = model.generate(**inputs, max_new_tokens=STEPS, cache_implementation="static")
        assert torch.equal(same[:, -STEPS:], tokens)
    with pact_ext.apply(model, method, attention="dense"):
        assert (tiny.generate(model, inputs, STEPS)[0] - expected).abs().max() < 1e-12


def test_tome_beyond_the_last_layer():
    with pytest.raises(ValueError, match="pact_ext.apply: first must be in 0 to 5 for this model, got 6"):
        pact_ext.apply(build("llava"), "tome:first=6")


# --- Generation, with several sites ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_static_caches_and_both_ways_of_attention(variant, attention):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, Pairs()):
        expected, tokens = tiny.generate(model, inputs, STEPS)
    with pact_ext.apply(model, Pairs(), attention=attention):
        for arguments in ({}, {"cache_implementation": "static"}):
            logits, same = tiny.generate(model, inputs, STEPS, **arguments)
            assert torch.equal(same, tokens)
            assert (logits - expected).abs().max() < 1e-12


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_a_second_turn_with_an_image(variant):
    model = build(variant)
    inputs, recorder = tiny.inputs(model, 2), Recorder(PairsAndFastV())
    with pact_ext.apply(model, recorder):
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        first, recorder.found = recorder.found, []
        whole, turn = tiny.more(model, inputs, out.sequences[:, -3:], image=True)
        logits = model(**turn, past_key_values=out.past_key_values).logits[:, -1:]
    past = whole["input_ids"].shape[1] - turn["input_ids"].shape[1]
    groups = [[places[places < past] for places in row] for row in groups_of(whole)]
    added = [[places[places >= past] for places in row] for row in groups_of(whole)]
    calls = [(groups, first), (added, recorder.found)]
    forced = torch.zeros(2, 1, dtype=torch.int64)
    expected = replayed_logits(model, whole, sites_of(recorder, model), calls, forced)
    assert (logits - expected).abs().max() < 1e-9


def test_beams_and_crops():
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, Pairs()) as handle:
        ids = model.generate(**inputs, num_beams=3, max_new_tokens=4)
        assert [r.n_out for r in handle.last] == [(r.n_in + 3) // 4 for r in handle.last]
        cache = model(**inputs, use_cache=True).past_key_values
        step = {"input_ids": ids[:, -4:], "past_key_values": cache}
        step["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones(2, 4, dtype=torch.int64)], dim=1)
        expected = model(**step).logits
        crop(cache, 4)
        assert torch.equal(model(**step).logits, expected)
        tail = min(columns.tail for columns in cache.stages)
        with pytest.raises(RuntimeError, match=f"reaches into reduced visual tokens; at most the {tail} tokens"):
            crop(cache, tail + 1)


def crop(cache, count):
    cache.crop(-count if tiny.VERSION >= (5, 0) else int(cache.get_seq_length()) - count)


def test_what_is_reported_of_several_sites():
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, Pairs()) as handle:
        cache = model(**inputs, use_cache=True).past_key_values
        report, last, columns = handle.report(synchronize=True), handle.last, handle.columns
    n = [r.n_in for r in last]
    half, quarter = [(x + 1) // 2 for x in n], [(x + 3) // 4 for x in n]
    assert (report.visual_in, report.visual_out, report.layer) == (n, quarter, 3)
    assert report.visual_by_layer == 3 * [sum(n)] + 2 * [sum(half)] + [sum(quarter)]
    lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths == 3 * [inputs["input_ids"].shape[1]] + 2 * [lengths[3]] + [columns.shape[1]]
    assert report.cache_bytes == sum(x.keys.nbytes + x.values.nbytes for x in cache.layers)
    for r, (places,), row in zip(last, groups_of(inputs), columns, strict=True):
        assert torch.equal(r.labels, torch.arange(r.n_in) // 4)
        assert torch.equal(r.centers, torch.arange(0, r.n_in, 4))
        assert torch.equal(r.sizes, torch.bincount(r.labels))
        assert torch.isin(places[r.centers], row).all()
    assert report.seconds > 0


def test_logits_to_keep_through_several_sites():
    model = build("llava", dtype=torch.float32)
    inputs = tiny.inputs(model, 1)
    with pact_ext.apply(model, Pairs()) as handle:
        logits = model(**inputs).logits
        places = handle.columns[0, [0, 9, -2]]
        kept = model(**inputs, logits_to_keep=places.clone()).logits
        assert (kept - logits[:, [0, 9, -2]]).abs().max() < 1e-5
        gone = groups_of(inputs)[0][0][2:3]  # merged at the second site
        with pytest.raises(RuntimeError, match="is pruned or merged in row 0"):
            model(**inputs, logits_to_keep=gone)


def test_vtw_calibrates_itself():
    """By the full-length model that hides the visual tokens from a layer on."""
    model = build("llava")
    samples = [tiny.inputs(model, 2, seed=seed) for seed in range(2)]
    divergences = []
    for layer in range(1, 6):
        found = []
        for sample in samples:
            groups, nothing = groups_of(sample), torch.zeros(0, dtype=torch.int64)
            calls = [(groups, [(0, None, Selection(nothing)) for row in groups for _ in row])]
            dropped = replayed_logits(model, sample, (layer,), calls, torch.zeros(2, 1, dtype=torch.int64))[:, 0]
            full = model(**sample).logits[:, -1]
            found.append(
                torch.nn.functional.kl_div(
                    *(x.log_softmax(-1) for x in (dropped, full)), log_target=True, reduction="none"
                ).sum(-1)
            )
        divergences.append(float(torch.cat(found).mean()))
    least = min(divergences[:-1])
    wanted = 1 + divergences.index(least)
    found = methods.VTW.calibrate(model, samples, threshold=least * 1.001, first=1)
    assert found == methods.VTW(layer=wanted)
    later = methods.VTW.calibrate(model, samples, threshold=max(divergences), first=wanted + 1)
    assert later.layer == wanted + 1
    with pytest.raises(ValueError, match=r"no layer from 1 to 5 comes within threshold=0; the least divergence is"):
        methods.VTW.calibrate(model, samples, threshold=0.0, first=1)
    with pytest.raises(ValueError, match="samples must hold at least one"):
        methods.VTW.calibrate(model, [])


# --- Views ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["last", "all", "prefix"])
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "internvl_qwen3"])
def test_received_attention_is_that_of_the_layer_before(variant, rows):
    model = build(variant, attn_implementation="eager", dtype=torch.float32)
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.FastV(layer=4, keep=5, rows=rows))
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[3].double()
    with pact_ext.apply(model, recorder):
        model(**inputs)
    for row, ((places,), (_, view, _)) in enumerate(zip(groups_of(inputs), recorder.found, strict=True)):
        first = int((inputs["attention_mask"][row] == 0).sum())
        chosen = {"last": slice(-1, None), "all": slice(first, None), "prefix": slice(first, int(places[-1]) + 1)}[rows]
        expected = weights[row, :, chosen].mean(dim=(0, 1))[places]
        assert (view.received(rows) - expected).abs().max() < 1e-5


def test_attention_over_a_cache_counts_what_is_cached():
    model = build("llava", attn_implementation="eager", dtype=torch.float32)
    inputs, recorder = tiny.inputs(model, 2, counts=[1, 1]), Recorder(methods.FastV(layer=4, keep=5))
    assert (inputs["attention_mask"][1, :6].sum() > 0) & (inputs["attention_mask"][1, 0] == 0)
    positions = tiny.positions(model, inputs)
    text = {name: inputs[name][:, :6] for name in ("input_ids", "attention_mask")}
    rest = {**inputs, "input_ids": inputs["input_ids"][:, 6:], "position_ids": positions[..., 6:]}
    with torch.no_grad():
        weights = model(**inputs, output_attentions=True).attentions[3].double()
    with pact_ext.apply(model, recorder):
        cache = model(**text, position_ids=positions[..., :6], use_cache=True).past_key_values
        model(**rest, past_key_values=cache)
    for row, ((places,), (_, view, _)) in enumerate(zip(groups_of(inputs), recorder.found, strict=True)):
        expected = weights[row, :, -1].mean(dim=0)[places]
        assert (view.received("last") - expected).abs().max() < 1e-5


def test_attention_behind_a_site_is_that_of_the_columns_it_left():
    """In two turns, the second of which brings an image too."""
    model = build("llava", attn_implementation="eager", dtype=torch.float32)
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.PyramidDrop(keep=0.6))
    assert sites_of(recorder, model) == (1, 3, 4)
    with pact_ext.apply(model, recorder):
        out = model(**inputs, use_cache=True, output_attentions=True)
        check_last_site(recorder, inputs, out, groups_of(inputs))
        whole, turn = tiny.more(model, inputs, torch.full((2, 3), tiny.WORDS.start), image=True)
        past = whole["input_ids"].shape[1] - turn["input_ids"].shape[1]
        text = {"attention_mask": whole["attention_mask"][:, :past], "past_key_values": out.past_key_values}
        text["position_ids"] = tiny.positions(model, whole)[..., past - 2 : past]
        model(input_ids=whole["input_ids"][:, past - 2 : past], **text)
        recorder.found.clear()
        out = model(**turn, past_key_values=out.past_key_values, output_attentions=True)
        check_last_site(recorder, whole, out, [[row[0][row[0] >= past]] for row in groups_of(whole)])


def check_last_site(recorder, inputs, out, groups):
    """`groups`: the places of the visual tokens that this call brought."""
    places, weights = out.past_key_values.stages[1].places, out.attentions[3]
    first, second, views = ([found for found in recorder.found if found[0] == site] for site in range(3))
    for row, (places_of_row,) in enumerate(groups):
        left = places_of_row[first[row][2].kept][second[row][2].kept]
        columns = (places[row][:, None] == left).nonzero()[:, 0]
        assert len(columns) == len(left)
        expected = weights[row, :, -1].mean(dim=0)[columns]
        assert (views[row][1].received("last") - expected).abs().max() < 1e-5


@dataclass(frozen=True)
class Halves(methods.Method):
    """Every second token, at two sites; asks for keys."""

    needs = frozenset({"turned_keys"})

    def sites(self, layers):
        return (3, 5)

    def select(self, view):
        return Selection(torch.arange(0, len(view), 2))


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "internvl_qwen3"])
def test_turned_keys_are_those_that_the_layer_caches(variant):
    model = build(variant)
    inputs, recorder = tiny.inputs(model, 2), Recorder(Halves())
    with pact_ext.apply(model, recorder):
        cache = model(**inputs, use_cache=True).past_key_values
    for number, (site, view, chosen) in enumerate(recorder.found):
        row, keys = number % 2, cache.layers[cache.stages[site].first].keys
        places = groups_of(inputs)[row][0][:: 2 ** (site + 1)]
        columns = (cache.stages[site].places[row][:, None] == places).nonzero()[:, 0]
        assert len(columns) == len(chosen.kept)
        assert (view.turned_keys[chosen.kept] - keys[row, :, columns].transpose(0, 1)).abs().max() < 1e-12


# --- By name, and what is refused -----------------------------------------------------------------------------------


def test_by_name():
    assert methods.parse("fastv:keep=0.25,rows=all") == methods.FastV(keep=0.25, rows="all")
    assert methods.parse("fastv:keep=64") == methods.FastV(keep=64)
    assert methods.parse("pact:dc=0.1,layer=2") == methods.Pact(pact_ext.PactConfig(dc=0.1, layer=2))
    assert all(methods.parse(str(method)) == method for name, method in ENGINE.items() if "pairs" not in name)
    with pact_ext.apply(build("llava"), "vtw:layer=5") as handle:
        assert handle.method == methods.VTW(layer=5)
        assert handle.config is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fastvee", "no preset named 'fastvee'; there are .*; nor a method, of which there are .*fastv"),
        ("fastv:keep", "fastv: arguments must be name=value, of layer, keep, rows, got 'keep'"),
        ("fastv:kept=3", "fastv: arguments must be name=value, of layer, keep, rows, got 'kept=3'"),
        ("fastv:keep=0", "FastV: keep must be a share .*, or a whole number of them, got 0"),
        ("fastv:keep=1.5", "FastV: keep must be a share .*, got 1.5"),
        ("fastv:layer=0", "FastV: layer must be an integer >= 1, got 0"),
        ("fastv:rows=first", "FastV: rows must be 'last', 'all' or 'prefix', got 'first'"),
        ("fastv:layer=6", "pact_ext.apply: layer must be in 0 to 5 for this model, got 6"),
    ],
)
def test_bad_names_and_arguments(text, message):
    with pytest.raises(ValueError, match=message):
        pact_ext.apply(build("llava"), text)


def test_a_view_gives_what_is_needed_and_nothing_else():
    made = []
    parts = {"keys": lambda: made.append(1) or torch.ones(3, 1, 2), "queries": torch.ones(3, 1, 2)}
    view = methods.View(torch.zeros(3, 2), needs=frozenset({"keys"}), **parts)
    assert view.keys is view.keys
    assert made == [1]
    with pytest.raises(AttributeError, match="'queries' is not among the method's needs"):
        view.queries  # noqa: B018


def test_budgets():
    assert [methods.budget(10, keep) for keep in (0.25, 0.35, 0.01, 1.0, 3, 30)] == [3, 4, 1, 10, 3, 10]
