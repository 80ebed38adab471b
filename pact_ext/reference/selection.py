"""Selections that other methods of visual-token reduction are built on, over the distances of `pairwise_distance`."""

import torch
from torch import Tensor

from .pact import pairwise_distance, working


def nearest_denser(keys: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the nearest of those that outrank it by (density descending, index ascending), as density-peak
    clustering asks (Rodriguez & Laio 2014): distances ``[n]``, indices ``[n]``, ties to the lower index.

    The first of all has index -1 and the largest of its distances to any token.
    """
    distance, index = pairwise_distance(keys), torch.arange(len(keys), device=keys.device)
    tied = density[None, :] == density[:, None]
    outranks = (density[None, :] > density[:, None]) | tied & (index[None, :] < index[:, None])
    to_denser = distance.masked_fill(~outranks, torch.inf)
    distances = to_denser.min(dim=1).values
    indices = torch.where(to_denser == distances[:, None], index, len(keys)).min(dim=1).values
    first = ~outranks.any(dim=1)
    return torch.where(first, distance.max(dim=1).values, distances), torch.where(first, -1, indices)


def _first_largest(values: Tensor, chosen: list[int]) -> int:
    """The lowest index of the largest value among those that are not chosen."""
    values = values.clone()
    values[chosen] = -torch.inf
    open_places = torch.ones_like(values, dtype=torch.bool)
    open_places[chosen] = False
    return int((open_places & (values == values.max())).nonzero()[0])


def farthest_points(keys: Tensor, count: int, *, first: int | None = None) -> Tensor:
    """Farthest-point selection, ``[count]`` in order of choice: always the token whose smallest cosine distance to the
    chosen is largest, ties to the lower index. Starts at `first`; None is the lower token of the farthest pair."""
    distance = pairwise_distance(keys)
    if first is None:
        first = int((distance == distance.max()).any(dim=1).nonzero()[0])
    chosen, nearest = [first], distance[first]
    while len(chosen) < count:
        chosen.append(_first_largest(nearest, chosen))
        nearest = torch.minimum(nearest, distance[chosen[-1]])
    return torch.tensor(chosen, device=keys.device)


LEAST_GAIN = 1e-6  # of the first gain: below, the rest is rounding


def dpp_select(keys: Tensor, relevance: Tensor, count: int) -> Tensor:
    """Greedy MAP of the determinantal point process with kernel L[i, j] = r_i cos(i, j) r_j, ``[count]`` in order of
    choice, ties to the lower index: algorithm 1 of Chen, Zhang & Zhou, "Fast Greedy MAP Inference for Determinantal
    Point Process", 2018. A token's gain is what it multiplies the determinant by; when no gain above 1e-6 of the first
    is left, the rest comes by relevance."""
    relevance = relevance.to(working(keys).dtype)
    kernel = relevance[:, None] * (1 - pairwise_distance(keys)) * relevance[None, :]
    gain = kernel.diagonal().clone()
    factor = kernel.new_zeros(len(keys), 0)  # rows of the Cholesky factor, a column for each chosen token
    chosen = []
    while len(chosen) < count:
        best = _first_largest(gain, chosen)
        if not chosen:
            least = LEAST_GAIN * gain[best]
        if gain[best] <= least:
            chosen.append(_first_largest(relevance, chosen))
            continue
        column = (kernel[best] - factor @ factor[best]) / gain[best].sqrt()
        factor = torch.cat([factor, column[:, None]], dim=1)
        gain = gain - column * column
        chosen.append(best)
    return torch.tensor(chosen, device=keys.device)
