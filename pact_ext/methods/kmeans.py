"""k-means on the keys: one of the clusterings that PACT compares with (Dhouib et al., CVPR 2025, fig. 8)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..reference.pact import working
from .clustering import Clustering
from .lloyd import drawn, lloyd
from .merging import numbered


@dataclass(frozen=True)
class KMeans(Clustering):
    """Lloyd's k-means (`lloyd`) by Euclidean distance on the keys after rotary embedding, all heads of a token as one
    vector. Each cluster is averaged at its token nearest to the centroid, and counts by its size in attention.

    It starts at random tokens, as the comparison's library (faiss) does. Exactly as many clusters come out as are asked
    for; the comparison's code leaves out those that end up empty.

    Attributes:
        keep: share of the tokens, or their number: how many clusters.
        layer: at whose input.
        iterations: at most so many moves of the centroids; fewer where none moves any more.
        seed: of the draw.
    """

    name = "kmeans"
    source = "Lloyd's k-means; compared in Dhouib et al., PACT, CVPR 2025"

    iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_layer("iterations", least=1)
        self.check_layer("seed")

    def clusters(self, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        points = working(keys).flatten(1)
        labels, nearest = lloyd(points, drawn(points, count, self.seed), self.iterations)
        return numbered(nearest, labels)
