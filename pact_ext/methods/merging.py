"""What the methods that merge have in common: one token for each cluster, and distances between all pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import ops, reference
from ..reference.pact import working
from .method import Selection
from .view import View


def merged(view: View, kept: Tensor, labels: Tensor) -> Selection:
    """Each kept token becomes the mean of its cluster, by how many tokens each member stands for, and stands for all of
    them. A token that is alone keeps its bits.

    Args:
        kept: int64 ``[K]``, a token of each cluster, ascending.
        labels: int64 ``[n]``, the place in `kept` of each token's cluster.
    """
    hidden = working(view.hidden)
    means, counts = segment_mean(hidden * view.sizes[:, None], labels, len(kept))
    sizes = torch.zeros_like(counts).index_add_(0, labels, view.sizes)
    means = means * (counts.to(means.dtype) / sizes)[:, None]  # exactly 1 where every member is a token of its own
    hidden = torch.where((counts == 1)[:, None], view.hidden[kept], means.to(view.hidden.dtype))
    return Selection(kept, labels, hidden, sizes)


def everything(view: View) -> Selection:
    """Every token, as it is."""
    return Selection(torch.arange(len(view), device=view.hidden.device))


def segment_mean(x: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Mean of the rows of each label in [0, count), 0 for a label that none has, and how many have it: by
    `ops.segment_mean`, which knows no double precision, or of that the same."""
    if x.dtype != torch.float64:
        return ops.segment_mean(x, labels, count)
    member = labels == torch.arange(count, device=x.device)[:, None]
    sizes = member.sum(dim=1)
    return member.to(x.dtype) @ x / sizes.clamp(min=1)[:, None], sizes


def for_ops(keys: Tensor) -> Tensor:
    """Keys as the operators take them, who know no double precision."""
    return keys.float() if keys.dtype == torch.float64 else keys


def distances(keys: Tensor) -> Tensor:
    """Cosine distance of every pair, ``[n, n]``, the same both ways to the last bit."""
    upper = reference.pairwise_distance(keys).triu(1)
    return upper + upper.T


def nearest_members(
    distance: Tensor, labels: Tensor, count: int, *, rtol: float = 0.0, atol: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Of each of `count` clusters the member ``[count]`` with the smallest of the distances ``[n]``, within the
    tolerances the one with the lowest index (of an empty cluster the last token), and how many members it has."""
    least = distance.new_full((count,), torch.inf).scatter_reduce(0, labels, distance, "amin")
    tied = distance <= (least + rtol * least.abs() + atol)[labels]
    last = len(labels) - 1
    index = torch.arange(len(labels), device=labels.device).masked_fill(~tied, last)
    members = labels.new_full((count,), last).scatter_reduce(0, labels, index, "amin")
    sizes = labels.new_zeros(count).index_add_(0, labels, torch.ones_like(labels))
    return members, sizes


def numbered(tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Clusters, each at one of its tokens, in the order of these: `kept` and `labels` of a `Selection`."""
    kept, order = tokens.sort()
    return kept, order.argsort()[labels]
