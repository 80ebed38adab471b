"""The baselines and the methods on the decoder's attention, from their papers: loops, dense attention, float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def attention(queries: Tensor, keys: Tensor, scale: float | None = None) -> Tensor:
    """Causal softmax attention ``[Hq, q, n]`` of queries ``[q, Hq, dh]``, the last ones, over keys ``[n, Hk, dh]``."""
    q, heads, width = queries.shape
    n = len(keys)
    keys = keys.double().repeat_interleave(heads // keys.shape[1], dim=1)
    logits = torch.einsum("qhd,nhd->hqn", queries.double(), keys) * (width**-0.5 if scale is None else scale)
    hidden = torch.arange(n)[None, :] > torch.arange(n - q, n)[:, None]
    return logits.masked_fill(hidden, -math.inf).softmax(dim=-1)


def best(scores: list[float], count: int) -> list[int]:
    """Indices of the largest, ascending; ties to the lower index."""
    return sorted(sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:count])


def fastv(weights: Tensor, visual: list[int], count: int, rows: str) -> list[int]:
    """Which of the visual tokens stay, given attention ``[H, N, N]`` over the whole sequence."""
    n = weights.shape[1]
    asked = {"last": [n - 1], "all": range(n), "prefix": range(visual[-1] + 1)}[rows]
    scores = [sum(float(weights[head, row, at]) for head in range(len(weights)) for row in asked) for at in visual]
    return best([score / len(weights) / len(asked) for score in scores], count)


def pyramiddrop(stages: list[Tensor], visual: list[int], share: float) -> list[list[int]]:
    """The places that are left after each stage, given attention ``[H, N, N]`` over the whole sequence in the layer
    before each; what is gone is seen by nobody any more, so attention is made anew of the columns that are left."""
    left, gone, found = list(visual), [], []
    for weights in stages:
        last = weights[:, -1].clone()
        last[:, gone] = 0
        last = (last / last.sum(dim=1, keepdim=True)).mean(dim=0)
        count = max(1, math.floor(len(left) * share + 0.5))
        kept = [left[i] for i in best([float(last[at]) for at in left], count)]
        gone += [at for at in left if at not in kept]
        left = kept
        found.append(left)
    return found


def downsample(rows: int, columns: int, wanted: float) -> tuple[list[list[int]], list[int]]:
    """The cells of a grid, each as the tokens in it, and the middle token of each.

    Of the shapes next to the grid scaled down to the budget, the one of the nearest number of cells; the flatter one of
    two that are equally near.
    """
    scale = math.sqrt(min(1.0, wanted / (rows * columns)))
    shapes = [
        (r, c)
        for r in range(1, rows + 1)
        for c in range(1, columns + 1)
        if abs(r - max(1.0, rows * scale)) < 1 and abs(c - max(1.0, columns * scale)) < 1
    ]
    r, c = min(shapes, key=lambda shape: (abs(shape[0] * shape[1] - wanted), shape))
    down = [[y for y in range(rows) if y * r // rows == cell] for cell in range(r)]
    across = [[x for x in range(columns) if x * c // columns == cell] for cell in range(c)]
    cells = [[y * columns + x for y in ys for x in xs] for ys in down for xs in across]
    middles = [ys[(len(ys) - 1) // 2] * columns + xs[(len(xs) - 1) // 2] for ys in down for xs in across]
    return cells, middles
