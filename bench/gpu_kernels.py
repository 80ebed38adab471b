"""Where a call's time goes on a GPU: each kernel's microseconds, by the profiler, the L2 cache warm.

Prints a table for each operator at a size; what `bench.gpu` measures is the whole call, the cache cold.
"""

from __future__ import annotations

import argparse
import re
import sys

import torch
from torch.profiler import ProfilerActivity, profile

from .cases import ONE_ROW, Inputs, make_call
from .gpu import why_not

CASES = (
    *(("reduce", n, dk, torch.bfloat16) for n, dk in ((8192, 512), (2880, 512), (8192, 4096))),
    ("dbdpc", 4506, 512, torch.float32),
    *(
        (op, 8192, 512, torch.bfloat16)
        for op in ("reduce_to", "received_attention", ONE_ROW, "farthest_points", "dpp_select", "nearest_denser")
    ),
)
RUNS = 10


def kernels(op: str, n: int, dk: int, dtype: torch.dtype) -> dict[str, tuple[float, float]]:
    """By kernel: its launches in a call, and their microseconds together; the longest first."""
    call = make_call(op, "ours", Inputs(n, dk, dtype, "cuda"))
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        for _ in range(RUNS):
            call()
        torch.cuda.synchronize()
    found: dict[str, list[float]] = {}
    for event in profiled.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            found.setdefault(short(event.name), []).append(event.time_range.elapsed_us())
    each = {name: (len(times) / RUNS, sum(times) / RUNS) for name, times in found.items()}
    return dict(sorted(each.items(), key=lambda item: -item[1][1]))


def short(name: str) -> str:
    """Of "void pact::density_kernel<float, true>(...)", "density<float, true>"."""
    found = re.match(r"(?:void )?pact::(\w+?)_kernel(<.*?>)?\(", name)
    return found[1] + (found[2] or "").replace("__nv_", "") if found else name


def markdown(title: str, found: dict[str, tuple[float, float]]) -> str:
    launches, total = (sum(column) for column in zip(*found.values(), strict=True))
    lines = [f"{title}: {total:.1f} us, {launches:.0f} stream operations", "", "| kernel | launches | us |"]
    lines += ["|---|---:|---:|", *(f"| `{name}` | {count:g} | {us:.1f} |" for name, (count, us) in found.items())]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    argparse.ArgumentParser(prog="python -m bench.gpu_kernels", description=first, epilog=rest).parse_args(argv)
    problem = why_not()
    if problem:
        print(f"Nothing is measured: {problem}.", file=sys.stderr)
        return 1
    for op, n, dk, dtype in CASES:
        name = str(dtype).removeprefix("torch.")
        print(markdown(f"`{op}`, n = {n}, dk = {dk}, {name}", kernels(op, n, dk, dtype)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
