"""Hand-made descriptors of image patches. They stand in for the keys and queries of a vision-language model.

Three heads of 16 numbers, each a classical view of a patch:
    color     OKLab mean of the patch's four quadrants, and the spread of each OKLab axis
    texture   the 15 lowest frequencies of the lightness's cosine transform, the mean left out
    gradient  a histogram of gradient orientations, 12 bins weighted by magnitude; its sum and largest bin; the spread
              of the magnitude
The sixteenth number is the same for every patch (see `keys_and_queries`).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..drawing.palette import oklab

ORIENTATIONS = 12
LOW = 4  # a side of the square of lowest frequencies
LIFT = 0.4
# The typical length of each head is measured over the photograph, but is at least this, a tenth of an ordinary
# photograph's: otherwise the sensor noise of a blank wall would be blown up to a texture.
SHORTEST = torch.tensor([0.05, 0.01, 0.005])


def keys_and_queries(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Descriptors of sRGB patches ``[n, 3, p, p]`` as keys and queries, both ``[n, 3, 16]`` float32.

    Keys: each head is centred on the photograph's mean and divided by its typical length, so that the cosine compares
    what sets patches apart. The constant sixteenth number keeps two nearly average patches close: without it the
    direction of the little that sets them apart would be noise.
    Queries: the same, not centred. EUTI looks at the mean query, and the mean of centred ones is zero.
    """
    lab = oklab(patches.movedim(1, -1))  # [n, p, p, 3]
    lightness = lab[..., 0]
    heads = torch.stack([_color(lab), _texture(lightness), _gradient(lightness)], dim=1)  # [n, 3, 15]
    centered = heads - heads.mean(dim=0)
    length = centered.square().sum(dim=-1).mean(dim=0).sqrt().maximum(SHORTEST)[:, None]  # [3, 1]
    lift = torch.full_like(heads[..., :1], LIFT)
    return torch.cat([centered / length, lift], dim=-1), torch.cat([heads / length, lift], dim=-1)


def _color(lab: Tensor) -> Tensor:
    half = lab.shape[1] // 2
    halves = lab[:, :half].mean(dim=1), lab[:, half:].mean(dim=1)
    quadrants = [part.mean(dim=1) for row in halves for part in (row[:, :half], row[:, half:])]
    return torch.cat([*quadrants, lab.flatten(1, 2).std(dim=1)], dim=1)


def _texture(lightness: Tensor) -> Tensor:
    p = lightness.shape[1]
    frequency, x = torch.arange(LOW)[:, None], torch.arange(p)
    basis = torch.cos(math.pi * frequency * (2 * x + 1) / (2 * p)) * math.sqrt(2 / p)  # DCT-II, [LOW, p]
    basis[0] /= math.sqrt(2)
    return (basis @ lightness @ basis.T).flatten(1)[:, 1:] / p


def _gradient(lightness: Tensor) -> Tensor:
    dy, dx = torch.gradient(lightness, dim=(1, 2))
    magnitude = torch.hypot(dx, dy).flatten(1)
    position = torch.atan2(dy, dx).flatten(1).remainder(math.pi) * (ORIENTATIONS / math.pi)  # in bins
    lower = position.floor()
    share = position - lower  # a gradient between two bins is shared by both
    bins = lower.long() % ORIENTATIONS
    histogram = magnitude.new_zeros(magnitude.shape[0], ORIENTATIONS)
    histogram.scatter_add_(1, bins, magnitude * (1 - share))
    histogram.scatter_add_(1, (bins + 1) % ORIENTATIONS, magnitude * share)
    histogram /= magnitude.shape[1]
    summary = [histogram.sum(1), histogram.amax(1), magnitude.std(1)]
    return torch.cat([histogram, torch.stack(summary, dim=1)], dim=1)
