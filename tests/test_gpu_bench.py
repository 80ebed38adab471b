"""bench.gpu: without a GPU nothing is measured and nothing written; floors; the table of a record; stale records."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu, gpu_model, gpu_table, gpu_timing

ROOT = Path(__file__).parents[1]
RECORDS = sorted((ROOT / "bench" / "results").glob("*.json"))


def test_without_a_gpu_nothing_is_written(tmp_path):
    def files():
        return {
            path: path.stat().st_mtime_ns for path in (ROOT / "bench").rglob("*") if "__pycache__" not in path.parts
        }

    before = files()
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "bench.gpu"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert result.stderr.startswith("Nothing is measured and nothing written: ")
    assert result.stdout == ""
    assert files() == before
    assert list(tmp_path.iterdir()) == []


def test_floors_of_the_yardstick():
    """LLaVA-OneVision-7B at n = 8192 in bfloat16, on a card of 4.3 TB/s and 790 TFLOP/s: by hand."""
    rates = gpu_model.Rates(4.3e12, {"bfloat16": 790e12})

    def floor(op, centers=None):
        return 1e6 * rates.floor(gpu_model.work(op, 8192, 512, 2, centers), "bfloat16")

    assert floor("euti_scores") == pytest.approx(29.2, abs=0.1)
    assert floor("segment_mean", 2400) == pytest.approx(17.7, abs=0.1)
    assert floor("assign", 2400) == pytest.approx(25.5, abs=0.1)
    assert floor("density") == pytest.approx(43.5, abs=0.1)
    assert floor("reduce", 2400) == pytest.approx(29.2 + 13.2 + 11.5 + 17.7, abs=0.2)


def test_prefill_is_about_two_operations_for_each_weight_and_token():
    assert gpu_model.prefill_flops(1000, 512) == pytest.approx(2 * 6.5e9 * 1000, rel=0.05)
    assert gpu_model.prefill_flops(1000, 4096) == pytest.approx(2 * 6.5e9 * 1000, rel=0.05)


@pytest.fixture
def record():
    """Invented numbers, to see the table: they are never written beside real ones."""
    timing = {"median_us": 100.0, "p10_us": 90.0, "p90_us": 110.0, "runs": 5}
    case = {
        "n": 4506,
        "dk": 512,
        "dtype": "float32",
        "bytes": 1e8,
        "operations": 1e9,
        "floor_us": 20.0,
        "prefill_us": 1e5,
    }
    timings = {"ours": timing, "mm": {**timing, "median_us": 200.0}}
    shared = {**case, "timings": timings, "memory_mib": {"ours": 3.5}, "centers": 12}
    clocks = {"driver": "580.1", "clocks.sm": "1980 MHz", "clocks.max.sm": "1980 MHz"}
    facts = {
        "gpu": "Invented",
        "capability": "9.0",
        "torch": "2.11",
        "pact_ext": "0",
        "commit": "0" * 40,
        "time": "now",
    }
    facts |= {"clocks_before": clocks, "clocks_after": clocks, "changed_since_commit": False}
    facts["rates"] = {"bytes_per_second": 4e12, "flops_per_second": {"bfloat16": 8e14, "float32": 5e13}}
    return {"facts": facts, "cases": [{**shared, "op": op} for op in ("euti_scores", "dbdpc", "reduce")]}


def test_table(record):
    lines = gpu_table.markdown(record).splitlines()
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ") for line in lines if line.startswith("| ")}
    columns = list(gpu_table.COLUMNS)
    row = dict(zip(columns, cells["reduce"], strict=True))
    assert row["us"] == "100"
    assert row["/mm"] == "0.500"
    assert row["/eager"] == "-"
    assert row["/floor"] == "5.00"
    assert row["of prefill"].startswith("0.10 %")
    assert cells["euti_scores"][columns.index("achieved")] == "1.00 TB/s"
    assert cells["dbdpc"][columns.index("achieved")] == "10.0 TFLOP/s"
    assert "- dbdpc n=4506 dk=512 float32: of the bare product (goal: at most 1): 0.5, met" in lines
    assert any("reduce n=8192" in line and line.endswith("not measured") for line in lines)
    assert gpu_table.plain(record).splitlines()[0].startswith("Invented (sm_90), driver 580.1")


def test_plot(record, tmp_path):
    pytest.importorskip("matplotlib")
    (tmp_path / "r.json").write_text(json.dumps(record))
    assert gpu.main(["--plot", str(tmp_path / "r.json")]) == 0
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_records_are_of_the_kernels_that_are_here(path):
    record = json.loads(path.read_text())
    assert record["facts"]["commit"], "a record names the commit it measured"
    if record["facts"]["sources"] != gpu_timing.sources_hash():
        pytest.skip(f"csrc/cuda has changed since {path.name} was measured: `make gpu-bench` on such a card renews it")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_reason_is_named():
    assert gpu.why_not() is not None
