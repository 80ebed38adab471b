"""A method over what the projector gives for one picture: how many rows stay, and the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..methods import Grid, Method, Selection, View

Layout = Literal["square", "grids", "parts"]
Shapes = Sequence[tuple[int, int]]  # rows and columns


@dataclass(frozen=True)
class Rows:
    """Both halves of the agreement between an engine's placeholders and its model.

    Attributes:
        method: one that `settings.refusal` lets pass.
        layout: what is known of where a picture's tokens lie. "square": a square grid, row by row; "grids": the grids
            that come with them, row by row, one for each frame; "parts": no single grid.
    """

    method: Method
    layout: Layout = "parts"

    def __post_init__(self) -> None:
        if self._wants_grids and self.layout == "parts":
            raise ValueError(
                f"{self.method} needs the grid of a picture's tokens, and this model cuts pictures into parts, with a "
                "token behind each row: it is served for models whose pictures are one grid, as LLaVA-1.5 and Qwen2-VL"
            )

    def count(self, n: int, grids: Shapes = ()) -> int:
        """How many of a picture's n tokens, in grids of these shapes, stay: arithmetic of the host."""
        return self.method.count_on(self._shapes(n, grids)) if self._wants_grids else self.method.count(n)

    def choose(self, features: Tensor, grids: Shapes = ()) -> Selection:
        """Of a picture's rows ``[n, d]``, in grids of these shapes, the count(n) that stay, in their order.

        They depend on nothing but themselves, so that pictures may be cached, and every process that holds the same
        rows decides alike. Nothing is read back from the device.
        """
        parts: dict = {"row": 0}
        if self._wants_grids:
            parts["grids"], first = [], 0
            for rows, columns in self._shapes(len(features), grids):
                parts["grids"].append(Grid(torch.arange(first, first + rows * columns), rows, columns))
                first += rows * columns
        return self.method.select(View(features, needs=self.method.needs, **parts))

    def reduce(self, features: Tensor, grids: Shapes = ()) -> Tensor:
        """The rows that `choose` leaves, ``[count(n), d]``, of the dtype of `features`."""
        selection = self.choose(features, grids)
        return features[selection.kept] if selection.hidden is None else selection.hidden

    @property
    def _wants_grids(self) -> bool:
        return "grids" in self.method.needs

    def _shapes(self, n: int, grids: Shapes) -> Shapes:
        if self.layout == "grids":
            return grids
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"{self.method} needs a picture's tokens to be a square grid, got {n} of them")
        return [(side, side)]
