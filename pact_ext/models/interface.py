"""The attention implementations that carry log sizes, registered with transformers beside the ones they stand in for.

`pact_sdpa` is `sdpa` until it is handed a `KeyBias` in place of a mask, and likewise `pact_flash_attention_2`. So the
layers before the reduction, and models that share a configuration, compute what they did before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
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


def choose(implementation: str, attention: str) -> str:
    """The implementation that a model with `implementation` has to run for the route `attention`."""
    base = (implementation or "eager").removeprefix(PREFIX)
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
    return base if attention == "dense" else _registered(base)


def _registered(base: str) -> str:
    name = PREFIX + base
    if name not in ALL_ATTENTION_FUNCTIONS:
        AttentionInterface.register(name, _fused(base))
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[base])
    return name


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
            mask = None if bias.plain and queries == 1 and key.shape[2] == n else bias.dense(query, key)
            return sdpa(module, query, key, value, mask, scaling=scaling)
        key, value = key[:, :, :n], value[:, :, :n]  # a static cache hands out its unwritten end too
        if bias.plain and queries == n:
            return sdpa(module, query, key, value, None, scaling=scaling)
        log_sizes = bias.log_sizes.to(query.device)
        out = proportional_attention(query, key, value, log_sizes, scale=scaling, kernel=kernel)
        return out.transpose(1, 2).contiguous(), None

    return attention


def _under_its_own_name(base: str):
    """A stock implementation that finds its library by the name in the configuration, as FlashAttention's does."""

    def attention(module, *args, **kwargs):
        name = module.config._attn_implementation
        module.config._attn_implementation = base
        try:
            return ALL_ATTENTION_FUNCTIONS[base](module, *args, **kwargs)
        finally:
            module.config._attn_implementation = name

    return attention


class Switched:
    """Configurations whose implementation is switched, counted: models built from one configuration share it."""

    _users: ClassVar[dict[int, int]] = {}

    def __init__(self, config, implementation: str) -> None:
        self.config, self.name = config, implementation
        self.changes = implementation.startswith(PREFIX)
        if self.changes:
            self._users[id(config)] = self._users.get(id(config), 0) + 1
            config._attn_implementation = implementation

    def check(self) -> None:
        if self.config._attn_implementation != self.name:
            raise RuntimeError(
                f"pact_ext: the model's attention implementation was changed to {self.config._attn_implementation!r} "
                f"after pact_ext.apply, which runs on {self.name!r}; remove the handle first, then apply again"
            )

    def undo(self) -> None:
        if not self.changes:
            return
        others = self._users.pop(id(self.config), 1) - 1
        if others:
            self._users[id(self.config)] = others
        else:
            self.config._attn_implementation = self.name.removeprefix(PREFIX)
