"""One call of a reduced model on its way through the layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..attention import dense_mask
from ..config import PactConfig
from .cache import Columns, columns_of, is_preallocated, key_width, mark_reduced
from .compaction import Compaction, compact, without_gradient
from .families import Family
from .interface import KeyBias
from .logits import keep_tokens
from .prompt import brings_images, presence, read
from .report import Stopwatch


@dataclass
class Plan:
    """What is done in every call.

    Attributes:
        fused: log sizes travel in extra channels of the heads, not in a dense mask.
        implementation: of the decoder's attention, as it was when this was decided.
    """

    family: Family
    config: PactConfig
    per_image: bool
    fused: bool
    implementation: str | None


@dataclass
class Pass:
    """One call.

    Attributes:
        owner: the name of the hooks, to which the cache will belong.
        core: the model without its head.
        given: the arguments of the call, by name.
        kept: the head's `logits_to_keep`; a tensor is rewritten for the columns that are left.
        position_ids: what the decoder got.
        compaction: what this call reduced, None for a call without visual tokens.
        mask: attention's, for the layers from the reduction on; None while nothing is reduced.
        rotary: cosines and sines of the columns that are left, where this call was reduced.
        written: the cached columns that this call's tokens become.
        places: `Columns.places` with those; None while nothing is reduced.
        stopwatch: the time of `compaction`.
    """

    plan: Plan
    owner: str
    core: nn.Module
    given: dict
    kept: int | Tensor | None = None
    position_ids: Tensor | None = None
    compaction: Compaction | None = None
    mask: KeyBias | Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    written: range = range(0)
    places: Tensor | None = None
    stopwatch: Stopwatch | None = None

    def enter(self, layer: nn.Module, hidden: Tensor, kwargs: dict) -> Tensor:
        """Input of the reduction layer: reduces it, and prepares the mask and the rotary embedding from there on."""
        plan, cache = self.plan, kwargs.get("past_key_values")
        columns = self._cached(cache)
        images = brings_images(plan.family, self.given)
        if columns is None and not images:
            return hidden
        past, tokens = self._seen(columns, cache), hidden.shape[1]
        if images:
            self._compact(layer, hidden, past, kwargs["position_embeddings"])
        if self.compaction is not None:
            hidden = without_gradient(hidden, self.compaction.hidden)
            new, plain, tail = self.compaction.log_sizes, self.compaction.plain, self.compaction.tail
            source = self.compaction.source
        elif columns is not None:
            new, plain = self._unreduced(hidden, past, tokens)
            source, tail = _all(new), None
        else:
            return hidden
        if columns is None:
            earlier, earlier_plain = self._unreduced(hidden, 0, past)
            columns = Columns(self.owner, plan.config.layer, _all(earlier), earlier.to(new), 0, 0, earlier_plain)
            if cache is not None:
                mark_reduced(cache, columns)
        start = columns.count
        columns.append(source, new, plain, tokens, tail)
        self.written, self.places = range(start, columns.count), columns.places
        self.mask = self._mask(columns, hidden, cache)
        return hidden

    def replaced(self, kwargs: dict) -> dict:
        """Arguments of a layer from the reduction on. The ids stay behind: to FlashAttention gaps mean packing."""
        kwargs = {**kwargs, "attention_mask": self.mask, "position_ids": None}
        if self.rotary is not None:
            kwargs["position_embeddings"] = self.rotary
        if kwargs.get("cache_position") is not None:  # up to transformers 4, where a static cache writes to
            device = kwargs["cache_position"].device
            kwargs["cache_position"] = torch.arange(self.written.start, self.written.stop, device=device)
        return kwargs

    def _cached(self, cache) -> Columns | None:
        columns = columns_of(cache)
        if columns is None:
            return None
        columns.check_owner()
        # A static cache has its length on the device, and asking would wait for it.
        seen = columns.seen if is_preallocated(cache) else cache.get_seq_length(columns.first)
        if seen != columns.seen:
            raise RuntimeError(
                f"pact_ext: this cache holds {seen - columns.removed} columns behind the reduction where "
                f"{columns.count} were written; change it through its own methods, not layer by layer"
            )
        return columns

    def _seen(self, columns: Columns | None, cache) -> int:
        """How many tokens came before this call."""
        if columns is not None:
            return columns.seen
        return 0 if cache is None else int(cache.get_seq_length(self.plan.config.layer))

    @torch.no_grad()
    def _compact(self, layer: nn.Module, hidden: Tensor, past: int, rotary: tuple[Tensor, Tensor]) -> None:
        plan = self.plan
        prompt = read(self.core, plan.family, self.given, past, plan.per_image)
        if not any(prompt.visual):
            return
        prompt.position_ids = self.position_ids
        with Stopwatch(hidden.device) as self.stopwatch:
            self.compaction = compact(prompt, hidden, *rotary, layer, plan.family, plan.config)
            self.rotary = tuple(self.compaction.rotary(x).to(hidden.device) for x in rotary)
        keep_tokens(self.kept, self.compaction, prompt.present, hidden.shape[1])

    def _unreduced(self, hidden: Tensor, past: int, tokens: int) -> tuple[Tensor, bool]:
        """Log sizes of `tokens` tokens that follow `past` others, and whether none of them can be padding."""
        log_sizes = hidden.new_zeros(hidden.shape[0], tokens, dtype=torch.promote_types(hidden.dtype, torch.float32))
        mask = self.given.get("attention_mask")
        if isinstance(mask, Tensor) and mask.ndim == 2:
            mask = mask[:, past : past + tokens]
        present = None if tokens < 2 else presence(mask, past, tokens)
        if present is None:
            return log_sizes, True
        if present.shape[1] != tokens:
            raise RuntimeError(
                f"pact_ext: attention_mask must cover the {past} tokens before this call and its {tokens}, got "
                f"{present.shape[1]} of them"
            )
        return log_sizes.masked_fill(~present.to(hidden.device), -torch.inf), False

    def _mask(self, columns: Columns, hidden: Tensor, cache) -> KeyBias | Tensor:
        log_sizes = columns.log_sizes.to(hidden.device)
        if self.plan.fused:
            return KeyBias(log_sizes, columns.plain)
        width = key_width(cache, columns.first, columns.count)
        return dense_mask(log_sizes, hidden.shape[1], hidden.dtype, width=width)


def _all(log_sizes: Tensor) -> Tensor:
    """The source of columns of which every token has one."""
    return torch.arange(log_sizes.shape[1], device=log_sizes.device).expand(log_sizes.shape)
