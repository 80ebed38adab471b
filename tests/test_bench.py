"""The benchmarks run and report what they measured; and the bound on memory, which is measured, not timed."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import __main__ as command_line
from bench import batch, cases, memory
from bench.table import reach

ROOT = Path(__file__).parents[1]
MEASURED = ("density", "max_distance")  # in the runs below: what compiles soonest
MEMORY = {"ours": 1.5, "eager": 2.5}  # a stand-in in the runs below: each figure wants a process of its own
TIMED = {"ours float32", "ours bfloat16", "mm float32", "mm bfloat16", "eager float32", "compiled float32"}

needs_proc = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


def python(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)


def bench(patch: pytest.MonkeyPatch, memory_of, *arguments: object) -> tuple[int, str, str]:
    """The command line in this process, which need not load torch and its compiler again: status, output, errors."""
    patch.setattr(memory, "measure_in_fresh_process", memory_of)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as errors:
        status = command_line.main([*map(str, arguments)])
    return status, out.getvalue(), errors.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on tiny inputs: what it printed, its errors, and the folder of its files."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        arguments = ("--ops", *MEASURED, "--n", 64, "--dk", 32, "--json", folder / "tiny.json")
        status, out, errors = bench(patch, lambda *case: MEMORY[case[-1]] + case[0].startswith("max"), *arguments)
    assert status == 0, errors
    return out, errors, folder


@pytest.fixture(scope="module")
def entries(run):
    return json.loads((run[2] / "tiny.json").read_text())["cases"]


@pytest.fixture(scope="module")
def table(run):
    """The printed table: a dictionary of cells for each line."""
    lines = [re.split(r"  +", line.strip()) for line in run[0].split("\n\n")[1].splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


@pytest.mark.parametrize("op", cases.OPERATORS)
def test_what_is_compared_computes_the_same(op):
    """Ours, the eager reference and the one that is compiled get the same inputs in the same order."""
    inputs = cases.Inputs(96, 256)
    ours, eager = (cases.make_call(op, name, inputs)() for name in ("ours", "eager"))
    for mine, other in zip(*(x if isinstance(x, tuple) else (x,) for x in (ours, eager)), strict=True):
        torch.testing.assert_close(mine, other.to(mine.dtype), rtol=1e-5, atol=1e-5)
    assert cases.make_call(op, "mm", inputs)().shape == (() if op == cases.ONE_ROW else (96, 96))


@pytest.mark.parametrize("op", batch.OPERATORS)
def test_one_call_and_the_calls_one_by_one_get_the_same_sequences(op):
    """Scores, merged rows; of dbdpc, whose centres are rows of all sequences, how many."""
    one, each = (call() for call in batch.calls(op, [40, 1, 130], torch.float32, "cpu"))
    if op == "reduce_padded":
        one = torch.cat([rows[:count] for rows, count in zip(one[0], one[-1], strict=True)])
    together, *alone = (x[0] if isinstance(x, tuple) else x for x in (one, *each))
    assert len(together) == sum(map(len, alone))
    assert op == "dbdpc_packed" or torch.equal(together, torch.cat(alone))


def test_every_operator_has_a_case():
    measured = {op.partition(":")[0] for op in cases.OPERATORS} | {*batch.OPERATORS}
    assert measured == {
        name.removeprefix("pact::") for name in torch._C._dispatch_get_all_op_names() if name.startswith("pact::")
    }


def test_every_implementation_is_measured(entries, table):
    assert [entry["op"] for entry in entries] == list(MEASURED)
    assert [row["operator"] for row in table] == list(MEASURED)
    for entry in entries:
        assert (entry["n"], entry["dk"]) == (64, 32)
        assert set(entry["timings"]) == TIMED
        for timing in entry["timings"].values():
            assert 0 < timing["min_ms"] <= timing["median_ms"] <= timing["max_ms"]
            assert timing["rounds"] >= 1


def test_table_shows_the_medians_and_their_quotients(entries, table):
    for entry, row in zip(entries, table, strict=True):
        median = {name: timing["median_ms"] for name, timing in entry["timings"].items()}
        shown = {
            "f32 ms": median["ours float32"],
            "bf16 ms": median["ours bfloat16"],
            "bf16/f32": median["ours bfloat16"] / median["ours float32"],
            "f32/mm": median["ours float32"] / median["mm float32"],
            "bf16/mm": median["ours bfloat16"] / median["mm bfloat16"],
            "f32/eager": median["ours float32"] / median["eager float32"],
            "f32/compiled": median["ours float32"] / median["compiled float32"],
        }
        for column, value in shown.items():
            # Three significant digits, and below 1 three decimals.
            assert float(row[column]) == pytest.approx(value, rel=5.1e-3, abs=5.1e-4), (entry["op"], column)
        rounds = "/".join(
            str(entry["timings"][f"{name} float32"]["rounds"]) for name in ("ours", "mm", "eager", "compiled")
        )
        assert row["rounds"] == rounds


def test_medians_pool_the_rounds_of_every_turn(run, entries):
    raw = json.loads((run[2] / "tiny.pytest-benchmark.json").read_text())
    pooled = {}
    for one in raw["benchmarks"]:
        info = one["extra_info"]
        pooled.setdefault((info["op"], info["implementation"]), []).extend(one["stats"]["data"])
    for entry in entries:
        for name, timing in entry["timings"].items():
            data = sorted(pooled[entry["op"], name])
            assert timing["rounds"] == len(data)
            middle = (data[(len(data) - 1) // 2] + data[len(data) // 2]) / 2
            assert timing["median_ms"] == pytest.approx(1e3 * middle)


def test_markdown_holds_the_same_cells(run, table):
    lines = [line for line in (run[2] / "tiny.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [dict(zip(cells[0], line, strict=True)) for line in cells[1:]] == table


def test_record_names_the_machine(run):
    facts = json.loads((run[2] / "tiny.json").read_text())["facts"]
    assert {"cpu", "threads", "torch", "isa", "commit", "load"} <= set(facts)
    assert facts["cpu"] in run[0]


def test_unmeasured_goals_say_so(run):
    goals = [line for line in run[0].splitlines() if "(goal: at most" in line]
    assert goals
    assert all(line.endswith("not measured in this run") for line in goals)


def test_progress_bar_is_quiet_without_a_terminal(run):
    assert "%|" not in run[1]


@needs_proc
def test_memory_is_in_the_record(entries):
    for more, entry in enumerate(entries):
        assert entry["memory_mib"] == {"ours float32": 1.5 + more, "eager float32": 2.5 + more}


def test_what_failed_is_reported_and_the_rest_is_kept(tmp_path, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("no C++ compiler")

    def no_memory(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "compile", lambda function: no_compiler)
    arguments = ("--ops", "max_distance", "--n", 16, "--dk", 16, "--json", tmp_path / "one.json")
    status, _, errors = bench(monkeypatch, no_memory, *arguments)
    assert status == 1
    assert "no C++ compiler" in errors.partition("FAILED")[2]
    assert ("out of memory" in errors) == memory.available()
    (entry,) = json.loads((tmp_path / "one.json").read_text())["cases"]
    assert set(entry["timings"]) == TIMED - {"compiled float32"}
    assert entry["memory_mib"] == {}


def test_the_command_itself():
    done = python("-m", "bench", "--ops", "sort")
    assert done.returncode == 2
    assert "invalid choice: 'sort'" in done.stderr


@pytest.mark.parametrize("arguments", [("--n", "0"), ("--dk", "200")])
def test_bad_option_is_an_error(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        command_line.parse(list(arguments))
    assert caught.value.code == 2
    assert "error" in capsys.readouterr().err


def test_goals_are_held_against_the_record():
    def line(ours: float, mm: float) -> str:
        timings = {"ours float32": {"median_ms": ours}, "mm float32": {"median_ms": mm}}
        entry = {"op": "dbdpc", "n": 4506, "dk": 512, "timings": timings, "memory_mib": {}}
        return next(text for text in reach({"cases": [entry]}) if "ours float32 / mm float32" in text)

    assert line(74, 100).endswith("0.740, met")
    assert line(76, 100).endswith("0.760, missed")


ALLOCATE = """
import torch
from bench.memory import MIB, peak_extra_bytes

