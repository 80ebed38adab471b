"""Proofs that a clustering, or a greedy selection, is the one answer, up to rounding (contract section 3).

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


def check_distinct_tokens(chosen: Tensor, count: int, n: int) -> None:
    assert chosen.dtype == torch.int64
    assert chosen.shape == (count,)
    assert len(set(chosen.tolist())) == count, "a token was chosen twice"
    assert chosen.min() >= 0
    assert chosen.max() < n


def check_farthest_points(
    keys: Tensor, count: int, first: int | None, chosen: Tensor, margin: float = DISTANCE_MARGIN
) -> None:
    """Raises AssertionError unless `chosen` are the farthest points, each by the choices before it."""
    distance, chosen = reference.pairwise_distance(keys.cpu().double()), chosen.cpu()
    check_distinct_tokens(chosen, count, len(distance))
    start = chosen[0]
    if first is None:
        assert distance.triu()[start].max() >= distance.max() - margin, "not the lower token of the farthest pair"
    else:
        assert start == first
    nearest = distance[start].clone()
    for t in range(1, count):
        nearest[chosen[:t]] = -1
        assert nearest[chosen[t]] >= nearest.max() - margin, f"choice {t}: another token is farther"
        nearest = torch.minimum(nearest, distance[chosen[t]])


# A cosine is off by less than 1e-6, and with it the kernel, by r_i r_j as much. The factor in double adds nothing; in
# float32 (CUDA) it is the exact one of a kernel off by a rounding of r_i r_j per step, of either sign.
DPP_ERROR, DPP_ERROR_FLOAT32 = 1e-6, 2e-6
LEAST_GAIN = 1e-6  # of the first gain


def check_dpp_select(keys: Tensor, relevance: Tensor, count: int, chosen: Tensor, error: float = DPP_ERROR) -> None:
    """Raises AssertionError unless `chosen` is the greedy MAP, each step by the choices before it.

    A kernel L off by E, |E_ij| <= error * r_i r_j, moves a gain, the Schur complement L_ii - L_iS x with x = L_SS^-1
    L_Si, by at most error * (r_i + sum over s of |x_s| r_s)^2, up to terms of E^2.
    """
    keys, relevance, chosen = keys.cpu().double(), relevance.cpu().double(), chosen.cpu()
    check_distinct_tokens(chosen, count, len(keys))
    r = relevance / relevance.abs().max().clamp(min=1e-300)
    kernel = r[:, None] * (1 - reference.pairwise_distance(keys)) * r[None, :]
    by_relevance = relevance.sort(descending=True, stable=True).indices
    is_open = torch.ones(len(keys), dtype=torch.bool)
    for t, token in enumerate(chosen):
        s = chosen[:t]
        x = torch.linalg.solve(kernel[s][:, s], kernel[s])
        gain = kernel.diagonal() - (kernel[s] * x).sum(dim=0)
        bound = error * (r.abs() + (x.abs() * r[s, None].abs()).sum(dim=0)) ** 2
        surely = (gain - bound)[is_open].max()  # the best gain is this at least
        rest = by_relevance[is_open[by_relevance]]
        if surely <= LEAST_GAIN and torch.equal(chosen[t:], rest[: count - t]):
            return
        possible = gain[token] + bound[token]
        assert possible >= LEAST_GAIN, f"choice {t}: no gain is left, yet it is not the most relevant"
        assert possible >= surely, f"choice {t}: another token gains more"
        is_open[token] = False
