"""PyramidDrop: fewer tokens at each of some stages (Xing et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass

from ..reference import largest
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class PyramidDrop(Method):
    """At the end of each stage keeps the share of the tokens that the last query attends to most, in the layer before.

    Attributes:
        keep: the share lambda that stays at each stage.
        stages: of equal depth; there is one site fewer.
    """

    name = "pyramiddrop"
    source = "Xing et al., PyramidDrop, CVPR 2025"
    needs = frozenset({"received"})

    keep: float = 0.5
    stages: int = 4

    def __post_init__(self) -> None:
        self.check("keep", "a share in (0, 1]", isinstance(self.keep, float) and 0 < self.keep <= 1)
        self.check("stages", "an integer >= 2", isinstance(self.stages, int) and self.stages >= 2)

    def sites(self, layers: int) -> tuple[int, ...]:
        return tuple(layers * stage // self.stages for stage in range(1, self.stages))

    def count(self, n: int, site: int = 0) -> int:
        for _ in range(site + 1):
            n = budget(n, self.keep)
        return n

    def select(self, view: View) -> Selection:
        return Selection(largest(view.received("last"), self.count(view.n_first, view.site)))
