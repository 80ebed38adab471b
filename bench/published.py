"""PACT as its authors' public code computes it, restated: what `pact_ext` replaces, to be timed beside it.

It follows github.com/orailix/PACT (`transformers/PACT/utils.py` and the decoder layers beside it, July 2025) step by
step, in the input's dtype where that code stays in it: the n x n distances, centres found in rounds with a host loop
for the last ones, labels brought to the host and made into lists, means by unordered additions. No line is theirs.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST = 10  # centres that a round must find for another round to follow


def importance(hidden: Tensor, keys: Tensor, queries: Tensor) -> Tensor:
    """Scores ``[n]``: as `pact_ext.ops.euti_scores`, every head's keys written out."""
    head_size, groups = keys.shape[-1], queries.shape[1] // keys.shape[1]
    repeated = keys.repeat_interleave(groups, dim=1).transpose(0, 1)  # [Hq, n, dh]
    mean = queries.transpose(0, 1).mean(dim=1, keepdim=True)  # [Hq, 1, dh]
    logits = (mean.float() / math.sqrt(head_size)) @ repeated.float().transpose(1, 2)
    weights = logits.softmax(dim=-1).mean(dim=0).squeeze(0)
    return weights * hidden.float().norm(dim=-1)


def most_important(scores: Tensor, share: float) -> Tensor:
    """Mask ``[n]`` of the int(share n) largest scores; ties by lower index."""
    count = int(len(scores) * share)
    threshold = scores.sort(descending=True).values[count - 1]
    mask = scores > threshold
    missing = count - int(mask.sum())
    mask[(scores == threshold).nonzero().flatten()[:missing]] = True
    return mask


def distances(keys: Tensor) -> Tensor:
    """``[n, n]`` cosine distances, in the dtype of the keys."""
    unit = F.normalize(keys)
    return (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0)


def find_centers(distance: Tensor, dc: float, dn: float) -> Tensor:
    """Token indices of the centres. A round takes every token left that is beyond dc of all denser ones left; a round
    that finds fewer than ten is the last, and the host walks through what is left."""
    order = torch.exp(-((distance / dn) ** 2)).sum(dim=1).argsort()
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    rank = rank.to(distance.dtype)  # in half precision neighbours share a rank, as there
    unassigned = torch.ones(len(rank), dtype=torch.bool, device=rank.device)
    centers: list[int] = []
    while True:
        left = unassigned.nonzero().flatten()
        if len(left) == 0:
            break
        among, dense = distance[left][:, left], rank[left]
        denser = (dense[:, None] <= dense[None]).fill_diagonal_(False)
        nearest = among.where(denser, torch.inf).min(dim=1).values
        nearest[dense == dense.max()] = torch.inf
        new = left[nearest > dc]
        if len(new) == 0:
            break
        centers += new.tolist()
        unassigned[left[(distance[left][:, new] <= dc).any(dim=1)]] = False
        unassigned[new] = False
        if len(new) < FEWEST:
            centers += _one_by_one(distance, rank, left, torch.tensor(centers, device=left.device), dc)
            break
    return torch.tensor(centers, device=distance.device)


def _one_by_one(distance: Tensor, rank: Tensor, left: Tensor, centers: Tensor, dc: float) -> list[int]:
    left = left[rank[left].argsort(descending=True)]
    left = left[(distance[left][:, centers] > dc).all(dim=1)]
    near = (distance[left][:, left] <= dc).fill_diagonal_(False)
    has_near = near.any(dim=0)
    taken = torch.zeros(len(left), dtype=torch.bool, device=left.device)
    found = []
    for position, token in enumerate(left):
        if not taken[position]:
            found.append(token.item())
            if has_near[position]:
                taken[position + 1 :] |= near[position, position + 1 :]
    return found


def clusters_of(labels: Tensor) -> dict[int, np.ndarray]:
    """The members of each centre, on the host."""
    on_host = labels.cpu().numpy()
    return {int(label): np.where(on_host == label)[0] for label in np.unique(on_host) if label != -1}


def means(rows: Tensor, clusters: dict[int, np.ndarray]) -> Tensor:
    """``[c, d]``, summed in the rows' dtype in whatever order the card adds."""
    members = torch.tensor([i for some in clusters.values() for i in some], device=rows.device)
    owners = torch.tensor([c for c, some in enumerate(clusters.values()) for _ in some], device=rows.device)
    sums = rows.new_zeros(len(clusters), rows.shape[1]).index_add_(0, owners, rows[members])
    counts = torch.tensor([len(some) for some in clusters.values()], dtype=rows.dtype, device=rows.device)
    return sums / counts[:, None]


def dbdpc(keys: Tensor, dc: float, dn: float, *, gaussian: bool = True) -> tuple[Tensor, Tensor]:
    """Centres ``[c]`` ascending, and each token's centre as a position among them ``[n]``."""
    if not gaussian:
        raise ValueError("the public code's density is gaussian")
    distance = distances(keys)
    centers = find_centers(distance, dc, dn)
    labels = centers[distance[:, centers].argmin(dim=1)]
    labels[centers] = centers
    clusters_of(labels)
    centers = centers.sort().values
    return centers, torch.searchsorted(centers, labels)


def reduce(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    gaussian: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Merged ``[c, d]``, sizes ``[c]``, centers ``[c]`` as token indices, ascending."""
    if not gaussian:
        raise ValueError("the public code's density is gaussian")
    mask = most_important(importance(hidden, keys, queries), 1 - prune_ratio)
    kept, dropped = mask.nonzero().flatten(), (~mask).nonzero().flatten()
    distance = distances(cluster_keys[kept])
    centers = find_centers(distance, dc, dn)
    unit, pruned = F.normalize(cluster_keys[kept]), F.normalize(cluster_keys[dropped])
    to_centers = torch.cat([distance[:, centers], 1 - pruned @ unit[centers].T])
    nearest, which = to_centers.min(dim=1)
    labels = torch.where(nearest <= alpha * dc, centers[which], -1)
    labels[centers] = centers
    clusters = clusters_of(labels)  # their keys ascend
    merged = means(torch.cat([hidden[kept], hidden[dropped]]), clusters)
    sizes = torch.tensor([len(some) for some in clusters.values()], device=hidden.device)
    return merged, sizes, kept[torch.tensor(list(clusters), device=kept.device)]
