"""DBSCAN of the keys: one of the clusterings that PACT compares with (Ester et al., KDD 1996)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .merging import distances, merged, nearest_members, numbered
from .method import Method, Selection
from .view import View


@dataclass(frozen=True)
class DBSCAN(Method):
    """A token with many neighbours is a core; cores that are neighbours are of one cluster, with all their neighbours.
    A token that is near no core is a cluster of its own. How many come out is for the data to say.

    Keys after rotary embedding, cosine distance. A token near cores of several clusters joins the one whose first core
    comes first, as where clusters are grown one after another. Each is averaged at the member with most neighbours
    (ties: lower index), and counts by its size in attention. PACT's comparison measures neighbours by the Euclidean
    distance e of unit vectors, which is the cosine distance e^2 / 2: its script's e = 0.7 is the default here.

    An n x n matrix is made, and as many passes over it as a cluster's longest chain of cores needs.

    Attributes:
        eps: neighbours are at most this cosine distance apart, in [0, 2].
        min_samples: so many neighbours, itself among them, make a core.
        layer: at whose input.
    """

    name = "dbscan"
    source = "Ester et al., DBSCAN, KDD 1996; compared in Dhouib et al., PACT, CVPR 2025"
    needs = frozenset({"turned_keys"})

    eps: float = 0.245
    min_samples: int = 5
    layer: int = 4

    def __post_init__(self) -> None:
        number = isinstance(self.eps, int | float) and not isinstance(self.eps, bool)
        self.check("eps", "a cosine distance in [0, 2]", number and 0 <= self.eps <= 2)
        self.check_layer("min_samples", least=1)
        self.check_layer()

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def select(self, view: View) -> Selection:
        near = distances(view.turned_keys) <= self.eps
        neighbours = near.sum(dim=1)
        near_core = near & (neighbours >= self.min_samples)
        # A cluster is known by its first core: every token takes the lowest that it can see, until none changes.
        index = torch.arange(len(view), device=near.device)
        cluster = index
        while True:
            lowest = torch.where(near_core, cluster, len(view)).amin(dim=1)
            lowest = torch.where(near_core.diagonal(), lowest, index)
            lowest = lowest[lowest]
            if torch.equal(lowest, cluster):
                break
            cluster = lowest
        to_core = torch.where(near_core, cluster, len(view)).amin(dim=1)
        cluster = torch.where(near_core.any(dim=1), to_core, index)
        first, labels = cluster.unique(return_inverse=True)
        tokens, _ = nearest_members(-neighbours.float(), labels, len(first))
        return merged(view, *numbered(tokens, labels))
