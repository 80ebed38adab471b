"""Agglomerative clustering of the keys: one of the clusterings that PACT compares with (Dhouib et al., fig. 8)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference.pact import working
from .clustering import Clustering
from .merging import distances, nearest_members, numbered, segment_mean


@dataclass(frozen=True)
class Agglomerative(Clustering):
    """Joins the two nearest clusters until so many are left. Keys after rotary embedding, cosine distance. Each is
    averaged at the member of the smallest cosine distance to its mean key, and counts by its size in attention.

    Of pairs equally near, the one with the lowest first tokens is joined first. The merging itself runs on the CPU,
    over an n x n matrix and one pair after the other.

    Attributes:
        keep: share of the tokens, or their number: how many clusters.
        layer: at whose input.
        linkage: how near two clusters are: their nearest members, "single"; all pairs on average, "average"; their
            farthest members, "complete".
    """

    name = "agglomerative"
    source = "hierarchical clustering; compared in Dhouib et al., PACT, CVPR 2025"

    linkage: str = "single"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check("linkage", "'single', 'average' or 'complete'", self.linkage in ("single", "average", "complete"))

    def clusters(self, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        keys = working(keys).flatten(1)
        labels = joined(distances(keys).cpu(), count, self.linkage).to(keys.device)
        means, _ = segment_mean(keys, labels, count)
        cosine = torch.nn.functional.cosine_similarity(keys, means[labels], dim=1, eps=0).nan_to_num(0)
        tokens, _ = nearest_members(1 - cosine, labels, count, atol=1e-6)
        return numbered(tokens, labels)


def joined(distance: Tensor, count: int, linkage: str) -> Tensor:
    """Labels ``[n]``, the cluster of each token, numbered by their first tokens; `distance` is overwritten."""
    n = len(distance)
    distance.fill_diagonal_(torch.inf)
    # Of each cluster, which is known by its first token, how near the nearest other is, and which that is.
    nearest, other = distance.min(dim=1)
    sizes, parent = [1] * n, list(range(n))
    for _ in range(n - count):
        a = int(nearest.argmin())
        b = int(other[a])  # beyond a, or b would have been found first
        between = _between(distance[a], distance[b], sizes[a], sizes[b], linkage)
        sizes[a] += sizes[b]
        parent[b] = a
        between[[a, b]] = torch.inf
        distance[a], distance[:, a] = between, between
        distance[b], distance[:, b] = torch.inf, torch.inf
        nearest[b] = torch.inf
        # Who had a or b as the nearest may have to look for another; who did not may have got a nearer one.
        lost = (other == a) | (other == b)
        closer = (between < nearest) | (between == nearest) & (lost | (other > a))
        nearest[closer], other[closer] = between[closer], a
        again = lost & ~closer & (nearest < torch.inf)
        again[a] = True
        rows = again.nonzero().flatten()
        nearest[rows], other[rows] = distance[rows].min(dim=1)
    for token in range(n):  # a parent is lower, and so is done
        parent[token] = parent[parent[token]]
    return torch.tensor(parent).unique(return_inverse=True)[1]


def _between(to_a: Tensor, to_b: Tensor, size_a: int, size_b: int, linkage: str) -> Tensor:
    """Distances from the union of two clusters, by those from each (Lance & Williams 1967)."""
    if linkage == "single":
        return torch.minimum(to_a, to_b)
    if linkage == "complete":
        return torch.maximum(to_a, to_b)
    return (size_a * to_a + size_b * to_b) / (size_a + size_b)
