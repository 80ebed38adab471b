"""A smaller picture: what every method has to beat beside random tokens."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .merging import merged, numbered
from .method import Method, Selection, budget
from .view import Grid, View


@dataclass(frozen=True)
class Downsample(Method):
    """Cuts each grid of a picture into cells, about as many as the budget and of about its shape, and keeps one token
    for each, at the place of its middle: the mean of the cell, or the middle token.

    A picture cut into tiles has several grids: the whole view, and each tile, or in LLaVA-NeXT and -OneVision what the
    tiles show together, without its padding. There a token ends each row, and every row of cells keeps one such, the
    mean of those of its rows or the middle one, so the smaller grid has a row's end wherever the larger had; these do
    not count in the budget.

    Attributes:
        keep: share of each grid's tokens; or their number, of which a grid gets its share by size.
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
            places, cells, middle = _cells(grid, *self._cut(grid.rows, grid.columns, n))
            labels[places] = cells + count
            middles.append(places[middle])
            count += len(middle)
        device = view.hidden.device
        kept, labels = numbered(*(x.to(device, non_blocking=True) for x in (torch.cat(middles), labels)))
        return merged(view, kept, labels) if self.pool else Selection(kept)


def _cells(grid: Grid, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """A grid's tokens, the cell of each of so many rows and columns of cells, and which token is the middle of each."""
    row_cells = torch.arange(grid.rows) * rows // grid.rows
    column_cells = torch.arange(grid.columns) * columns // grid.columns
    places = grid.places.cpu().view(grid.rows, grid.columns)
    if grid.ends is not None:  # one more column, of cells of its own
        places = torch.cat([places, grid.ends.cpu()[:, None]], dim=1)
        column_cells, columns = torch.cat([column_cells, torch.tensor([columns])]), columns + 1
    cells = row_cells[:, None] * columns + column_cells
    middle = _middles(row_cells, rows)[:, None] * len(column_cells) + _middles(column_cells, columns)
    return places.flatten(), cells.flatten(), middle.flatten()


def _middles(cells: Tensor, count: int) -> Tensor:
    """The middle of each cell along one side, the lower one of two."""
    members = [(cells == cell).nonzero().flatten() for cell in range(count)]
    return torch.stack([own[(len(own) - 1) // 2] for own in members])
