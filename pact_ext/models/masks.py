"""What the tokens of a call see, by the mask that the decoder made for its layers.

That mask is what the model would have computed with, however the call was padded: None where all is causal and
nothing is padding, ``[B, kv]`` for FlashAttention, otherwise ``[1 or B, 1 or H, q, kv]``, boolean or additive. A
reduction needs one answer for each token, so a call that brings images has to be causal but for padding. The calls
after it keep their mask, whatever it is, at the columns that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

HIDDEN = -1e4
"""An additive mask hides what it lowers by so much."""


def padding(mask: Tensor | None, past: int, queries: int) -> Tensor | None:
    """``[1 or B, past + queries]`` bool, False for padding, of a call of `queries` tokens after `past` others; None
    when nothing is padding. Waits for the device.

    Raises:
        RuntimeError: the mask is too short, or anything but causal with padding.
    """
    if mask is None:
        return None
    tokens = past + queries
    check_length(mask, past, queries)
    if mask.ndim == 2:
        return mask[:, :tokens].bool()
    mask = mask[..., :tokens]  # a static cache's goes on where nothing is written yet
    visible = mask if mask.dtype == torch.bool else mask == 0
    present = visible[:, :1, -1:]  # by the last token
    own = torch.arange(past, tokens, device=mask.device)[:, None]
    wanted = present & (torch.arange(tokens, device=mask.device) <= own)
    # Padding before the first token sees nothing, or all, which keeps old kernels from NaN.
    fits = (visible == wanted) | ~wanted.any(-1, keepdim=True) & visible.all(-1, keepdim=True)
    if mask.dtype != torch.bool:
        fits &= visible | (mask <= HIDDEN)
    found = torch.cat([present[:, 0, 0], fits.all().expand(len(present), 1)], dim=1).cpu()  # one wait for both
    if not found[0, -1]:
        raise RuntimeError(
            "pact_ext: attention_mask must be causal but for padding in a call that brings images, for every token to "
            "be seen by all after it or by none; this one is not. Images that attend both ways and packed sequences "
            "(position_ids that start again) cannot be reduced"
        )
    return found[:, :-1]


def check_length(mask: Tensor, past: int, queries: int) -> None:
    if mask.shape[-1] < past + queries:
        raise RuntimeError(
            f"pact_ext: attention_mask must be {past + queries} long, for {past} tokens before this call and its "
            f"{queries}, got {mask.shape[-1]}"
        )


def check_not_packed(position_ids: Tensor | None) -> None:
    """For FlashAttention, which has no mask to tell: ids of one row that start again are several sequences to it. (Gaps
    alone it takes for the same, but those are what an axis of multimodal RoPE has.)"""
    if position_ids is not None and position_ids.shape[0] == 1 and bool((position_ids.diff() < 0).any()):
        raise RuntimeError(
            "pact_ext: position_ids must not start again in a call that brings images: FlashAttention takes them for "
            "packed sequences, which cannot be reduced"
        )


def at_columns(mask: Tensor, source: Tensor, log_sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """A layer's mask ``[1 or B, 1 or H, q, kv]`` at the columns that are left, with their log sizes, additive:
    ``[B, 1 or H, q, n]``.

    Args:
        source: ``[B, n]``, the token each column had.
        log_sizes: ``[B, n]``; -inf hides a column whatever the mask.
    """
    index = source[:, None, None].expand(-1, *mask.shape[1:3], -1)
    chosen = mask.expand(len(source), -1, -1, -1).gather(-1, index)
    if chosen.dtype == torch.bool:
        chosen = torch.zeros(chosen.shape, dtype=log_sizes.dtype, device=mask.device).masked_fill(~chosen, -torch.inf)
    return (chosen + log_sizes[:, None, None]).clamp(min=torch.finfo(dtype).min).to(dtype)
