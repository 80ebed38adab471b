"""A method over what the projector gives for one picture: how many rows stay, and the rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import Grid, Method, View


@dataclass(frozen=True)
class Rows:
    """Both halves of the agreement between an engine's placeholders and its model.

    Attributes:
        method: one that `settings.refusal` lets pass.
        square: a picture's tokens are a square grid, row by row; otherwise they lie in no single grid.
    """

    method: Method
    square: bool = False

    def __post_init__(self) -> None:
        if "grids" in self.method.needs and not self.square:
            raise ValueError(
                f"{self.method} needs the grid of a picture's tokens, and this model cuts pictures into parts, with a "
                "token behind each row: it is served for models whose pictures are one square, as LLaVA-1.5"
            )

    def count(self, n: int) -> int:
        """How many of a picture's n tokens stay: arithmetic of the host."""
        return self.method.count_on([self._grid(n)]) if "grids" in self.method.needs else self.method.count(n)

    def reduce(self, features: Tensor) -> Tensor:
        """The rows that stay, ``[count(n), d]`` of ``[n, d]``, in their order and of their dtype.

        A picture's rows depend on nothing but themselves, so that pictures may be cached, and every process that holds
        the same rows decides alike. Nothing is read back from the device.
        """
        parts = {"row": 0}
        if "grids" in self.method.needs:
            parts["grids"] = [Grid(torch.arange(len(features)), *self._grid(len(features)))]
        selection = self.method.select(View(features, needs=self.method.needs, **parts))
        return features[selection.kept] if selection.hidden is None else selection.hidden

    def _grid(self, n: int) -> tuple[int, int]:
        side = math.isqrt(n)
        if side * side != n:
            raise ValueError(f"{self.method} needs a picture's tokens to be a square grid, got {n} of them")
        return side, side
