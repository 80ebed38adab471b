"""Where the patches of a picture's tiles lie: which tile each token is of, and what part of the whole it shows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .families.family import ImageTokens


class TileTokens(NamedTuple):
    """Of one tile, which of its image's tokens are its patches, row by row; and of a part which patches of the whole
    view show the same, None for the whole view itself."""

    tokens: Tensor
    region: Tensor | None


def tiles_of(image: ImageTokens, count: int) -> list[TileTokens]:
    """The tiles of an image, the one that shows the whole first, each of `count` patches.

    The parts together show the whole without the padding around it, which unpadding has cropped from them. A patch of
    the whole view belongs to the part in which its middle lies.
    """
    patches, rows, columns = image.patches, image.rows, image.columns
    tile = patches.div(count, rounding_mode="floor")
    whole = TileTokens(torch.nonzero(tile == 0).flatten(), None)
    if image.tiles == 1:
        return [whole]
    inside = patches % count
    y = (tile - 1) // image.tile_columns * rows + inside // columns
    x = (tile - 1) % image.tile_columns * columns + inside % columns
    down, across = (_tile_of_each(places[tile > 0], side) for places, side in ((y, rows), (x, columns)))
    shown_by = (down[:, None] * image.tile_columns + across + 1).flatten()
    parts = [TileTokens(*((of == t).nonzero().flatten() for of in (tile, shown_by))) for t in range(1, image.tiles)]
    return [whole, *parts]


def _tile_of_each(places: Tensor, side: int) -> Tensor:
    """Along one axis, the tile in which the middle of each of the whole view's `side` patches lies, given the places,
    in patches, that are left of all tiles' patches."""
    first, last = int(places.min()), int(places.max()) + 1
    twice = 2 * side * first + (2 * torch.arange(side) + 1) * (last - first)  # the middles, times twice the side
    return twice // (2 * side * side)
