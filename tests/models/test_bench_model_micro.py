"""bench.model on a tiny shape: its cases, its arithmetic and its table. No time is compared with anything."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch

import pact_ext
from bench import model, model_case, model_table
from bench.model_case import CASES, LAYER, Shape

TINY = Shape(layers=6, hidden=64, heads=4, key_heads=2, feed_forward=96, vocabulary=160, visual=128, text=10)
ROUNDS, DECODED = 2, 3


@pytest.fixture(scope="module")
def entries():
    return model.run(TINY, rounds=ROUNDS, decoded=DECODED)


@pytest.fixture(scope="module")
def tiny():
    built = model_case.build(TINY)
    return built, model_case.inputs(built, TINY)


def test_every_case_is_measured(entries):
    assert [(e["name"], e["attention"]) for e in entries] == [
        (case.name, case.attention if case.method else None) for case in CASES
    ]
    for entry, case in zip(entries, CASES, strict=True):
        assert set(entry["timings"]) == {"prefill", "token", *(["reduce"] if case.method else [])}
        rounds = {name: timing["rounds"] for name, timing in entry["timings"].items()}
        assert rounds["prefill"] == rounds.get("reduce", ROUNDS) == ROUNDS
        assert rounds["token"] == ROUNDS * DECODED
        assert all(0 < t["min_ms"] <= t["median_ms"] <= t["max_ms"] for t in entry["timings"].values())
        if case.method:
            assert entry["timings"]["reduce"]["median_ms"] < entry["timings"]["prefill"]["max_ms"]


def test_pruning_leaves_what_the_contract_says_and_merging_fewer(entries):
    after = [entry["visual_after"] for entry in entries]
    pruned = {i: case.method.prune_ratio for i, case in enumerate(CASES) if case.method and not case.method.cluster}
    assert set(pruned.values()) == {0.0, 0.5, 0.75, 0.9}
    for i, ratio in pruned.items():
        assert after[i] == 128 - math.ceil(ratio * 127)
    assert after[0] == 128
    clustered = [after[i] for i, case in enumerate(CASES) if case.method and case.method.cluster]
    kept = 128 - math.ceil(0.45 * 127)
    assert all(0 < count < kept for count in clustered)
    assert clustered[1] == clustered[2]  # the route of the sizes does not change the clusters


def test_cache_is_counted_to_the_byte(entries, tiny):
    column = 2 * 2 * 16 * 4  # keys and values, two heads of 16, float32
    assert TINY.column_bytes() == column
    for entry in entries:
        assert entry["cache_bytes"] == column * (LAYER * 138 + (6 - LAYER) * (10 + entry["visual_after"]))
    built, prompt = tiny
    with torch.inference_mode(), pact_ext.apply(built, model_case.PACT) as handle:
        cache = built(**prompt, use_cache=True).past_key_values
        assert model.cache_bytes(cache) == handle.report().cache_bytes


def test_ideal_counts_operations():
    # One layer: queries and output 64 x 64 each, keys and values 64 x 32 each, three products of 64 x 96.
    assert TINY.weights == 2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 96
    assert TINY.layer_flops(10) == 2 * 10 * TINY.weights + 2 * 10 * 10 * 64
    assert TINY.ideal(6 * [TINY.visual]) == 1
    assert TINY.ideal(6 * [0]) == pytest.approx(TINY.layer_flops(10) / TINY.layer_flops(138))
    assert TINY.ideal(3 * [TINY.visual] + 3 * [0]) == pytest.approx((1 + TINY.ideal(6 * [0])) / 2)


def test_measured_model_is_the_one_described(tiny):
    built, prompt = tiny
    layer = built.get_decoder().layers[0]
    products = [p.numel() for name, p in layer.named_parameters() if p.ndim > 1]
    assert sum(products) == TINY.weights
    assert prompt["input_ids"].shape == (1, TINY.tokens)
    assert int((prompt["input_ids"] == built.config.image_token_index).sum()) == TINY.visual
    assert built.config.text_config._attn_implementation == "sdpa"


def test_prefill_times_the_language_model_alone(tiny):
    built, prompt = tiny
    seen = []
    hooks = [
        built.model.vision_tower.register_forward_hook(lambda *_: seen.append("tower")),
        built.get_decoder().register_forward_pre_hook(lambda *_: seen.append("decoder")),
    ]
    with torch.inference_mode():
        seconds, output = model.prefill(built, prompt)
    for hook in hooks:
        hook.remove()
    assert seen == ["tower", "decoder"]
    assert seconds > 0
    assert output.logits.shape == (1, 1, TINY.vocabulary)


def test_command_writes_the_record_and_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(model, "QUICK", TINY)
    target = tmp_path / "folder" / "model.json"
    assert model.main(["--quick", "--json", str(target)]) == 0
    record = json.loads(target.read_text())
    assert {"cpu", "threads", "torch", "transformers", "commit", "load"} <= set(record["facts"])
    assert Shape(**record["facts"]["shape"]) == TINY
    printed = capsys.readouterr().out
    assert printed.startswith(model_table.plain(record))
    lines = [line for line in target.with_suffix(".md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells == [list(model_table.COLUMNS), *model_table.rows(record)]
    stock, keep = model_table.rows(record)[:2]
    assert stock[list(model_table.COLUMNS).index("/stock")] == "1.00"
    assert keep[list(model_table.COLUMNS).index("cache/stock")] == "1.00"
