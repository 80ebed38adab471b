"""bench.model on a card, real or pretended, on a tiny shape; and the record of a card as a table."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch

from bench import gpu_timing, model, model_case, model_table
from bench.method_cases import METHOD_CASES
from bench.model_case import CARD, CARD_SIZES, CASES, LAYER, Shape
from models import pretended_card
from models.cards import card_of

TINY = Shape(6, 128, 2, 1, 96, 160, visual=128, text=10, batch=2, dtype="bfloat16")
CLOCKS = {"driver": "580.1", "clocks.sm": "1980 MHz"}


@pytest.fixture(params=["pretended", "cuda"])
def card(request, monkeypatch):
    """Where there is none its memory is always as full, and models come to it from the CPU."""
    with card_of(request.param, monkeypatch) as found:
        if not found.real:
            for name in ("memory_allocated", "max_memory_allocated"):
                monkeypatch.setattr(torch.cuda, name, lambda: 5)
            for name in ("synchronize", "empty_cache", "reset_peak_memory_stats"):
                monkeypatch.setattr(torch.cuda, name, lambda: None)
            built = model_case.build
            monkeypatch.setattr(model, "build", lambda shape, device: pretended_card.onto_card(built(shape)))
            monkeypatch.setattr(model, "attention_kernels", lambda *_: ["flash_fwd_kernel"])
            monkeypatch.setattr(model, "attention_backends", lambda *_: {"flash": 6})
        yield found


def test_every_case_is_measured_on_a_card(card):
    entries = model.run(TINY, rounds=1, decoded=2, device="cuda")
    assert [entry["name"] for entry in entries] == [case.name for case in CASES]
    for entry, case in zip(entries, CASES, strict=True):
        assert set(entry["timings"]) == {"prefill", "token", *(["reduce"] if case.method else [])}
        assert all(timing["min_ms"] > 0 for timing in entry["timings"].values())
        columns = sum(10 + visual for visual in entry["visual_by_layer"][:LAYER])
        assert entry["cache_bytes"] >= 2 * TINY.column_bytes() * columns
        assert sum(entry["backends"].values()) == 6
        assert (entry["peak_bytes"] > 0) == card.real
    assert [entry["visual_after"] for entry in entries[:5]] == [128, 128, 64, 32, 13]
    kernels = {entry["name"]: entry["kernels"] for entry in entries if "kernels" in entry}
    assert set(kernels) == {"stock", "llava-onevision-7b"}
    assert all(any("flash" in name for name in names) for names in kernels.values())


def test_sizes_without_a_mask_leave_attention_fused(card):
    """FlashAttention, PyTorch's or cuDNN's; the first of them takes no mask."""
    if not card.real:
        pytest.skip("what attention runs on is a card's to choose")
    for entry in model.run(TINY, rounds=1, decoded=1, device="cuda"):
        if entry["attention"] == "dense":
            assert entry["backends"].get("flash", 0) <= LAYER
        else:
            assert set(entry["backends"]) <= {"flash", "cudnn"}


def test_every_method_is_measured_on_a_card(card):
    shape = Shape(8, 128, 2, 1, 96, 160, visual=64, text=10, dtype="bfloat16")
    entries = model.run(shape, METHOD_CASES, rounds=1, decoded=1, device="cuda")
    assert [entry["name"] for entry in entries] == [case.name for case in METHOD_CASES]
    assert all(entry["timings"]["reduce"]["rounds"] == 1 for entry in entries[1:])


def test_what_is_not_reached_in_time_is_left_out():
    assert model.run(Shape(6, 64, 4, 2, 96, 160, visual=16, text=4), deadline=0.0) == []


def facts(monkeypatch):
    """Of a card that was invented."""
    own = {"gpu": "Invented H100", "clocks_before": CLOCKS, "sources": "0", "library": {}}
    monkeypatch.setattr(model, "why_not", lambda: None)
    monkeypatch.setattr(model, "clocks", lambda: CLOCKS)
    monkeypatch.setattr(model, "gpu_facts", lambda commit: {**gpu_timing.machine_facts(), **own, "commit": commit})
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


def test_the_record_of_a_card(monkeypatch, tmp_path, capsys):
    """Two sizes, a table for each, in bench/results by the name of the card; with the CPU's times."""
    facts(monkeypatch)
    measured = model.run

    def on_the_cpu(shape, cases, rounds, bar, device, deadline):
        assert device == "cuda"
        assert rounds == model.CARD_ROUNDS
        entries = measured(shape, cases[:3], 1, 1)
        return [{**entry, "peak_bytes": 7 << 20, "kernels": ["flash_fwd"]} for entry in entries]

    monkeypatch.setattr(model, "run", on_the_cpu)
    monkeypatch.setattr(model, "RESULTS", tmp_path)
    monkeypatch.setattr(model, "CARD", Shape(6, 64, 4, 2, 96, 160))
    assert model.main(["--device", "cuda", "--visual", "16", "36", "--commit", "abcd" * 10]) == 0
    target = tmp_path / "invented-h100-model.json"
    record, text = json.loads(target.read_text()), target.with_suffix(".md").read_text()
    assert [entry["visual"] for entry in record["cases"]] == 3 * [16] + 3 * [36]
    assert record["facts"]["commit"] == "abcd" * 10
    assert text.startswith("Invented H100, driver 580.1, clocks 1980 MHz before and 1980 MHz after; ")
    shapes = [line for line in text.splitlines() if line.startswith("6 layers")]
    assert [line.partition("float32; ")[2] for line in shapes] == [f"{n} visual and 64 text tokens" for n in (16, 36)]
    head = [line for line in text.splitlines() if line.startswith("| configuration")]
    assert len(head) == 2
    cells = [cell.strip() for cell in head[0].strip("|").split("|")]
    assert cells == [*model_table.COLUMNS, *model_table.CARD_COLUMNS]
    half = dict(zip(cells, model_table.rows(record, model_table.sizes(record)[1])[2], strict=True))
    assert (half["visual"], half["peak MiB"], half["sdpa"]) == ("18", "7", "flash 6")
    assert "Kernels of attention, stock, 36: flash_fwd." in text
    assert capsys.readouterr().out.startswith(model_table.plain(record))


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [([], CARD_SIZES), (["--quick"], (2880,)), (["--methods"], (2880,)), (["--visual", "64"], (64,))],
)
def test_sizes_of_a_card(monkeypatch, tmp_path, arguments, sizes):
    facts(monkeypatch)
    asked = []
    monkeypatch.setattr(model, "run", lambda shape, *_, **__: asked.append(shape) or [])
    assert model.main(["--device", "cuda", "--batch", "3", "--json", str(tmp_path / "m.json"), *arguments]) == 0
    assert tuple(shape.visual for shape in asked) == sizes
    assert {(shape.batch, shape.layers, shape.hidden, shape.dtype) for shape in asked} == {(3, 28, 3584, "bfloat16")}
    assert json.loads((tmp_path / "m.json").read_text())["cases"] == []


def test_the_shape_of_a_card_is_qwen2_7b_s():
    key_width = 4 * 128
    assert CARD.weights == 2 * 3584 * 3584 + 2 * 3584 * key_width + 3 * 3584 * 18944
    assert CARD.column_bytes() == 2 * key_width * 2
    assert "bfloat16; 2880 visual and 64 text tokens" in model_case.describe(CARD)


def test_rows_of_a_batch_share_the_count():
    shape = Shape(6, 64, 4, 2, 96, 160, visual=64, text=4, batch=3)
    stock, half = model.run(shape, (CASES[0], CASES[2]), rounds=1, decoded=1)
    assert (stock["visual_after"], half["visual_after"]) == (64, 32)
    assert half["cache_bytes"] == 3 * shape.column_bytes() * (LAYER * 68 + (6 - LAYER) * 36)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_card_nothing_is_written(tmp_path, capsys):
    assert model.main(["--device", "cuda", "--json", str(tmp_path / "m.json")]) == 1
    assert capsys.readouterr().err.startswith("Nothing is measured and nothing written: ")
    assert list(tmp_path.iterdir()) == []
