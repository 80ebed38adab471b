"""k-means on the keys: one of the clusterings that PACT compares with (Dhouib et al., CVPR 2025, fig. 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .merging import everything, merged, nearest_members, numbered, segment_mean, single
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class KMeans(Method):
    """Lloyd's k-means by Euclidean distance on the keys after rotary embedding, all heads of a token as one vector.
    Each cluster is averaged at its token nearest to the centroid, and counts by its size in attention. (Distances
    within a ten-thousandth are a tie, as are those of any two tokens alone in a cluster; it goes to the lower index.)

    It starts at random tokens, as the comparison's library (faiss) does, drawn on the CPU, the same on every device.
    Exactly as many clusters come out as are asked for: an empty one takes the token that is farthest from its own
    centroid and not the nearest to it of its cluster. (The comparison's code leaves out those that end up empty.)

    Attributes:
        keep: share of the tokens, or their number: how many clusters.
        layer: at whose input.
        iterations: at most so many moves of the centroids; fewer where none moves any more.
        seed: of the draw.
    """

    name = "kmeans"
    source = "Lloyd's k-means; compared in Dhouib et al., PACT, CVPR 2025"
    needs = frozenset({"turned_keys"})

    keep: float | int = 0.4
    layer: int = 4
    iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        self.check_keep()
        self.check_layer()
        self.check_layer("iterations", least=1)
        self.check_layer("seed")

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        n, count = len(view), self.count(len(view))
        if count == n:
            return everything(view)
        keys = single(view.turned_keys).flatten(1)
        keys = keys - keys.mean(dim=0)  # the same distances, and less to cancel in them
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[:count]
        centroids = keys[drawn.to(keys.device)]
        labels, nearest = _assigned(keys, centroids)
        for _ in range(self.iterations):
            before, (centroids, _) = labels, segment_mean(keys, labels, count)
            labels, nearest = _assigned(keys, centroids)
            if torch.equal(labels, before):
                break
        return merged(view, *numbered(nearest, labels))


def _assigned(keys: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each token, ties to the lower one, and the nearest token of each centroid's cluster."""
    count = len(centroids)
    labels = (centroids.square().sum(dim=1) - 2 * (keys @ centroids.T)).argmin(dim=1)
    distance = (keys - centroids[labels]).square().sum(dim=1)
    nearest, sizes = nearest_members(distance, labels, count, rtol=1e-4)
    # The nearest token of each cluster stays, and the farthest of the others go to the empty clusters.
    empty = sizes == 0
    stays = torch.zeros_like(labels).index_add_(0, nearest, (~empty).to(torch.int64)) > 0
    farthest = distance.masked_fill(stays, -1).sort(descending=True, stable=True).indices
    nearest = torch.where(empty, farthest[empty.cumsum(0) - 1], nearest)
    return labels.scatter(0, nearest, torch.arange(count, device=keys.device)), nearest
