"""A batch in one call beside one call for each of its sequences: ``python -m bench.batch``.

Both take turns in one run; a ratio below 1 says that the one call is faster. The sequences are tiles of a vision tower
(729 tokens), pictures of many sizes, or a single one, which must cost what it costs alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch

from pact_ext import ops

from .cases import Inputs, arguments
from .record import machine_facts

OPERATORS = {f"{op}_packed": op for op in ("euti_scores", "dbdpc", "reduce", "reduce_to")} | {"reduce_padded": "reduce"}
BATCHES = {
    "32 of 729": [729] * 32,
    "16 from 64 to 4096": [round(64 * 64 ** (i / 15)) for i in range(16)],
    "1 of 729": [729],
    "1 of 2880": [2880],
}
SECONDS, FEWEST_ROUNDS = 2.0, 7


def calls(op: str, lengths: list[int], dtype: torch.dtype, device: str) -> tuple[Callable, Callable]:
    """The one call, and the calls one by one of its operator for one sequence."""
    alone = [arguments(OPERATORS[op], Inputs(n, 512, dtype, device)) for n in lengths]
    packed = [
        torch.cat(parts) if isinstance(parts[0], torch.Tensor) else parts
        for parts in zip(*(positional for positional, _ in alone), strict=True)
    ]
    tensors = [x for x in packed if isinstance(x, torch.Tensor)]
    numbers = [x[0] for x in packed[len(tensors) :]]
    if op == "reduce_to_packed":  # whose first number is a budget, of each sequence its own
        numbers[0] = torch.tensor(packed[len(tensors)], dtype=torch.int32)
    if op == "reduce_padded":
        numbers.insert(0, (max(lengths) + 1) // 2)  # more than the clusters of any
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    options = alone[0][1]
    one, each = getattr(ops, op), getattr(ops, OPERATORS[op])
    return (
        lambda: one(*tensors, bounds, *numbers, **options),
        lambda: [each(*positional, **options) for positional, _ in alone],
    )


def milliseconds(functions: tuple[Callable, ...], synchronize: Callable[[], None]) -> list[float]:
    """The median of each, in turns."""
    times: list[list[float]] = [[] for _ in functions]
    for function in functions:
        function()
    end = time.monotonic() + SECONDS
    while len(times[0]) < FEWEST_ROUNDS or time.monotonic() < end:
        for function, found in zip(functions, times, strict=True):
            synchronize()
            start = time.perf_counter()
            function()
            synchronize()
            found.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.batch", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU that torch can use")
    cuda = options.device == "cuda"
    facts = machine_facts()
    where = torch.cuda.get_device_name() if cuda else f"{facts['cpu']}, {facts['threads']} threads, {facts['isa']}"
    print(f"{where}, torch {facts['torch']}, commit {str(facts['commit'])[:12]}, bfloat16\n")
    print("| sequences | operator | one call, ms | one by one, ms | ratio |\n|---|---|---:|---:|---:|")
    for title, lengths in BATCHES.items():
        for op in OPERATORS:
            functions = calls(op, lengths, torch.bfloat16, options.device)
            packed, alone = milliseconds(functions, torch.cuda.synchronize if cuda else lambda: None)
            print(f"| {title} | `{op}` | {packed:.3g} | {alone:.3g} | {packed / alone:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
