"""One call of a reduced model on its way through the layers."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import dense_mask
from ..config import PactConfig
from .cache import Columns, columns_of, is_preallocated, key_width, mark_reduced
from .compaction import Compaction, compact, without_gradient
from .families import Family
from .interface import KeyBias
from .logits import keep_tokens
from .masks import at_columns, check_length, check_not_packed, padding
from .prompt import Prompt, brings_images, read
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
        image_at_end: of each row, whether its last token is a visual one; [] where there are none.
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
    image_at_end: list[bool] = field(default_factory=list)
    written: range = range(0)
    places: Tensor | None = None
    stopwatch: Stopwatch | None = None

    def begin(self) -> None:
        """Before the model computes anything: the mask must be long enough."""
        cache, mask = self.given.get("past_key_values"), self.given.get("attention_mask")
        columns = columns_of(cache)
        if isinstance(mask, Tensor) and (columns is not None or self._images()):
            check_length(mask, self._seen(columns, cache, layer=0), self.given["input_ids"].shape[1])

    def enter(self, layer: nn.Module, hidden: Tensor, kwargs: dict) -> Tensor:
        """Input of the reduction layer: reduces it, and prepares the mask and the rotary embedding from there on."""
        plan, cache = self.plan, kwargs.get("past_key_values")
        columns = self._cached(cache)
        images = self._images()
        if columns is None and not images:
            return hidden
        past, tokens = self._seen(columns, cache, plan.config.layer), hidden.shape[1]
        if images:
            columns = self._compact(layer, hidden, columns, past, kwargs)
        if columns is None:
            return hidden
        if cache is not None and columns_of(cache) is None:
            mark_reduced(cache, columns)
        columns.image_at_end = self.image_at_end
        start, mask = columns.count, kwargs.get("attention_mask")
        if self.compaction is not None:
            new, hidden = self.compaction, without_gradient(hidden, self.compaction.hidden)
            mask = None  # its log sizes say what is padding
            columns.append(new.source, new.log_sizes, new.plain, tokens, new.tail)
        else:
            if mask is None and columns.padded.any():
                raise RuntimeError("pact_ext: attention_mask must be given, for the prompt in this cache was padded")
            source = torch.arange(tokens, device=columns.source.device).expand(len(hidden), -1)
            columns.append(source, columns.log_sizes.new_zeros(source.shape), True, tokens, None)
        self.written, self.places = range(start, columns.count), columns.places
        self.mask = self._mask(columns, hidden, cache, mask)
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

    def _images(self) -> bool:
        return brings_images(self.plan.family, self.given)

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

    def _seen(self, columns: Columns | None, cache, layer: int) -> int:
        """How many tokens came before this call."""
        if columns is not None:
            return columns.seen
        return int(cache.get_seq_length(layer)) if hasattr(cache, "get_seq_length") else 0

    @torch.no_grad()
    def _compact(self, layer: nn.Module, hidden: Tensor, columns: Columns | None, past: int, kwargs: dict):
        """Reduces the visual tokens, if there are any. Returns the columns of the tokens before this call."""
        plan, mask, rotary = self.plan, kwargs.get("attention_mask"), kwargs["position_embeddings"]
        if mask is None and plan.implementation == "flash_attention_2":
            check_not_packed(kwargs.get("position_ids"))
        present = padding(mask, past, hidden.shape[1])
        if present is not None:
            present = present.cpu().expand(len(hidden), -1)
        prompt = read(
            self.core, plan.family, self.given, None if present is None else present[:, past:], plan.per_image
        )
        if not any(prompt.visual):
            return columns
        self._check_whole(prompt, columns)
        prompt.position_ids = self.position_ids
        with Stopwatch(hidden.device) as self.stopwatch:
            self.compaction = compact(prompt, hidden, *rotary, layer, plan.family, plan.config)
            self.rotary = tuple(self.compaction.rotary(x).to(hidden.device) for x in rotary)
        keep_tokens(self.kept, self.compaction, prompt.present, hidden.shape[1])

        if columns is None:
            source = torch.arange(past, device=hidden.device).expand(len(hidden), -1)
            log_sizes = self.compaction.log_sizes.new_zeros(source.shape)
            padded = torch.zeros(len(hidden), dtype=torch.bool)
            columns = Columns(self.owner, plan.config.layer, source, log_sizes, 0, tail=0, plain=True, padded=padded)
        if present is not None and not present.all():
            hidden_now = ~present.to(columns.source.device).gather(1, columns.source)
            columns.log_sizes = columns.log_sizes.masked_fill(hidden_now, -torch.inf)
            columns.plain, columns.padded = False, columns.padded | ~present.all(dim=1)
        return columns

    def _check_whole(self, prompt: Prompt, columns: Columns | None) -> None:
        """`generate` with prefill_chunk_size hands on the part of the features that a piece of the prompt needs."""
        width = self.given["input_ids"].shape[1]
        begins = [bool(groups) and int(groups[0][0]) == 0 for groups in prompt.visual]
        pieces = self.given.get("mm_encoder_outputs") is not None and columns is not None
        if pieces and any(map(operator.and_, begins, columns.image_at_end)):
            raise RuntimeError(
                "pact_ext: an image must come whole in one call, got the rest of one that began in the call before; "
                "generate without prefill_chunk_size"
            )
        self.image_at_end = [bool(groups) and int(groups[-1][-1]) == width - 1 for groups in prompt.visual]

    def _mask(self, columns: Columns, hidden: Tensor, cache, mask: Tensor | None) -> KeyBias | Tensor:
        """Attention's, from that of the layers before."""
        log_sizes, source = columns.log_sizes.to(hidden.device), columns.source.to(hidden.device)
        width = key_width(cache, columns.first, columns.count)
        if mask is not None:
            check_length(mask, columns.seen - hidden.shape[1], hidden.shape[1])
            if mask.ndim == 4:
                return F.pad(
                    at_columns(mask, source, log_sizes, hidden.dtype),
                    (0, width - columns.count),
                    value=torch.finfo(hidden.dtype).min,
                )
            return KeyBias(log_sizes.masked_fill(~mask.bool().gather(1, source), -torch.inf), False)
        if self.plan.fused:
            return KeyBias(log_sizes, columns.plain)
        return dense_mask(log_sizes, hidden.shape[1], hidden.dtype, width=width)
