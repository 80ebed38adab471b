"""What keys receive from attention, by the dense softmax matrix."""

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
    keys = keys.repeat_interleave(query_heads // keys.shape[1], dim=1)
    logits = scale * torch.einsum("ihd,jhd->hij", queries, keys)
    if causal:
        logits = logits.masked_fill(torch.arange(n, device=keys.device) > places[:, None], -torch.inf)
    return logits.softmax(dim=-1).mean(dim=(0, 1))
