"""PACT: prune by importance, cluster what is left, merge (Dhouib et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass, field

from .. import reduction
from ..config import PactConfig
from .method import Method, Selection, budget, changed
from .view import View


@dataclass(frozen=True)
class Pact(Method):
    """PACT as published, where how many tokens are left is for the data to say; or with an exact budget, which is ours.

    Attributes:
        config: its parameters.
        keep: share of the tokens that is left, or their number: see `pact_ext.ops.reduce_to`. None is the published
            method.
    """

    name = "pact"
    source = "Dhouib et al., PACT, CVPR 2025"
    needs = frozenset({"keys", "queries", "turned_keys"})
    layer_argument = "config.layer"

    config: PactConfig = field(default_factory=PactConfig)
    keep: float | int | None = None

    def __post_init__(self) -> None:
        if self.keep is not None:
            self.check_keep()

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.config.layer,)

    def count(self, n: int, site: int = 0) -> int | None:
        return None if self.keep is None else budget(n, self.keep)

    def select(self, view: View) -> Selection:
        found = reduction.reduce(
            view.hidden,
            view.keys,
            view.queries,
            cluster_keys=view.turned_keys,
            config=self.config,
            count=self.count(len(view)),
        )
        return Selection(found.centers, found.labels, found.merged, found.sizes)

    def __str__(self) -> str:
        arguments = {**changed(self.config), **({} if self.keep is None else {"keep": self.keep})}
        text = ",".join(f"{name}={value}" for name, value in arguments.items())
        return self.name + (f":{text}" if text else "")
