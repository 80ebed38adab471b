"""Proofs that a clustering is the one answer, up to rounding (contract section 3).

The greedy set of centres S is unique: S is the answer exactly when (a) no two members are within dc of each other,
and (b) every other token is within dc of a member that comes before it. Distances and densities here are float64;
a pair inside the margin may go either way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pact_ext import reference

# A float32 cosine of vectors up to dk = 4096 is off by less than 1e-6 (about 8 roundings of 1): twice that.
DISTANCE_MARGIN = 2e-6


def density_margin(dn: float, gaussian: bool) -> float:
    """Relative: a term changes by the distance error times the slope of its exponent, at most; and a few ulp."""
    slope = 4 / dn**2 if gaussian else 1 / dn
    return DISTANCE_MARGIN * slope + 1e-6


def check_clustering(keys: Tensor, dc: float, dn: float, gaussian: bool, centers: Tensor, labels: Tensor) -> None:
    """Raises AssertionError unless (centers, labels) is the DBDPC clustering of the keys."""
    keys, centers, labels = keys.cpu().double().flatten(1), centers.cpu(), labels.cpu()
    n = keys.shape[0]
    distance = reference.pairwise_distance(keys)
    rho = reference.density_from_distance(distance, dn, gaussian)

    assert (centers.diff() > 0).all(), "centres are not ascending"
    assert centers.min() >= 0
    assert centers.max() < n
    between = distance[centers][:, centers].fill_diagonal_(torch.inf)
    assert (between > dc - DISTANCE_MARGIN).all(), "two centres are within dc of each other"

    index = torch.arange(n)
    slack = density_margin(dn, gaussian) * torch.maximum(rho[:, None], rho[None, centers])
    before = (rho[None, centers] > rho[:, None]) | (rho[None, centers] == rho[:, None]) & (centers < index[:, None])
    before |= (rho[None, centers] - rho[:, None]).abs() <= slack
    near = distance[:, centers] <= dc + DISTANCE_MARGIN
    covered = (before & near).any(dim=1)
    covered[centers] = True
    assert covered.all(), "a token is no centre, yet no centre before it is within dc"

    assert torch.equal(labels[centers], torch.arange(centers.shape[0])), "a centre is not in its own cluster"
    chosen = distance[index, centers[labels]]
    assert (chosen <= distance[:, centers].min(dim=1).values + DISTANCE_MARGIN).all(), "a nearer centre exists"


def replay(distance: Tensor, rho: Tensor, dc: float) -> tuple[Tensor, Tensor]:
    """The sequential algorithm on an operator's own distances and densities: no margin is left."""
    centers = reference.select_centers(distance, rho, dc)
    return centers, reference.nearest_center(distance, centers)[0]
