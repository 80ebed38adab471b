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
from itertools import pairwise

import torch

from pact_ext import ops

from .cases import CONFIG, Inputs
from .record import machine_facts

BATCHES = {
    "32 of 729": [729] * 32,
    "16 from 64 to 4096": [round(64 * 64 ** (i / 15)) for i in range(16)],
    "1 of 729": [729],
    "1 of 2880": [2880],
}
KEPT = 4  # of so many tokens reduce_to leaves one
SECONDS, FEWEST_ROUNDS = 2.0, 7


def calls(lengths: list[int], dtype: torch.dtype, device: str) -> dict[str, tuple[Callable, Callable]]:
    """By operator: the one call, and the calls one by one."""
    each = [Inputs(n, 512, dtype, device) for n in lengths]
    alone = [(x.hidden, x.keys, x.queries, x.cluster_keys) for x in each]
    batch = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    counts = torch.tensor([max(1, n // KEPT) for n in lengths], dtype=torch.int32)
    numbers = {name: getattr(CONFIG, name) for name in ("prune_ratio", "dc", "dn", "alpha", "gaussian")}
    alone = [[x[begin:end] for x in batch] for begin, end in pairwise(bounds.tolist())]
    return {
        "reduce": (
            lambda: ops.reduce_packed(*batch, bounds, **numbers),
            lambda: [ops.reduce(*own, **numbers) for own in alone],
        ),
        "reduce_to": (
            lambda: ops.reduce_to_packed(*batch, bounds, counts, **numbers),
            lambda: [ops.reduce_to(*own, int(k), **numbers) for own, k in zip(alone, counts, strict=True)],
        ),
    }


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
        for op, functions in calls(lengths, torch.bfloat16, options.device).items():
            packed, alone = milliseconds(functions, torch.cuda.synchronize if cuda else lambda: None)
            print(f"| {title} | `{op}` | {packed:.3g} | {alone:.3g} | {packed / alone:.3f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
