"""What keys receive from attention, by the dense softmax matrix of one head after another."""

import math

import torch
from torch import Tensor

from .pact import working


def received_attention(
    queries: Tensor,
    keys: Tensor,
    *,
    rows: Tensor | None = None,
    first: int | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """What each key receives, ``[n]``: softmax attention averaged over heads and over the chosen query rows.

    queries ``[q, Hq, dh]``, keys ``[n, Hk, dh]``; rows ``[r]`` indexes the queries, None is all of them. Query i stands
    at place first + i (None: n - q) and, when causal, sees the keys up to its own place.
    """
    queries, keys = working(queries), working(keys)
    (q, query_heads, head_size), n = queries.shape, keys.shape[0]
    scale = 1.0 / math.sqrt(head_size) if scale is None else scale
    places = torch.arange(q, device=keys.device) + (n - q if first is None else first)
    if rows is not None:
        queries, places = queries[rows], places[rows]
    hidden_from = torch.arange(n, device=keys.device) > places[:, None]
    received, group = keys.new_zeros(n), query_heads // keys.shape[1]
    for head in range(query_heads):
        logits = scale * (queries[:, head] @ keys[:, head // group].T)
        if causal:
            logits = logits.masked_fill(hidden_from, -torch.inf)
        received += logits.softmax(dim=1).sum(dim=0)
    return received / (len(places) * query_heads)
