"""Lloyd's k-means, the same for the same points. Where it starts, the method says: `drawn` or `spread`.

Two ways to start, for the two methods do not mean the same clusters: PACT's comparison starts at random tokens, as its
library does, and EntropyPrune, whose clusters are to cover all that there is, from tokens far from each other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .merging import nearest_members, segment_mean


def lloyd(points: Tensor, start: Tensor, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """The cluster of each point ``[n]``, and the point nearest to each cluster's centroid ``[count]``, by Euclidean
    distance.

    No cluster is empty: one that is takes the point that is farthest from its own centroid and not the nearest to it of
    its cluster. Ties go to the lower index, of point or cluster; distances within a ten-thousandth are one for the
    nearest point, as are those of any two points alone in a cluster.

    Args:
        points: ``[n, d]``, float32 or float64.
        start: int64 ``[count]``, the points that are the first centroids; count in [1, n].
        iterations: at most so many moves of the centroids; fewer where none moves any more.
    """
    points = points - points.mean(dim=0)  # the same distances, and less to cancel in them
    labels, nearest = _assigned(points, points[start])
    for _ in range(iterations):
        before, (centroids, _) = labels, segment_mean(points, labels, len(start))
        labels, nearest = _assigned(points, centroids)
        if torch.equal(labels, before):
            break
    return labels, nearest


def drawn(points: Tensor, count: int, seed: int) -> Tensor:
    """Random points, drawn on the CPU, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(len(points), generator=generator, device="cpu")[:count].to(points.device, non_blocking=True)


def spread(points: Tensor, count: int) -> Tensor:
    """The point nearest the mean of all, then always the point farthest from those so far; ties go to the lower one."""
    chosen = [_distances(points, points.mean(dim=0)).argmin()]
    nearest = torch.full_like(points[:, 0], torch.inf)
    while len(chosen) < count:
        last = points[chosen[-1][None]]  # by a list of one: a number would be read back
        nearest = nearest.minimum(_distances(points, last))
        chosen.append(nearest.argmax())
    return torch.stack(chosen)


def _assigned(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of each point, ties to the lower one, and the nearest point of each centroid's cluster."""
    count = len(centroids)
    labels = (centroids.square().sum(dim=1) - 2 * (points @ centroids.T)).argmin(dim=1)
    distance = (points - centroids[labels]).square().sum(dim=1)
    nearest, sizes = nearest_members(distance, labels, count, rtol=1e-4)
    # The nearest point of each cluster stays, and the farthest of the others go to the empty clusters.
    empty = sizes == 0
    stays = torch.zeros_like(labels).index_add_(0, nearest, (~empty).to(torch.int64)) > 0
    farthest = distance.masked_fill(stays, -1).sort(descending=True, stable=True).indices
    nearest = torch.where(empty, farthest[empty.cumsum(0) - 1], nearest)
    return labels.scatter(0, nearest, torch.arange(count, device=points.device)), nearest


def _distances(points: Tensor, point: Tensor) -> Tensor:
    """``[n]``, from the differences: from products near points would be equally far."""
    return (points - point).square().sum(dim=1)
