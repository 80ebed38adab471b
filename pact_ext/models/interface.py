"""The attention implementations that carry log sizes, registered with transformers beside the ones they stand in for.

`pact_sdpa` is `sdpa` until it is handed a `KeyBias` in place of a mask, and likewise `pact_flash_attention_2`. An
attention layer of a reduced model finds the name in its own view of the configuration. The configuration itself stays
as it is: for the layers before, for models that share it, for masks, for saving, and for its owner to change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..attention import dense_mask, proportional_attention

PREFIX = "pact_"
FUSED = {"sdpa": "sdpa", "flash_attention_2": "flash"}
"""Implementations that can carry log sizes in extra channels, and the kernel each runs on."""
DENSE = ("eager", "sdpa")
"""Implementations that add a float mask to their logits."""


@dataclass
class KeyBias:
    """What the layers from the reduction on get as their attention mask.

    Attributes:
        log_sizes: ``[B, n]``, as in `pact_ext.attention`.
        plain: all of them are 0.
        mask: the same as a dense mask, once a layer has needed it.
    """

    log_sizes: Tensor
    plain: bool
    mask: Tensor | None = None

    def dense(self, query: Tensor, key: Tensor) -> Tensor:
        if self.mask is None:
            self.mask = dense_mask(self.log_sizes, query.shape[2], query.dtype, width=key.shape[2])
        return self.mask.to(query.device)


def choose(implementation: str | None, attention: str) -> str:
    """How a model with `implementation` carries the sizes when `attention` is asked for: "fused" or "dense"."""
    base = implementation or "eager"
    if attention not in ("auto", "dense", "fused"):
        raise ValueError(f"pact_ext.apply: attention must be 'auto', 'dense' or 'fused', got {attention!r}")
    if attention == "auto":
        attention = "dense" if base in DENSE and base not in FUSED else "fused"
    fitting = DENSE if attention == "dense" else tuple(FUSED)
    if base not in fitting:
        raise ValueError(
            f"pact_ext.apply: the model's attention implementation must be one of {', '.join(fitting)} for "
            f"attention={attention!r}, got {base!r}, which would drop the sizes of the merged tokens; load the model "
            f"with attn_implementation={fitting[-1] if attention == 'dense' else fitting[0]!r}"
        )
    return attention


class View:
    """An object seen with attributes of one's own; all others are the object's, as they are at the time."""

    def __init__(self, seen, **attributes) -> None:
        vars(self).update(attributes, seen=seen)

    def __getattr__(self, name: str):
        if name == "seen" or name.startswith("__"):  # copying and unpickling ask before there is anything to see
            raise AttributeError(name)
        return getattr(self.seen, name)


def switch(attention: nn.Module) -> None:
    """Have one attention layer understand a `KeyBias`."""
    attention.config = View(attention.config, _attn_implementation=PREFIX + attention.config._attn_implementation)


def switch_back(model: nn.Module) -> None:
    """Undo `switch` in every part of a model."""
    for module in model.modules():
        if isinstance(config := vars(module).get("config"), View):
            module.config = config.seen


def _fused(base: str):
    kernel = FUSED[base]
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    stock = sdpa if base == "sdpa" else _under_its_own_name(base)

    def attention(module, query, key, value, attention_mask, scaling=None, **kwargs):
        if not isinstance(attention_mask, KeyBias):
            return stock(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
        bias, queries, n = attention_mask, query.shape[2], attention_mask.log_sizes.shape[1]
        if queries == 1 or (queries < n and kernel == "sdpa"):
            # Beside the cached keys a few queries' mask is small; extending those keys would copy them all.
            if bias.plain and queries == 1 and key.shape[2] == n:
                return sdpa(module, query, key, value, None, scaling=scaling)
            mask = bias.dense(query, key)
            if queries == 1:
                return _one_query(query, key, value, mask, scaling), None
            return sdpa(module, query, key, value, mask, scaling=scaling)
        key, value = key[:, :, :n], value[:, :, :n]  # a static cache hands out its unwritten end too
        if bias.plain and queries == n:
            return sdpa(module, query, key, value, None, scaling=scaling)
        log_sizes = bias.log_sizes.to(query.device)
        out = proportional_attention(query, key, value, log_sizes, scale=scaling, kernel=kernel)
        return out.transpose(1, 2).contiguous(), None

    return attention


def _one_query(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scaling: float | None) -> Tensor:
    """``[B, 1, Hq, dh]``. The query heads that share a key head are as many queries of it, for each sees every key: no
    head of the cached keys is repeated, which with a mask they would be."""
    batch, heads, _, head_size = query.shape
    query = query.reshape(batch, key.shape[1], heads // key.shape[1], head_size)
    out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, 1, heads, value.shape[-1])


def _under_its_own_name(base: str):
    """A stock implementation that finds its library by the name in the configuration, as FlashAttention's does."""

    def attention(module, *args, **kwargs):
        return ALL_ATTENTION_FUNCTIONS[base](View(module, config=module.config.seen), *args, **kwargs)

    return attention


for _base in FUSED:
    AttentionInterface.register(PREFIX + _base, _fused(_base))
