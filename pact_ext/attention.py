"""Proportional attention: a merged token weighs as many tokens as it stands for (eq. 11 of the paper).

    A = softmax(Q K^T * scale + log w),  w the size of the cluster behind each key

A dense bias would cost a ``[queries, keys]`` mask and bar FlashAttention. Here log w rides in extra channels of the
heads instead, q' = [q, c, c] and k' = [k, high, low], so that any fused attention computes it: c is a power of two
near 1/scale, hence exact in every dtype, and high + low = log w / (scale * c) carries twice the digits of a half.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = -30000.0
"""Bias of a key that is padding: exp of it is 0 in every dtype, and float16 can hold it."""
ALIGNMENT = 8
"""Fused kernels want head sizes that are multiples of this."""


def proportional_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_sizes: Tensor,
    *,
    scale: float | None = None,
    causal: bool = True,
    kernel: str = "sdpa",
) -> Tensor:
    """Attention with log sizes on the keys, without a dense mask.

    Args:
        query: ``[B, Hq, q, dh]``.
        key, value: ``[B, Hk, n, dh]``, Hq a multiple of Hk; the dtype of query.
        log_sizes: ``[B, n]`` floating, log of each key's size: 0 for an ordinary token, -inf for padding.
        scale: factor of the logits; None is 1/sqrt(dh).
        causal: each query sees the keys up to its own; the last query is beside the last key.
        kernel: "sdpa" for `torch.nn.functional.scaled_dot_product_attention`, "flash" for the flash-attn package.

    Returns:
        ``[B, Hq, q, dh]``, in the dtype of query. A query all of whose keys are padding gets their mean.

    Raises:
        ValueError: shapes that do not fit, or an unknown kernel.
    """
    _check(query, key, value, log_sizes, causal, kernel)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    extended = extend(query, key, value, log_sizes, scale)
    if kernel == "flash":
        from flash_attn import flash_attn_func

        q, k, v = (x.transpose(1, 2) for x in extended)
        out = flash_attn_func(q, k, v, softmax_scale=scale, causal=causal).transpose(1, 2)
    else:
        grouped = query.shape[1] != key.shape[1]
        causal = causal and query.shape[2] > 1
        out = F.scaled_dot_product_attention(*extended, is_causal=causal, scale=scale, enable_gqa=grouped)
    return out[..., : value.shape[-1]]


def extend(query: Tensor, key: Tensor, value: Tensor, log_sizes: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value with the channels that carry the log sizes; arguments as in `proportional_attention`.

    All three come out ``[..., width]``, width the next multiple of 8 that has room for the channels.
    """
    channel = 2.0 ** round(math.log2(1 / scale))
    bias = log_sizes.clamp(min=PADDING) / (scale * channel)
    high = bias.to(key.dtype)
    channels = [high] if key.dtype.itemsize >= 4 else [high, (bias - high.to(bias.dtype)).to(key.dtype)]

    head_size = query.shape[-1]
    width = -(-(head_size + len(channels)) // ALIGNMENT) * ALIGNMENT
    spare = width - head_size - len(channels)
    extra = F.pad(torch.stack(channels, dim=-1), (0, spare))[:, None].expand(-1, key.shape[1], -1, -1)
    ones = F.pad(query.new_full((len(channels),), channel), (0, spare)).expand(*query.shape[:-1], -1)
    return (
        torch.cat([query, ones], dim=-1),
        torch.cat([key, extra], dim=-1),
        F.pad(value, (0, width - value.shape[-1])),
    )


def dense_mask(log_sizes: Tensor, queries: int, dtype: torch.dtype, *, width: int | None = None) -> Tensor:
    """The same as an additive mask, for attention that takes nothing else: ``[B, 1, queries, width]``.

    Args:
        log_sizes: ``[B, n]`` as in `proportional_attention`.
        queries: the last so many of the n tokens are the queries.
        dtype: of the mask.
        width: number of keys, >= n; those from n on are masked. Default n.
    """
    n = log_sizes.shape[1]
    tokens = torch.arange(n, device=log_sizes.device)
    own = tokens[-queries:, None] == tokens  # [queries, n]
    seen = tokens <= tokens[-queries:, None]
    lowest = torch.finfo(dtype).min
    bias = log_sizes[:, None]
    padding = bias == -torch.inf
    # Padding sees itself: a row without any key would be NaN, and NaN in a key's place spreads to every query.
    mask = torch.where(seen & (~padding | own), bias.masked_fill(padding, 0), lowest)
    return F.pad(mask.to(dtype), (0, (width or n) - n), value=lowest)[:, None]


def _check(query: Tensor, key: Tensor, value: Tensor, log_sizes: Tensor, causal: bool, kernel: str) -> None:
    def require(ok: bool, argument: str, wanted: str, got) -> None:
        if not ok:
            raise ValueError(f"pact_ext.proportional_attention: {argument} must be {wanted}, got {got}")

    require(query.ndim == 4, "query", "[B, Hq, q, dh]", list(query.shape))
    batch, heads, queries, head_size = query.shape
    fits = key.ndim == 4 and (key.shape[0], key.shape[3]) == (batch, head_size) and heads % max(1, key.shape[1]) == 0
    require(fits and key.shape[1] > 0, "key", f"[{batch}, Hk, n, {head_size}] with {heads} % Hk == 0", list(key.shape))
    require(value.shape == key.shape, "value", f"{list(key.shape)}, as key", list(value.shape))
    n = key.shape[2]
    require(log_sizes.shape == (batch, n), "log_sizes", f"[{batch}, {n}]", list(log_sizes.shape))
    require(log_sizes.is_floating_point(), "log_sizes", "floating", log_sizes.dtype)
    require(kernel in ("sdpa", "flash"), "kernel", "'sdpa' or 'flash'", repr(kernel))
    if causal and kernel == "sdpa":
        # PyTorch's causal flag aligns the first query with the first key.
        require(queries in (1, n), "query", f"1 or {n} long, as key, for the causal 'sdpa' kernel", queries)
