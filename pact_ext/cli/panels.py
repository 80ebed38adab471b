"""What the four panels show, as arrays: one function of the photograph, the scores and the reduction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..reduction import Reduction
from .color import oklab
from .photo import Photo

DISCARDED = 0.78  # grey


@dataclass(frozen=True)
class Panels:
    """Colours are sRGB in [0, 1]; H x W are the photograph's pixels, rows x columns its patches.

    Attributes:
        photo: ``[H, W, 3]``, what was reduced.
        heat: ``[rows, columns]``, the importance score of each patch.
        labels: ``[rows, columns]`` int64, the merged token of each patch, -1 when discarded.
        clusters: ``[rows, columns, 3]``, the colour of each patch's cluster, grey when discarded.
        rebuilt: ``[H, W, 3]``, each patch replaced by its merged token, grey when discarded.
        centers: ``[c', 2]`` int64, row and column of the centre of each cluster of two patches or more.
    """

    photo: Tensor
    heat: Tensor
    labels: Tensor
    clusters: Tensor
    rebuilt: Tensor
    centers: Tensor


def panels(photo: Photo, mean_color: Tensor, scores: Tensor, reduction: Reduction) -> Panels:
    """The panels of a reduction whose hidden states were the patches less `mean_color` ``[3]``."""
    grid = photo.rows, photo.columns
    labels = reduction.labels
    discarded = labels < 0
    color = palette(reduction.sizes)[labels]
    color[discarded] = DISCARDED

    merged = reduction.merged.reshape(-1, 3, photo.patch, photo.patch) + mean_color[:, None, None]
    patches = merged[labels]
    patches[discarded] = DISCARDED

    centers = reduction.centers[reduction.sizes > 1]
    return Panels(
        photo=photo.pixels.movedim(0, -1),
        heat=scores.reshape(grid),
        labels=labels.reshape(grid),
        clusters=color.reshape(*grid, 3),
        rebuilt=photo.unpatch(patches).movedim(0, -1).clamp(0, 1),
        centers=torch.stack([centers // photo.columns, centers % photo.columns], dim=1),
    )


def palette(sizes: Tensor) -> Tensor:
    """A colour of its own for each cluster, ``[c, 3]`` sRGB: vivid for two patches or more, pale for a single patch.

    The larger a cluster, the farther its colour is from all the others (in OKLab). Nothing is drawn by lot.
    """
    levels = torch.linspace(0, 1, 48)
    rgb = torch.cartesian_prod(levels, levels, levels)
    rgb = rgb[torch.arange(len(rgb)) * 7919 % len(rgb)]  # shuffled: 7919 is prime
    lab = oklab(rgb)
    lightness, chroma = lab[:, 0], lab[:, 1:].norm(dim=1)
    vivid = (lightness > 0.45) & (lightness < 0.82) & (chroma > 0.08) & (chroma < 0.17)
    pale = (lightness > 0.86) & (lightness < 0.96) & (chroma > 0.02) & (chroma < 0.08)

    by_size = sizes.sort(descending=True, stable=True).indices
    many, single = by_size[sizes[by_size] > 1], by_size[sizes[by_size] == 1]
    vivid_rgb, vivid_left = _spread(rgb[vivid], lab[vivid], len(many))
    pale_rgb, _ = _spread(rgb[pale], lab[pale], len(single))
    colors = rgb.new_empty(len(sizes), 3)
    colors[many] = vivid_rgb
    colors[single] = torch.cat([pale_rgb, vivid_left])[: len(single)]  # a photograph of thousands of tokens
    return colors


def _spread(rgb: Tensor, lab: Tensor, count: int, chosen_apart: int = 400) -> tuple[Tensor, Tensor]:
    """`count` of the candidates (or all), each of the first `chosen_apart` the farthest from those before; the rest."""
    count = min(count, len(rgb))
    points = lab.numpy()  # steps too small to share between threads
    apart = np.full(len(points), np.inf)
    chosen = []
    for _ in range(min(count, chosen_apart)):
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.square(points - points[chosen[-1]]).sum(axis=1))
    free = torch.ones(len(rgb), dtype=torch.bool)
    free[chosen] = False
    order = torch.cat([torch.tensor(chosen, dtype=torch.int64), free.nonzero().flatten()])
    return rgb[order[:count]], rgb[order[count:]]
