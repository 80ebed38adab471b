"""How far a GPU's distances are from float64: the largest error of `assign` and `max_distance`, by dtype and width.

Rows of several kinds, from those of random directions to those that a tensor core's truncation costs most: equal terms,
terms of one sign, one element that outweighs the others.
"""

from __future__ import annotations

import argparse
import math
import sys

import torch
from torch import Tensor

from pact_ext import ops, reference

from .gpu import why_not

N, CENTERS = 320, 64
WIDTHS = (256, 512, 768, 1024, 2048, 4096)


def rows(width: int) -> dict[str, Tensor]:
    """By kind, ``[N, width]`` float64."""
    generator = torch.Generator().manual_seed(width)
    noise = torch.randn(N, width, generator=generator, dtype=torch.float64)
    base = torch.randn(N // 8, width, generator=generator, dtype=torch.float64).repeat(8, 1)
    constant = torch.full((N, width), 1 + 85 / 128, dtype=torch.float64)
    constant[:, ::16] += torch.randint(2, constant[:, ::16].shape, generator=generator) / 2
    outweighed = noise.abs()
    outweighed[:, 0] = 24
    return {
        "random": noise,
        "clustered": base + 0.3 * noise,
        "constant": constant,
        "positive": noise.abs(),
        "positive, clustered": (base.abs() + 0.1 * noise).clamp(min=0),
        "offset": 0.3 * noise + 1,
        "one element outweighs": outweighed,
    }


def largest_error(x: Tensor) -> float:
    """Of the distances to 64 of the rows, and of the largest distance."""
    exact, on_card = reference.pairwise_distance(x.double()), x.cuda()
    centers = torch.arange(0, N, N // CENTERS)
    ours = torch.stack([ops.assign(on_card, center[None].cuda(), math.inf)[1] for center in centers], dim=1)
    error = (ours.cpu().double() - exact[:, centers]).abs().max().item()
    return max(error, abs(ops.max_distance(on_card).item() - exact.max().item()))


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    argparse.ArgumentParser(prog="python -m bench.gpu_accuracy", description=first, epilog=rest).parse_args(argv)
    problem = why_not()
    if problem:
        print(f"Nothing is measured: {problem}.", file=sys.stderr)
        return 1
    print(f"{torch.cuda.get_device_name()}, in units of 1e-6\n")
    print("| dtype | rows | " + " | ".join(map(str, WIDTHS)) + " |\n|---|---|" + "---:|" * len(WIDTHS))
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        found = {width: {kind: largest_error(x.to(dtype)) for kind, x in rows(width).items()} for width in WIDTHS}
        for kind in found[WIDTHS[0]]:
            cells = " | ".join(f"{1e6 * found[width][kind]:.2f}" for width in WIDTHS)
            print(f"| {str(dtype).removeprefix('torch.')} | {kind} | {cells} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
