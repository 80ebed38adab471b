"""pact_ext.plot_tokens: what became of a picture's tokens, drawn over the picture."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from ..models.grids import Grid
from ..reduction import Reduction
from .palette import DISCARDED, palette

if TYPE_CHECKING:
    import numpy
    from PIL.Image import Image


def plot_tokens(
    image: Image | str | os.PathLike | numpy.ndarray | torch.Tensor,
    reduction: Reduction,
    grid: Grid | tuple[int, int],
    *,
    start: int = 0,
    side: int = 768,
    opacity: float = 0.6,
) -> Image:
    """Draw the clusters of a picture's tokens over the picture, which is in grey, so that any hue is a cluster's.

    Tokens of one cluster share a colour: a vivid one when the cluster merges two tokens or more, a pale one when a
    token stayed alone. A line runs between clusters, a dot marks the centre of each merged one, and discarded tokens
    are grey and hatched. Every token is drawn as large as every other, a whole number of pixels. The same arguments
    give the same picture.

    Args:
        image: the picture: Pillow's, a file, or ``[H, W, 3]`` in uint8 or floating point from 0 to 1. It is stretched
            over the grid, so it should be what the model saw.
        reduction: of the prompt that holds the picture, such as ``handle.last[0]``.
        grid: rows and columns of the picture's tokens, or what `pact_ext.models.image_grid` says.
        start: the picture's first token among those of the reduction; a `Grid` brings its own.
        side: about the longer side of what is drawn, in pixels; small tokens make it larger.
        opacity: of the colours, 0 to 1; at 1 nothing of the picture is left.

    Returns:
        An RGB image.

    Raises:
        ImportError: Pillow is missing.
        TypeError: an argument of another type.
        ValueError: a grid that does not fit the reduction, or a value out of range; FileNotFoundError for no file.
    """
    try:
        from . import token_map
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        raise ImportError("pact_ext.plot_tokens needs Pillow: pip install 'pact-ext[models]'", name="PIL") from None
    if not isinstance(reduction, Reduction):
        raise TypeError(f"pact_ext.plot_tokens: reduction must be a pact_ext.Reduction, got {type(reduction).__name__}")
    start, rows, columns = _grid(grid, start)
    if start + rows * columns > reduction.n_in:
        raise ValueError(
            f"pact_ext.plot_tokens: grid must fit the reduction's {reduction.n_in} tokens, got {rows} x {columns} from "
            f"token {start} on, which needs {start + rows * columns}"
        )
    if not _is_int(side) or not 1 <= side <= 16384:
        raise ValueError(f"pact_ext.plot_tokens: side must be an integer in 1 to 16384 pixels, got {side!r}")
    if isinstance(opacity, bool) or not isinstance(opacity, int | float) or not 0 <= opacity <= 1:
        raise ValueError(f"pact_ext.plot_tokens: opacity must be a number in 0 to 1, got {opacity!r}")
    picture = token_map.picture(image)

    labels = reduction.labels[start : start + rows * columns].cpu()
    shown, position = labels.unique(return_inverse=True)  # far fewer than all when the picture is one tile of many
    kept = shown >= 0
    colors = torch.full((len(shown), 3), DISCARDED)
    colors[kept] = palette(reduction.sizes.cpu()[shown[kept]])

    merged = reduction.centers[reduction.sizes > 1].cpu() - start
    merged = merged[(merged >= 0) & (merged < rows * columns)]
    centers = torch.stack([merged // columns, merged % columns], dim=1).tolist()
    return token_map.draw(
        picture, labels.reshape(rows, columns), colors[position].reshape(rows, columns, 3), centers, side, opacity
    )


def _grid(grid: Grid | tuple[int, int], start: int) -> tuple[int, int, int]:
    if isinstance(grid, Grid):
        if start != 0:
            raise ValueError(f"pact_ext.plot_tokens: start must be left out beside a Grid, got {start!r}")
        return grid.start, grid.rows, grid.columns
    if not isinstance(grid, tuple | list) or len(grid) != 2 or not all(_is_int(n) and n > 0 for n in grid):
        raise ValueError(f"pact_ext.plot_tokens: grid must be (rows, columns), both 1 or more, got {grid!r}")
    if not _is_int(start) or start < 0:
        raise ValueError(f"pact_ext.plot_tokens: start must be an integer of 0 or more, got {start!r}")
    return start, *grid


def _is_int(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
