"""Microbenchmarks of the operators, against the reference, the compiled reference and the bare product.

Times every case under pytest-benchmark, measures peak memory in fresh processes, prints a table of ratios, and
writes three files: the record (JSON), the same table in Markdown, and pytest-benchmark's own JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from . import memory, table
from .cases import OPERATORS, QUICK_SIZES, QUICK_WIDTHS, SIZES, WIDTHS, Case, model_shape
from .record import machine_facts, make_record

HERE = Path(__file__).parent
EAGER_MEMORY_BELOW = (
    4e10  # n * n * dk; a larger call of the reference takes many seconds, and the matrices are the same
)


def _listed(values: Iterable) -> str:
    return ",".join(map(str, values))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Options, with the sizes that were left open filled in."""
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench", description=first, epilog=rest)
    parser.add_argument(
        "--quick", action="store_true", help=f"only n = {_listed(QUICK_SIZES)} and dk = {_listed(QUICK_WIDTHS)}"
    )
    parser.add_argument(
        "--ops",
        nargs="+",
        choices=OPERATORS,
        default=OPERATORS,
        metavar="OP",
        help=f"of {', '.join(OPERATORS)} (default: all)",
    )
    parser.add_argument("--n", nargs="+", type=int, metavar="N", help=f"tokens (default: {_listed(SIZES)})")
    parser.add_argument("--dk", nargs="+", type=int, metavar="DK", help=f"key widths (default: {_listed(WIDTHS)})")
    parser.add_argument(
        "--json", type=Path, metavar="PATH", help="the record (default: .bench/cpu.json, or cpu-quick.json)"
    )
    options = parser.parse_args(argv)
    options.n = options.n or list(QUICK_SIZES if options.quick else SIZES)
    options.dk = options.dk or list(QUICK_WIDTHS if options.quick else WIDTHS)
    options.json = options.json or HERE.parent / ".bench" / ("cpu-quick.json" if options.quick else "cpu.json")
    for name in ("ops", "n", "dk"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))  # a size given twice is one size
    if min(options.n) < 1 or min(options.dk) < 1:
        parser.error("--n and --dk must be positive")
    try:
        for dk in options.dk:
            model_shape(dk)
    except ValueError as error:
        parser.error(str(error))
    return options


class Progress:
    """A pytest plugin: moves the bar, and keeps what went wrong."""

    def __init__(self, bar: tqdm, cases_after: int) -> None:
        self.bar, self.cases_after, self.failures = bar, cases_after, []

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Now the number of timings is known."""
        self.bar.reset(total=len(session.items) + self.cases_after)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Shows what is running."""
        self.bar.set_description_str(nodeid.partition("[")[2].rstrip("]"))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One step at the end of each timing."""
        if report.failed:
            self.failures.append(f"{report.nodeid}\n{report.longreprtext}")
        if report.when == "teardown":
            self.bar.update()


def time_cases(options: argparse.Namespace, progress: Progress, raw: Path) -> list[dict]:
    """Run pytest-benchmark over the cases; its JSON goes to `raw`."""
    arguments = [str(HERE / "test_ops.py"), f"--rootdir={HERE.parent}", "-p", "no:cacheprovider", "-q", "-s"]
    arguments += ["--benchmark-only", "--benchmark-quiet", "--benchmark-disable-gc", f"--benchmark-json={raw}"]
    arguments += [
        f"--bench-ops={_listed(options.ops)}",
        f"--bench-n={_listed(options.n)}",
        f"--bench-dk={_listed(options.dk)}",
    ]
    raw.unlink(missing_ok=True)
    report = io.StringIO()
    with contextlib.redirect_stdout(report):
        status = pytest.main(arguments, plugins=[progress])
    if status and not progress.failures:
        progress.failures.append(report.getvalue())
    return json.loads(raw.read_text())["benchmarks"] if raw.exists() else []


def measure_memory(cases: list[Case], progress: Progress) -> dict[Case, dict[str, float]]:
    """MiB beyond inputs and outputs of each case, float32; a process for each, as many at once as there are cores."""
    found: dict[Case, dict[str, float]] = {}

    def measure(case: Case) -> None:
        for name in ("ours", "eager") if case.product < EAGER_MEMORY_BELOW else ("ours",):
            try:
                mib = memory.measure_in_fresh_process(*case, torch.float32, name)
                found.setdefault(case, {})[f"{name} float32"] = mib
            except RuntimeError as error:
                progress.failures.append(str(error))

    progress.bar.set_description_str("memory")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(measure, cases):
            progress.bar.update()
    return found


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 when a measurement failed."""
    options = parse(argv)
    facts = machine_facts()
    options.json.parent.mkdir(parents=True, exist_ok=True)
    raw = options.json.with_suffix(".pytest-benchmark.json")
    cases = [Case(op, n, dk) for n in options.n for dk in options.dk for op in options.ops]
    with tqdm(
        total=len(cases), file=sys.stderr, disable=None, leave=False, unit="run"
    ) as bar:  # None: only on a terminal
        progress = Progress(bar, cases_after=len(cases))
        benchmarks = time_cases(options, progress, raw)
        found = measure_memory(cases, progress) if memory.available() else {}
    record = make_record(facts, benchmarks, found)
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(table.markdown(record))

    print(table.plain(record))
    if not memory.available():
        print("Peak memory was not measured: it is read from /proc, which only Linux has.")
    print(f"\nWritten: {options.json}, and beside it .md and .pytest-benchmark.json")
    for failure in progress.failures:
        print(f"\nFAILED: {failure}", file=sys.stderr)
    return int(bool(progress.failures))


if __name__ == "__main__":
    sys.exit(main())
