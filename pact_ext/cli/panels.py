"""What the four panels show, as arrays: one function of the photograph, the scores and the reduction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..drawing.palette import DISCARDED, palette
from ..reduction import Reduction
from .photo import Photo


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