def call(scratch, output):
    scratch = torch.ones(scratch * MIB // 4)  # given back before the call returns: only a peak shows it
    del scratch
    return torch.ones(output * MIB // 4), torch.ones(3)

for sizes in ((96, 1), (96, 32), (0, 64)):
    print(peak_extra_bytes(lambda: call(*sizes)) / MIB)
"""


@needs_proc
def test_memory_tool_sees_an_allocation():
    # What is returned counts as output: the peak is the larger of scratch and output, beyond the output.
    done = python("-c", ALLOCATE)
    assert done.returncode == 0, done.stderr
    assert [float(line) for line in done.stdout.split()] == pytest.approx([95, 64, 0], abs=2)


@needs_proc
def test_memory_tool_sees_the_distance_matrix_of_the_reference():
    mib = memory.measure_in_fresh_process("density", 2048, 64, torch.float32, "eager")
    assert mib > 2 * 2048 * 2048 * 4 / 2**20  # the product, and at least one more of its size


@needs_proc
def test_reduce_stays_within_its_memory():
    """At n = 8192 and d = 3584 one float32 n x n matrix would be 256 MiB. (Half keys are copied to float32.)"""
    assert memory.measure_in_fresh_process("reduce", 8192, 512, torch.bfloat16) <= 64


@pytest.mark.parametrize(
    "module", ["gpu", "gpu_accuracy", "gpu_kernels", "model", "quality.__main__", "quality.on_gpu", "quality.train"]
)
def test_help_is_shown(module, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module(f"bench.{module}").main(["--help"])
    assert end.value.code == 0
    assert "usage: python -m bench" in capsys.readouterr().out
