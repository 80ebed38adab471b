"""Proofs that a clustering is the one answer, up to rounding (contract section 3).

The greedy set of centres S is unique: S is the answer exactly when (a) no two members are within dc of each other,
and (b) every other token is within dc of a member that comes before it. Distances and densities here are float64;
a pair inside the margin may go either way.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pact_ext import ops, reference

# A float32 cosine of vectors up to dk = 4096 is off by less than 1e-6 (about 8 roundings of 1): twice that.
DISTANCE_MARGIN = 2e-6


def density_margin(dn: float, gaussian: bool, margin: float = DISTANCE_MARGIN) -> float:
    """Relative: a term changes by the distance error times the slope of its exponent, at most; and a few ulp."""
    slope = (2 / dn) * (2 / dn) if gaussian else 1 / dn
    return margin * slope + 1e-6


def check_clustering(
    keys: Tensor, dc: float, dn: float, gaussian: bool, centers: Tensor, labels: Tensor, margin: float = DISTANCE_MARGIN
) -> None:
    """Raises AssertionError unless (centers, labels) is the DBDPC clustering of the keys."""
    keys, centers, labels = keys.cpu().double().flatten(1), centers.cpu(), labels.cpu()
    n = keys.shape[0]
    distance = reference.pairwise_distance(keys)
    rho = reference.density_from_distance(distance, dn, gaussian)

    assert (centers.diff() > 0).all(), "centres are not ascending"
    assert centers.min() >= 0
    assert centers.max() < n
    between = distance[centers][:, centers].fill_diagonal_(torch.inf)
    assert (between > min(dc, 9) - margin).all(), "two centres are within dc of each other"

    index = torch.arange(n)
    slack = density_margin(dn, gaussian, margin) * torch.maximum(rho[:, None], rho[None, centers])
    before = (rho[None, centers] > rho[:, None]) | (rho[None, centers] == rho[:, None]) & (centers < index[:, None])
    before |= (rho[None, centers] - rho[:, None]).abs() <= slack
    near = distance[:, centers] <= dc + margin
    covered = (before & near).any(dim=1)
    covered[centers] = True
    assert covered.all(), "a token is no centre, yet no centre before it is within dc"

    assert torch.equal(labels[centers], torch.arange(centers.shape[0])), "a centre is not in its own cluster"
    chosen = distance[index, centers[labels]]
    assert (chosen <= distance[:, centers].min(dim=1).values + margin).all(), "a nearer centre exists"


def replay(distance: Tensor, rho: Tensor, dc: float) -> tuple[Tensor, Tensor]:
    """The sequential algorithm on an operator's own distances and densities: no margin is left."""
    centers = reference.select_centers(distance, rho, dc)
    return centers, reference.nearest_center(distance, centers)[0]


def own_distances(keys: Tensor, centers: Tensor | None = None) -> Tensor:
    """``[n, c]``, the distances the operators see: a column is the distance to one centre alone. By default all."""
    centers = torch.arange(len(keys), device=keys.device) if centers is None else centers
    return torch.stack([ops.assign(keys, center[None], math.inf)[1] for center in centers], dim=1)


def check_budget(
    keys: Tensor, dc: float, dn: float, gaussian: bool, chosen: Tensor, margin: float = DISTANCE_MARGIN
) -> int:
    """Raises AssertionError unless `chosen` are the centres that an exact budget takes from the clustering of the keys,
    by the bits of the other operators; of the distances that tell which centres are added, up to the margin. Returns
    how many centres were found."""
    centers, labels = ops.dbdpc(keys, dc, dn, gaussian=gaussian)
    count, found = len(chosen), len(centers)
    if found >= count:
        sizes, rho = torch.bincount(labels, minlength=found), ops.density(keys, dn, gaussian=gaussian)[centers]
        order = sorted(range(found), key=lambda c: (-int(sizes[c]), -float(rho[c]), c))
        assert torch.equal(chosen, centers[order[:count]].sort().values)
        return found
    assert torch.isin(centers, chosen).all(), "a centre of the plain clustering is gone"
    distance = ops.assign(keys, centers, math.inf)[1]
    others = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    others[centers] = False
    added = torch.zeros_like(others)
    added[chosen] = True
    added &= others
    left = others & ~added
    if left.any():
        assert distance[added].min() >= distance[left].max() - margin, "a token farther from its centre was left"
    return found


def reduction_of_parts(
    hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, gaussian, scores=None, scale=None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `reduce` must return to the bit, from the other operators, one after the other."""
    n = len(hidden)
    if reference.kept_count(n, prune_ratio) == n:
        scores = torch.ones(n, device=hidden.device)
    elif scores is None:
        scores = ops.euti_scores(hidden, keys, queries, scale)
    kept, dropped = reference.split(scores, prune_ratio)
    centers, kept_labels = ops.dbdpc(cluster_keys[kept], dc, dn, gaussian=gaussian)
    centers = kept[centers]
    labels = torch.full((n,), -1, device=hidden.device)
    labels[kept] = kept_labels
    recovered, _ = ops.assign(cluster_keys, centers, alpha * dc if alpha else 0.0)
    labels[dropped] = recovered[dropped]
    merged, sizes = ops.segment_mean(hidden, labels, len(centers))
    return merged, sizes, centers, labels
