"""FastV: the tokens that attention looks at (Chen et al., ECCV 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from ..reference import largest
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class FastV(Method):
    """Keeps the tokens that receive most attention in the layer before, by the mean over its heads.

    Attributes:
        layer: at whose input it prunes, >= 1.
        keep: share of the tokens, or their number.
        rows: whose attention counts: "last", the last query's, as in the public code; "all", every query's, as the
            paper writes it; "prefix", those of the queries before the first text token after the images, as PACT
            compares.
    """

    name = "fastv"
    source = "Chen et al., An Image is Worth 1/2 Tokens After Layer 2, ECCV 2024"
    needs = frozenset({"received"})

    layer: int = 2
    keep: float | int = 0.5
    rows: str = "last"

    def __post_init__(self) -> None:
        self.check_layer(least=1)
        self.check_keep()
        self.check("rows", "'last', 'all' or 'prefix'", self.rows in ("last", "all", "prefix"))

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        return Selection(largest(view.received(self.rows), self.count(len(view))))
