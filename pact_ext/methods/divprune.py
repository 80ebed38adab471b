"""DivPrune: the tokens that are farthest from each other (Alvar et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class DivPrune(Method):
    """Keeps tokens whose smallest cosine distance is large: one after another the token farthest from those chosen.

    Attributes:
        keep: share of the tokens, or their number.
        start: the first token: "farthest", the lower one of the farthest pair; "isolated", the token whose nearest
            neighbour is farthest away, as in the public code.
    """

    name = "divprune"
    source = "Alvar et al., DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models, CVPR 2025"

    keep: float | int = 0.098
    start: str = "farthest"

    def __post_init__(self) -> None:
        self.check_keep()
        self.check("start", "'farthest' or 'isolated'", self.start in ("farthest", "isolated"))

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        keys = view.hidden.float()
        first = _isolated(keys) if self.start == "isolated" else None
        return Selection(ops.farthest_points(keys, self.count(len(view)), first=first).sort().values)


ROWS = 1024  # of the distance matrix at a time


def _isolated(keys: Tensor) -> int:
    """The token with the largest distance to its nearest neighbour."""
    unit = torch.nn.functional.normalize(keys, dim=1)
    nearest = []
    for begin in range(0, len(unit), ROWS):
        cosine = unit[begin : begin + ROWS] @ unit.T
        cosine.diagonal(begin).fill_(-torch.inf)
        nearest.append(cosine.amax(dim=1))
    return int(torch.cat(nearest).argmin())
