"""Measures the operators on a GPU: ``python -m bench.gpu``. Without one it writes nothing.

Times each operator and the bare n x n x dk product first, then what the paper's authors published, the reference, and
the reference under torch.compile, each until the time that is allowed has gone; what was not reached stays empty.
Writes the record (JSON), a table (Markdown), and a plot where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pact_ext import _library

from . import gpu_table
from .cases import OPERATORS, PUBLISHED, Case, Inputs, center_count, make_call
from .gpu_model import prefill_flops, work
from .gpu_timing import Timer, clocks, gpu_facts, measure_rates, peak_extra_mib, record_name

RESULTS = Path(__file__).parent / "results"
# In the order of measuring, what the goals are about first.
SIZES, QUICK_SIZES = (4506, 8192, 729, 2880, 16384), (4506, 8192)
FIRST = ("dbdpc", "reduce")
DTYPES = (torch.bfloat16, torch.float32)
PASSES = (("ours", "mm"), ("published",), ("eager",), ("compiled",))


def parse(argv: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=first, epilog=rest)
    parser.add_argument("--quick", action="store_true", help=f"only n = {QUICK_SIZES}, dk = 512")
    parser.add_argument("--seconds", type=float, default=480, help="time allowed in all (default: %(default)s)")
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--plot", type=Path, metavar="RECORD", help="only draw an existing record")
    return parser.parse_args(argv)


def why_not() -> str | None:
    """Why nothing can be measured here, or None."""
    if torch.version.cuda is None:
        return "this torch is not a CUDA build"
    if not torch.cuda.is_available():
        return "there is no GPU that torch can use"
    if not _library.cuda_loadable():
        return "libpact_cuda.so was not built: PACT_CUDA=1 python setup.py build_ext --inplace"
    return None


def measure(case: Case, dtype: torch.dtype, names: tuple[str, ...], inputs: Inputs, timer: Timer) -> dict[str, Any]:
    """Timings of the implementations, memory and number of centers; what does not fit in memory is left out."""
    found: dict[str, Any] = {"timings": {}, "memory_mib": {}}
    for name in names:
        if name == "published" and case.op not in PUBLISHED:
            continue
        try:
            if name == "compiled":
                torch._dynamo.reset()  # or it would give up compiling after some sizes
            call = make_call(case.op, name, inputs)
            result = call()
            if name == "ours":
                found["centers"] = center_count(case.op, result, inputs)
            del result
            if name in ("ours", "published", "eager"):
                found["memory_mib"][name] = peak_extra_mib(call)
            found["timings"][name] = timer(call)
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return found


def _order(item: tuple[tuple[Case, torch.dtype], dict]) -> tuple:
    (case, dtype), _ = item
    return OPERATORS.index(case.op), case.dk, DTYPES.index(dtype), case.n


def progress(text: str) -> None:
    print(f"\r{text:<100}", end="", file=sys.stderr, flush=True)


def run(options: argparse.Namespace, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The cases, measured pass by pass."""
    deadline = time.monotonic() + options.seconds
    timer = Timer()
    rates = measure_rates(timer)
    facts["rates"] = asdict(rates)
    sizes, widths = (QUICK_SIZES, (512,)) if options.quick else (SIZES, (512, 4096))
    entries: dict[tuple[Case, torch.dtype], dict[str, Any]] = {}
    for names in PASSES:
        for dk, n, dtype in itertools.product(widths, sizes, DTYPES):
            if names != PASSES[0] and time.monotonic() > deadline:
                continue
            inputs = Inputs(n, dk, dtype, "cuda")
            for op in sorted(OPERATORS, key=lambda op: op not in FIRST):
                if names != PASSES[0] and time.monotonic() > deadline:
                    break
                case = Case(op, n, dk)
                progress(f"{op} n={n} dk={dk} {dtype} {', '.join(names)}")
                new = measure(case, dtype, names, inputs, timer)
                entry = entries.setdefault((case, dtype), {"timings": {}, "memory_mib": {}, "centers": None})
                entry["timings"].update(new["timings"])
                entry["memory_mib"].update(new["memory_mib"])
                entry["centers"] = new.get("centers", entry["centers"])
            del inputs
            torch.cuda.empty_cache()
    progress("")
    for (case, dtype), entry in sorted(entries.items(), key=_order):
        name = str(dtype).removeprefix("torch.")
        least = work(case.op, case.n, case.dk, dtype.itemsize, entry["centers"])
        yield {
            **case._asdict(),
            "dtype": name,
            **entry,
            "bytes": least.bytes,
            "operations": least.operations,
            "floor_us": 1e6 * rates.floor(least, name),
            "prefill_us": 1e6 * prefill_flops(case.n, case.dk) / rates.flops_per_second["bfloat16"],
        }


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    if options.plot:
        print(f"Written: {gpu_table.plot(json.loads(options.plot.read_text()), options.plot.with_suffix('.png'))}")
        return 0
    problem = why_not()
    if problem:
        print(f"Nothing is measured and nothing written: {problem}.", file=sys.stderr)
        return 1
    torch.backends.cuda.matmul.allow_tf32 = False
    facts = gpu_facts(options.commit)
    record = {"facts": facts, "cases": list(run(options, facts))}
    facts["clocks_after"] = clocks()

    name = record_name(facts["gpu"]) + ("-quick" if options.quick else "")
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(record, indent=1) + "\n")
    target.with_suffix(".md").write_text(gpu_table.markdown(record))
    written = [target, target.with_suffix(".md")]
    try:
        written.append(gpu_table.plot(record, target.with_suffix(".png")))
    except ImportError:
        print("No plot: matplotlib is not installed. python -m bench.gpu --plot RECORD draws it elsewhere.")
    print(gpu_table.plain(record))
    print("\nWritten:", *written)
    return 0


if __name__ == "__main__":
    sys.exit(main())
