"""PACT: prune by importance, cluster what is left, merge (Dhouib et al., CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from .. import reduction
from ..config import PactConfig
from .method import Method, Selection, budget, changed
from .view import View

SCORES = ("received-last", "received-all", "received-prefix")


@dataclass(frozen=True)
class Pact(Method):
    """PACT as published, where how many tokens are left is for the data to say; or with an exact budget, which is ours.

    Attributes:
        config: its parameters.
        keep: share of the tokens that is left, or their number: see `pact_ext.ops.reduce_to`. None is the published
            method.
        scores: another method's importance in place of PACT's own (EUTI), in front of the same clustering: the
            attention that tokens receive in the layer before, "received-last", "received-all" or "received-prefix", as
            `FastV` with these rows. Ours; None is the published method.
    """

    name = "pact"
    source = "Dhouib et al., PACT, CVPR 2025"
    layer_argument = "config.layer"

    config: PactConfig = field(default_factory=PactConfig)
    keep: float | int | None = None
    scores: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"keys", "queries", "turned_keys"} | ({"received"} if self.scores else set()))

    def __post_init__(self) -> None:
        if self.keep is not None:
            self.check_keep()
        self.check("scores", f"one of {', '.join(SCORES)}, or None", self.scores is None or self.scores in SCORES)
        if self.scores is not None and self.config.layer < 1:
            raise ValueError(f"Pact: config.layer must be an integer >= 1 for scores={self.scores}, got 0")

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
            scores=None if self.scores is None else view.received(self.scores.removeprefix("received-")),
            count=self.count(len(view)),
        )
        return Selection(found.centers, found.labels, found.merged, found.sizes)

    def select_all(self, views: Sequence[View]) -> list[Selection]:
        """In one call, and one wait for the device."""
        if len(views) < 2:
            return super().select_all(views)
        lengths = [len(view) for view in views]
        counts = [self.count(n) for n in lengths]
        scores = [view.received(self.scores.removeprefix("received-")) for view in views] if self.scores else None
        found = reduction.reduce_packed(
            torch.cat([view.hidden for view in views]),
            torch.cat([view.keys for view in views]),
            torch.cat([view.queries for view in views]),
            torch.tensor([0, *accumulate(lengths)], dtype=torch.int32),
            cluster_keys=torch.cat([view.turned_keys for view in views]),
            config=self.config,
            scores=None if scores is None else torch.cat(scores),
            counts=None if self.keep is None else torch.tensor(counts, dtype=torch.int32),
        )
        return [Selection(one.centers, one.labels, one.merged, one.sizes) for one in found]

    def __str__(self) -> str:
        own = {"keep": self.keep, "scores": self.scores}
        arguments = {**changed(self.config), **{name: value for name, value in own.items() if value is not None}}
        text = ",".join(f"{name}={value}" for name, value in arguments.items())
        return self.name + (f":{text}" if text else "")
