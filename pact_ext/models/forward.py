"""One call of a reduced model on its way through the layers."""

from __future__ import annotations

import operator
import threading
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attention import dense_mask
from ..methods import Method
from ..reduction import Reduction
from .cache import SYSTEM, Columns, add_stage, is_preallocated, key_width, stages_of
from .compaction import compact, composed, without_gradient
from .decoding import StepAttention, check_cache
from .encoder import EncoderViews, Seen
from .families import Family
from .interface import KeyBias
from .logits import keep_tokens
from .masks import at_columns, check_length, check_not_packed, padding
from .prompt import Prompt, brings_images, read
from .report import Step, Stopwatch
from .sequence import Sequence
from .views import LayerInput, PastKeys, Scene


@dataclass
class Plan:
    """What is done in every call.

    Attributes:
        sites: the decoder layers at whose input the method acts.
        fused: log sizes travel in extra channels of the heads, not in a dense mask.
        implementation: of the decoder's attention, as it was when this was decided.
        encoder_layers: of the vision tower, that the method looks at, counted from the first.
    """

    family: Family
    method: Method
    sites: tuple[int, ...]
    per_image: bool
    fused: bool
    implementation: str | None
    encoder_layers: tuple[int, ...] = ()


@dataclass
class Pass:
    """One call.

    Attributes:
        owner: the name of the hooks, to which the cache will belong.
        core: the model without its head.
        given: the arguments of the call, by name.
        kept: the head's `logits_to_keep`; a tensor is rewritten for the columns that are left.
        towers: what the vision tower saw last, by thread.
        position_ids: what the decoder got.
        earlier: the inputs of the layers that the method looks at.
        embedded: what came into the decoder, for a method that looks at it.
        site: how many sites have been passed.
        past: how many tokens came before this call.
        sequence: this call's columns; None until the first site, and for a call without visual tokens.
        present: ``[1 or B, past + q]`` bool, False for padding, in this call and before; None when nothing is.
        before: the input of the layer before a site, for a method that looks at it.
        reductions: of each row, over all sites passed; [] while nothing is reduced.
        mask: attention's, for the layers from the last site on; None while nothing is reduced.
        rotary: cosines and sines of the columns that are left, where this call was reduced.
        image_at_end: of each row, whether its last token is a visual one; [] where there are none.
        written: the cached columns that this call's tokens become.
        places: `Columns.places` with those; None while nothing is reduced.
        step: how the last token's attention falls, for a method that evicts by it.
        steps: what each site left.
        stopwatches: the time of each reduction.
    """

    plan: Plan
    owner: str
    core: nn.Module
    given: dict
    kept: int | Tensor | None = None
    towers: dict[int, Seen] = field(default_factory=dict)
    position_ids: Tensor | None = None
    earlier: list[Tensor] = field(default_factory=list)
    embedded: Tensor | None = None
    site: int = 0
    past: int = 0
    sequence: Sequence | None = None
    present: Tensor | None = None
    before: LayerInput | None = None
    reductions: list[Reduction | None] = field(default_factory=list)
    mask: KeyBias | Tensor | None = None
    rotary: tuple[Tensor, Tensor] | None = None
    image_at_end: list[bool] = field(default_factory=list)
    written: range = range(0)
    places: Tensor | None = None
    step: StepAttention | None = None
    steps: list[Step] = field(default_factory=list)
    stopwatches: list[Stopwatch] = field(default_factory=list)

    def begin(self) -> None:
        """Before the model computes anything: the mask must be long enough."""
        cache, mask = self.given.get("past_key_values"), self.given.get("attention_mask")
        stages = stages_of(cache)
        if self.plan.method.decodes and cache is not None:
            check_cache(cache, self.plan.method.name)
        if isinstance(mask, Tensor) and (stages or self._images()):
            check_length(mask, self._seen(stages, cache, layer=0), self.given["input_ids"].shape[1])

    def look(self, layer: nn.Module, hidden: Tensor, kwargs: dict) -> None:
        """Input of the layer before a site."""
        if self._images():
            self.before = LayerInput(layer, hidden, kwargs["position_embeddings"])

    def enter(self, layer: nn.Module, hidden: Tensor, kwargs: dict) -> Tensor:
        """Input of a site: reduces it, and prepares the mask and the rotary embedding from there on."""
        cache, site = kwargs.get("past_key_values"), self.site
        self.site += 1
        stages = self._cached(cache)
        if site == 0 and self._images():
            self.past = self._seen(stages, cache, self.plan.sites[0])
            self._read(hidden, stages, kwargs)
        columns = stages[site] if site < len(stages) else None
        if columns is None and self.sequence is None:
            return hidden
        mask = kwargs.get("attention_mask")
        if self.sequence is not None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and self.plan.method.trainable):
                reduced = self._compact(layer, hidden, cache, kwargs)
            hidden = reduced if self.plan.method.trainable else without_gradient(hidden, reduced)
            mask = None  # the log sizes say what is padding
            columns, start = self._append(columns, cache, hidden)
        else:
            if mask is None and columns.padded.any():
                raise RuntimeError("pact_ext: attention_mask must be given, for the prompt in this cache was padded")
            source, start = torch.arange(hidden.shape[1], device=columns.source.device), columns.count
            source = source.expand(len(hidden), -1)
            columns.append(source, columns.log_sizes.new_zeros(source.shape), True, hidden.shape[1], None)
        columns.image_at_end = self.image_at_end
        self.written, self.places = range(start, columns.count), columns.places
        self.mask = self._mask(columns, hidden, cache, mask)
        return hidden

    def attend(self, layer: nn.Module, hidden: Tensor, kwargs: dict) -> None:
        """Input of a layer from the site on, once it has run, for a method that looks at the last token's attention."""
        cache = kwargs.get("past_key_values")
        columns = next(iter(stages_of(cache)), None)
        if columns is None or columns.kinds is None:
            return
        if self.step is None:
            self.step = StepAttention(self.plan.family, cache, columns)
        self.step.add(LayerInput(layer, hidden, kwargs["position_embeddings"]))

    @torch.no_grad()
    def finish(self) -> None:
        """After the model has computed everything: what the token that came last sees no more is evicted."""
        if self.step is not None and self.step.evict(self.plan.method):
            self.places = self.step.columns.places

    def replaced(self, kwargs: dict) -> dict:
        """Arguments of a layer from a site on. The ids stay behind: to FlashAttention gaps mean packing."""
        kwargs = {**kwargs, "attention_mask": self.mask, "position_ids": None}
        if self.rotary is not None:
            kwargs["position_embeddings"] = self.rotary
        if kwargs.get("cache_position") is not None:  # up to transformers 4, where a static cache writes to
            device = kwargs["cache_position"].device
            kwargs["cache_position"] = torch.arange(self.written.start, self.written.stop, device=device)
        return kwargs

    def _images(self) -> bool:
        return brings_images(self.plan.family, self.given)

    def _cached(self, cache) -> list[Columns]:
        stages = stages_of(cache)
        if not stages:
            return []
        stages[0].check_owner()
        for columns in stages[self.site - 1 :]:
            # A static cache has its length on the device, and asking would wait for it.
            seen = columns.seen if is_preallocated(cache) else cache.get_seq_length(columns.first)
            if seen != columns.seen:
                raise RuntimeError(
                    f"pact_ext: this cache holds {seen - columns.removed} columns behind the reduction where "
                    f"{columns.count} were written; change it through its own methods, not layer by layer"
                )
        return stages

    def _seen(self, stages: list[Columns], cache, layer: int) -> int:
        """How many tokens came before this call."""
        if stages:
            return stages[-1].seen
        return int(cache.get_seq_length(layer)) if hasattr(cache, "get_seq_length") else 0

    @torch.no_grad()
    def _read(self, hidden: Tensor, stages: list[Columns], kwargs: dict) -> None:
        """What the call brings, if there is a visual token in it."""
        plan, past, mask = self.plan, self.past, kwargs.get("attention_mask")
        if mask is None and plan.implementation == "flash_attention_2":
            check_not_packed(kwargs.get("position_ids"))
        present = padding(mask, past, hidden.shape[1])
        if present is not None:
            present = present.cpu().expand(len(hidden), -1)
        self.given = {**self.given, "input_ids": self.given["input_ids"].cpu()}  # once, for all that look at them
        prompt = read(
            self.core, plan.family, self.given, None if present is None else present[:, past:], plan.per_image
        )
        if not any(prompt.visual):
            return
        self._check_whole(prompt, stages)
        prompt.position_ids, self.present = self.position_ids, present
        self.sequence = Sequence.of(prompt, hidden.shape[1], hidden.device)

    def _compact(self, layer: nn.Module, hidden: Tensor, cache, kwargs: dict) -> Tensor:
        """Reduces the visual tokens. Returns the hidden states of the columns that are left."""
        plan, before = self.plan, self.sequence
        rotary = tuple(x.to(hidden.device) for x in kwargs["position_embeddings"])
        with Stopwatch(hidden.device) as stopwatch:
            scene = Scene(
                method=plan.method,
                family=plan.family,
                site=self.site - 1,
                sequence=before,
                at=LayerInput(layer, hidden, self.rotary or rotary),
                before=self.before,
                past=self._past_keys(cache),
                earlier=self.earlier,
                embedded=self.embedded,
                core=self.core,
                given=self.given,
                encoder=self._encoder(),
            )
            found = compact(scene)
            self.rotary = tuple(_at(x, found.sequence.source) for x in rotary)
        self.stopwatches.append(stopwatch)
        keep_tokens(self.kept, found, before)
        self.reductions = list(map(composed, self.reductions or len(hidden) * [None], found.reductions))
        self.sequence, self.before = found.sequence, None
        self.steps.append(Step(plan.sites[self.site - 1], found.hidden.shape[1], self.reductions))
        return found.hidden

    def _encoder(self) -> EncoderViews | None:
        plan = self.plan
        if not plan.encoder_layers:
            return None
        tower, seen = plan.family.tower(self.core), self.towers.get(threading.get_ident())
        return EncoderViews(tower, seen, self.core, plan.family, self.given, f"pact_ext, for {plan.method.name}")

    def _past_keys(self, cache) -> PastKeys | None:
        """What the layer before the site had cached when this call began."""
        if self.before is None or cache is None:
            return None
        if self.site == 1:
            return PastKeys(cache, self.past, None if self.present is None else self.present[:, : self.past])
        count = self.written.start
        return PastKeys(cache, count, stages_of(cache)[self.site - 2].log_sizes[:, :count] > -torch.inf)

    def _append(self, columns: Columns | None, cache, hidden: Tensor) -> tuple[Columns, int]:
        """The cached columns at the site with those that this call became, and how many there were before."""
        sequence, device = self.sequence, hidden.device
        log_sizes = sequence.log_sizes(torch.promote_types(hidden.dtype, torch.float32))
        if columns is None:
            source = torch.arange(self.past, device=device).expand(len(hidden), -1)
            padded = torch.zeros(len(hidden), dtype=torch.bool)
            columns = Columns(
                *(self.owner, self.plan.sites[self.site - 1], source, log_sizes.new_zeros(source.shape)),
                *(0, 0, True, padded),
            )
            if self.plan.method.decodes:
                columns.kinds = torch.full(source.shape, SYSTEM, dtype=torch.int8, device=device)
                columns.evicted = torch.zeros(len(hidden), dtype=torch.int64, device=device)
            if cache is not None:
                add_stage(cache, columns)
        if self.present is not None and not self.present.all():
            hidden_now = ~self.present.to(columns.source.device, non_blocking=True).gather(1, columns.source)
            columns.log_sizes = columns.log_sizes.masked_fill(hidden_now, -torch.inf)
            columns.plain, columns.padded = False, columns.padded | ~self.present.all(dim=1)
        start = columns.count
        tokens = self.given["input_ids"].shape[1]
        visual = torch.zeros(log_sizes.shape, dtype=torch.bool, device=device)
        for row, groups in enumerate(sequence.visual):
            for places in groups:
                visual[row].index_fill_(0, places.to(device), True)
        columns.append(sequence.source, log_sizes, sequence.plain, tokens, min(sequence.tail), visual)
        return columns, start

    def _check_whole(self, prompt: Prompt, stages: list[Columns]) -> None:
        """`generate` with prefill_chunk_size hands on the part of the features that a piece of the prompt needs."""
        width = self.given["input_ids"].shape[1]
        begins = [bool(groups) and int(groups[0][0]) == 0 for groups in prompt.visual]
        pieces = self.given.get("mm_encoder_outputs") is not None and stages
        if pieces and any(map(operator.and_, begins, stages[0].image_at_end)):
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


def _at(embedding: Tensor, source: Tensor) -> Tensor:
    """Cosines or sines ``[..., 1 or B, tokens, width]`` of the columns ``[B, q]`` that came from those tokens."""
    rows = embedding.expand(*embedding.shape[:-3], len(source), -1, -1)
    index = source[..., None].expand(*rows.shape[:-3], -1, -1, rows.shape[-1])
    return rows.gather(-2, index)
