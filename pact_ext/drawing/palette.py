"""A colour for every cluster."""

from __future__ import annotations

import torch
from torch import Tensor

DISCARDED, HATCH, BORDER = 0.78, 0.6, 0.2  # greys: of discarded tokens, the lines over them, and between clusters

_TO_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def oklab(srgb: Tensor) -> Tensor:
    """sRGB in [0, 1] to OKLab, both ``[..., 3]``: lightness in [0, 1], then the green-red and blue-yellow axes.

    A colour space in which equal distances look about equally large (B. Ottosson, 2020).
    """
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return (linear @ _TO_CONES.T).clamp(min=0) ** (1 / 3) @ _TO_LAB.T


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
    points = lab.T.contiguous()
    apart = torch.full_like(points[0], torch.inf)
    chosen = []
    for _ in range(min(count, chosen_apart)):
        chosen.append(int(apart.argmax()))
        dx, dy, dz = (points - points[:, chosen[-1:]]).square_()
        apart = torch.minimum(apart, dx.add_(dy).add_(dz))
    free = torch.ones(len(rgb), dtype=torch.bool)
    free[chosen] = False
    order = torch.cat([torch.tensor(chosen, dtype=torch.int64), free.nonzero().flatten()])
    return rgb[order[:count]], rgb[order[count:]]
