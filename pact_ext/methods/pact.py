"""PACT: prune by importance, cluster what is left, merge (Dhouib et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import reduction
from ..config import PactConfig
from .method import Method, Selection
from .view import View


@dataclass(frozen=True)
class Pact(Method):
    """PACT as published: how many tokens are left is for the data to say.

    Attributes:
        config: its parameters.
    """

    name = "pact"
    source = "Dhouib et al., PACT, CVPR 2025"
    needs = frozenset({"keys", "queries", "turned_keys"})
    layer_argument = "config.layer"

    config: PactConfig = field(default_factory=PactConfig)

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.config.layer,)

    def select(self, view: View) -> Selection:
        found = reduction.reduce(
            view.hidden, view.keys, view.queries, cluster_keys=view.turned_keys, config=self.config
        )
        return Selection(found.centers, found.labels, found.merged, found.sizes)
