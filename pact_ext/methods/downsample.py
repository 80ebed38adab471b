"""A smaller picture: what every method has to beat beside random tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .method import Method, Selection, budget
from .view import Grid, View


@dataclass(frozen=True)
class Downsample(Method):
    """Cuts each picture's grid into cells, about as many as the budget and of about its shape, and keeps one token for
    each, at the place of its middle: the mean of the cell, or the middle token.

    Attributes:
        keep: share of each picture's tokens; or their number, of which a picture gets its share by size.
        pool: means of cells, which then count as many tokens in attention; False picks the middle tokens.
        layer: at whose input.
    """

    name = "downsample"
    source = "a baseline"
    needs = frozenset({"grids"})

    keep: float | int = 0.25
    pool: bool = True
    layer: int = 0

    def __post_init__(self) -> None:
        self.check_keep()
        self.check("pool", "True or False", isinstance(self.pool, bool))
        self.check_layer()

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count_on(self, grids: Sequence[tuple[int, int]]) -> int:
        n = sum(math.prod(grid) for grid in grids)
        return sum(math.prod(self._cut(*grid, n)) for grid in grids)

    def _cut(self, rows: int, columns: int, n: int) -> tuple[int, int]:
        """Rows and columns of cells of one picture, when all pictures have n tokens."""
        wanted = budget(n, self.keep) * rows * columns / n
        scale = math.sqrt(min(1.0, wanted / (rows * columns)))
        sides = [{max(1, math.floor(side * scale)), min(side, math.ceil(side * scale))} for side in (rows, columns)]
        return min(itertools.product(*sides), key=lambda shape: (abs(shape[0] * shape[1] - wanted), shape))

    def select(self, view: View) -> Selection:
        n, count = len(view), 0
        labels, middles = torch.empty(n, dtype=torch.int64), []
        for grid in view.grids:
            cells, middle = _cells(grid, *self._cut(grid.rows, grid.columns, n))
            labels[grid.places.cpu()] = cells + count
            middles.append(grid.places.cpu()[middle])
            count += len(middle)
        device = view.hidden.device
        kept, labels = (x.to(device, non_blocking=True) for x in (torch.cat(middles), labels))
        if not self.pool:
            return Selection(kept)
        means, sizes = ops.segment_mean(view.hidden.float(), labels, count)
        return Selection(kept, labels, means.to(view.hidden.dtype), sizes)


def _cells(grid: Grid, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The cell of each token of a grid, and the middle token of each of so many rows and columns of cells."""
    row_cells = torch.arange(grid.rows) * rows // grid.rows
    column_cells = torch.arange(grid.columns) * columns // grid.columns
    cells = (row_cells[:, None] * columns + column_cells).flatten()
    middle = _middles(row_cells, rows)[:, None] * grid.columns + _middles(column_cells, columns)
    return cells, middle.flatten()


def _middles(cells: Tensor, count: int) -> Tensor:
    """The middle of each cell along one side, the lower one of two."""
    members = [(cells == cell).nonzero().flatten() for cell in range(count)]
    return torch.stack([own[(len(own) - 1) // 2] for own in members])
