"""PACT with an exact budget: ours, not the published method. An engine must know the count before the forward."""

import torch
from torch import Tensor

from .pact import (
    density_from_distance,
    euti_scores,
    kept_count,
    nearest_center,
    pairwise_distance,
    segment_mean,
    select_centers,
)


def exact_centers(distance: Tensor, rho: Tensor, centers: Tensor, count: int) -> Tensor:
    """`count` of the m tokens of `distance`, ascending, from the centres that the clustering found.

    Too many: those with the largest clusters stay (ties: higher density, then lower index). Too few: the tokens
    farthest from their own centre join them (ties: lower index; a token at distance 0 comes last).
    """
    labels, nearest = nearest_center(distance, centers)
    if len(centers) >= count:
        sizes = torch.bincount(labels, minlength=len(centers))
        by_density = rho[centers].sort(descending=True, stable=True).indices
        order = by_density[sizes[by_density].sort(descending=True, stable=True).indices]
        return centers[order[:count]].sort().values
    nearest[centers] = -1  # behind all others
    more = nearest.sort(descending=True, stable=True).indices[: count - len(centers)]
    return torch.cat([centers, more]).sort().values


def reduce_to(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    count: int,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`reduce` to exactly K = min(n, count) tokens: merged ``[K, d]``, sizes ``[K]``, centers ``[K]``, labels ``[n]``.

    At least K tokens survive the importance split. Kept tokens join the nearest centre that stays, whatever the
    distance, dropped ones only within alpha * dc.
    """
    n = hidden.shape[0]
    count = min(n, count)
    if scores is None:
        scores = euti_scores(hidden, keys, queries, scale)
    order = scores.sort(descending=True, stable=True).indices
    m = max(kept_count(n, prune_ratio), count)
    kept, dropped = order[:m].sort().values, order[m:].sort().values

    distance = pairwise_distance(cluster_keys)
    among_kept = distance[kept][:, kept]
    rho = density_from_distance(among_kept, dn, gaussian)
    centers = kept[exact_centers(among_kept, rho, select_centers(among_kept, rho, dc), count)]

    labels, nearest = nearest_center(distance, centers)
    labels[dropped] = torch.where(nearest[dropped] < alpha * dc, labels[dropped], -1)
    labels[centers] = torch.arange(count, device=labels.device)  # of equal tokens that are centres, too
    merged, sizes = segment_mean(hidden, labels, count)
    return merged, sizes, centers, labels
