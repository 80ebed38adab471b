"""Random tokens: what every method has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class Random(Method):
    """Keeps tokens drawn without replacement, the same on every device.

    Attributes:
        keep: share of the tokens, or their number.
        layer: at whose input.
        seed: of the draw; rows of a batch draw apart, and a call draws what the one before drew.
    """

    name = "random"
    source = "a baseline"
    needs = frozenset({"row"})

    keep: float | int = 0.5
    layer: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_keep()
        self.check_layer()
        self.check_layer("seed")

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + view.row)
        drawn = torch.randperm(len(view), generator=generator, device="cpu")[: self.count(len(view))]
        return Selection(drawn.sort().values.to(view.hidden.device, non_blocking=True))
