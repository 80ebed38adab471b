"""EntropyPrune: the tokens without which the matrix entropy falls most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..reference import largest
from ..reference.pact import working
from .lloyd import lloyd, spread
from .merging import segment_mean
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class EntropyPrune(Method):
    """Clusters the tokens by k-means, and keeps the tokens nearest the centroids of the clusters that carry most
    entropy (algorithm 1): those whose centroid's removal lowers the entropy of all centroids most (eq. 5).

    Of clusters with fewer members all stay, so how many tokens that makes is for the data to say. k-means is `lloyd`
    from the tokens of `spread`.

    Attributes:
        clusters: how many, M; as many as tokens where these are fewer.
        core: how many of them stay, k_c.
        per_cluster: how many tokens of each, t_pc.
        naive: no clusters; the tokens whose own removal lowers the entropy most (eq. 3), at a cost of n^4.
        keep: share of the tokens that stay when naive, or their number.
        layer: at whose input.
        rollout: the first of the layers up to `layer` whose scores are combined (eq. 6), those of their inputs;
            None: no others. The equation's products of matrices are read along their diagonals: a score becomes
            (H + 1) times that of the layer before. Clusters are those of the last layer throughout.
    """

    name = "entropyprune"
    source = "Lin, Li, Wu & Zhang, token pruning by hierarchical matrix entropy (in Chinese), USTC"
    needs = frozenset({"earlier"})

    clusters: int = 32
    core: int = 16
    per_cluster: int = 2
    naive: bool = False
    keep: float | int = 0.5
    layer: int = 0
    rollout: int | None = None

    def __post_init__(self) -> None:
        for argument in ("clusters", "core", "per_cluster"):
            self.check_layer(argument, least=1)
        self.check("naive", "True or False", isinstance(self.naive, bool))
        self.check_keep()
        self.check_layer()
        if self.rollout is not None:
            self.check_layer("rollout")
            self.check("rollout", f"at most layer, {self.layer}", self.rollout <= self.layer)

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def looks(self, layers: int) -> tuple[int, ...]:
        return () if self.rollout is None else tuple(range(self.rollout, self.layer))

    def count(self, n: int, site: int = 0) -> int | None:
        return budget(n, self.keep) if self.naive else None

    def select(self, view: View) -> Selection:
        states = [working(hidden) for hidden in (*view.earlier, view.hidden)]
        if self.naive:
            return Selection(largest(rollout([entropy_drops(x) for x in states]), self.count(len(view))))
        count = min(self.clusters, len(view))
        labels, _ = lloyd(states[-1], spread(states[-1], count))
        scores = rollout([entropy_drops(segment_mean(x, labels, count)[0]) for x in states])
        core = torch.zeros(count, dtype=torch.bool, device=labels.device)
        core.index_fill_(0, largest(scores, min(self.core, count)), True)
        # Ranks within clusters: tokens by cluster, then by distance, then by index; less where a cluster begins.
        points = states[-1].double()  # in which the two tokens of a pair are as near as each other
        means, sizes = segment_mean(points, labels, count)
        distance = (points - means[labels]).norm(dim=1)
        order = distance.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        rank = torch.empty_like(labels)
        rank[order] = torch.arange(len(labels), device=labels.device) - (sizes.cumsum(0) - sizes)[labels[order]]
        return Selection((core[labels] & (rank < self.per_cluster)).nonzero().flatten())


EPSILON = 1e-12  # of eq. 2


def entropy(gram: Tensor) -> Tensor:
    """Matrix entropy ``[...]`` of Gram matrices ``[..., n, n]``, eq. 2; 0 for a zero matrix."""
    values = torch.linalg.eigvalsh(gram.double()).clamp(min=0)
    total = values.sum(dim=-1, keepdim=True)
    p = torch.where(total > 0, values / total, 0)
    return -(p * (p + EPSILON).log()).sum(dim=-1)


def entropy_drops(points: Tensor) -> Tensor:
    """What each point's removal takes from the entropy of all, float64 ``[n]``: eq. 3 and 5. Removed is what has zeros
    in its row and column, which add nothing to the entropy."""
    unit = normalize(points.double(), dim=1)
    gram, drops = unit @ unit.T, []
    for removed in torch.eye(len(unit), dtype=torch.bool, device=unit.device).split(ROWS):
        drops.append(entropy(gram) - entropy(gram.masked_fill(removed[:, None] | removed[:, :, None], 0)))
    return torch.cat(drops)


ROWS = 32  # matrices at a time


def rollout(scores: list[Tensor]) -> Tensor:
    """Those of several layers as one, eq. 6."""
    combined = scores[0]
    for score in scores[1:]:
        combined = (score + 1) * combined
    return combined
