"""Several sequences in one call: each by itself, and what comes out numbered through the batch."""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from .budget import reduce_to
from .pact import dbdpc, euti_scores, reduce


def number_through(
    cu_seqlens: Tensor, run: Callable[[int, slice], tuple[Tensor, ...]], *before: Tensor
) -> tuple[Tensor, ...]:
    """What run(b, rows) gives for every sequence b that has rows, one behind the other: anything, then centers and
    labels, which become rows of the batch and of all centers; then cu_centers. `before` is the anything of no rows."""
    parts, bounds = [(*before, *torch.empty(2, 0, dtype=torch.int64))], [0]
    for b, (begin, end) in enumerate(pairwise(cu_seqlens.tolist())):
        bounds.append(bounds[-1])
        if begin == end:
            continue
        *found, centers, labels = run(b, slice(begin, end))
        parts.append((*found, centers + begin, torch.where(labels < 0, -1, labels + bounds[-1])))
        bounds[-1] += len(centers)
    device = parts[-1][-1].device
    joined = (torch.cat([x.to(device) for x in part]) for part in zip(*parts, strict=True))
    return *joined, torch.tensor(bounds, dtype=torch.int32)


def euti_scores_packed(
    hidden: Tensor, keys: Tensor, queries: Tensor, cu_seqlens: Tensor, scale: float | None = None
) -> Tensor:
    """`euti_scores` of each sequence: ``[n]``."""
    scores = hidden.new_empty(len(hidden), dtype=torch.promote_types(hidden.dtype, torch.float32))
    for begin, end in pairwise(cu_seqlens.tolist()):
        if begin < end:
            scores[begin:end] = euti_scores(hidden[begin:end], keys[begin:end], queries[begin:end], scale)
    return scores


def dbdpc_packed(
    keys: Tensor, cu_seqlens: Tensor, dc: float, dn: float, *, gaussian: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`dbdpc` of each sequence: centers ``[c]``, labels ``[n]``, cu_centers ``[B + 1]``."""
    return number_through(cu_seqlens, lambda b, rows: dbdpc(keys[rows], dc, dn, gaussian=gaussian))


def reduce_packed(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce` of each: merged ``[c, d]``, sizes and centers ``[c]``, labels ``[n]``, cu_centers ``[B + 1]``."""

    def run(b: int, rows: slice) -> tuple[Tensor, ...]:
        own = None if scores is None else scores[rows]
        tensors = (hidden[rows], keys[rows], queries[rows], cluster_keys[rows])
        return reduce(*tensors, prune_ratio, dc, dn, alpha, scores=own, scale=scale, gaussian=gaussian)

    return number_through(cu_seqlens, run, hidden[:0], torch.empty(0, dtype=torch.int64))


def reduce_to_packed(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    counts: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce_to` of each sequence, to its own count: as `reduce_packed`."""

    def run(b: int, rows: slice) -> tuple[Tensor, ...]:
        own = None if scores is None else scores[rows]
        tensors = (hidden[rows], keys[rows], queries[rows], cluster_keys[rows])
        return reduce_to(
            *tensors, int(counts[b]), prune_ratio, dc, dn, alpha, scores=own, scale=scale, gaussian=gaussian
        )

    return number_through(cu_seqlens, run, hidden[:0], torch.empty(0, dtype=torch.int64))


def reduce_padded(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    capacity: int,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce` of each sequence where it leaves at most `capacity` tokens, else `reduce_to` that many.

    merged ``[B, capacity, d]``; sizes and centers ``[B, capacity]``, 0 and -1 where no token is; labels ``[n]``; counts
    ``[B]``.
    """
    numbers = {"scale": scale, "gaussian": gaussian}
    places = [len(cu_seqlens) - 1, capacity]
    merged, sizes = hidden.new_zeros(*places, hidden.shape[1]), torch.zeros(places, dtype=torch.int64)
    centers, counts = torch.full_like(sizes, -1), torch.zeros(places[0], dtype=torch.int32)
    labels = torch.full(hidden.shape[:1], -1)
    merged, sizes, centers, counts, labels = (x.to(hidden.device) for x in (merged, sizes, centers, counts, labels))
    for b, (begin, end) in enumerate(pairwise(cu_seqlens.tolist())):
        if begin == end:
            continue
        own = [x[begin:end] for x in (hidden, keys, queries, cluster_keys)]
        numbers["scores"] = None if scores is None else scores[begin:end]
        found = reduce(*own, prune_ratio, dc, dn, alpha, **numbers)
        if len(found[0]) > capacity:
            found = reduce_to(*own, capacity, prune_ratio, dc, dn, alpha, **numbers)
        count = counts[b] = len(found[0])
        merged[b, :count], sizes[b, :count], centers[b, :count] = found[0], found[1], found[2] + begin
        labels[begin:end] = torch.where(found[3] < 0, -1, found[3] + b * capacity)
    return merged, sizes, centers, labels, counts
