"""What the clusterings that PACT compares with have in common (Dhouib et al., CVPR 2025, fig. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .merging import everything, merged
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class Clustering(Method):
    """Parts the tokens into as many clusters as are asked for, by their keys after rotary embedding. Each is averaged
    at one of its tokens, and counts by its size in attention.

    Attributes:
        keep: share of the tokens, or their number: how many clusters.
        layer: at whose input.
    """

    needs = frozenset({"turned_keys"})

    keep: float | int = 0.4
    layer: int = 4

    def __post_init__(self) -> None:
        self.check_keep()
        self.check_layer()

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        count = self.count(len(view))
        return everything(view) if count == len(view) else merged(view, *self.clusters(view.turned_keys, count))

    def clusters(self, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Of keys ``[n, Hk, dh]`` the token of each cluster, ascending, and the cluster ``[n]`` of each token."""
        raise NotImplementedError
