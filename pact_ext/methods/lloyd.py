"""Lloyd's k-means, the same for the same points."""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 30  # at most; none changes anything once the clusters stand


def lloyd(points: Tensor, count: int) -> Tensor:
    """The cluster of each point ``[n]``, in [0, count), by Euclidean distance; a cluster can be empty.

    Seeds are the point nearest the mean of all, then always the point farthest from those so far; ties go to the lower
    index, of point or cluster. A cluster that loses its last point keeps its centre.

    Args:
        points: ``[n, d]``, float32 or float64.
        count: in [1, n].
    """
    seeds = [_distances(points, points.mean(dim=0, keepdim=True))[:, 0].argmin()]
    nearest = torch.full_like(points[:, 0], torch.inf)
    while len(seeds) < count:
        nearest = nearest.minimum(_distances(points, points[seeds[-1]][None])[:, 0])
        seeds.append(nearest.argmax())
    centers = points[torch.stack(seeds)]
    for _ in range(STEPS):
        labels = _distances(points, centers).argmin(dim=1)
        occupied = torch.zeros(count, dtype=torch.bool, device=points.device)
        occupied[labels] = True
        centers = means(points, labels, count).where(occupied[:, None], centers)
    return _distances(points, centers).argmin(dim=1)


def means(points: Tensor, labels: Tensor, count: int) -> Tensor:
    """Mean of the points of each cluster ``[count, d]``; zeros for an empty one."""
    member = (labels == torch.arange(count, device=points.device)[:, None]).to(points.dtype)
    return member @ points / member.sum(dim=1, keepdim=True).clamp(min=1)


def _distances(points: Tensor, centers: Tensor) -> Tensor:
    """``[n, count]``, from the differences: from products near points would be equally far."""
    return torch.cdist(points, centers, compute_mode="donot_use_mm_for_euclid_dist")
