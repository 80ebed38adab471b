"""A key-value cache that knows it was reduced: from some layers on it holds fewer columns than before.

The knowledge lives on the cache, so interleaved generations never mix, and a copy of a cache is complete, a pickled one
too. A reduced cache changes its class to a subclass of its own, which keeps the knowledge in step with what generation
does to a cache: reorder it for beam search, crop it after assisted decoding, repeat or select its rows, reset it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

OWNERS: WeakValueDictionary[str, Any] = WeakValueDictionary()
"""The hooks on every reduced model of this process, by the name that they leave on the caches they reduced."""

SYSTEM, VISUAL, INSTRUCTION, RESPONSE = range(4)
"""What a column's token is: text before the first picture, of a picture, other text, or of the answer."""


@dataclass
class Columns:
    """The key columns that the layers from `first` on have cached, up to the next reduction.

    Attributes:
        owner: the name of the hooks that the cache depends on.
        first: the layer of the reduction.
        source: ``[B, n]`` int64, the token each column had, counted from the first of its row; 0 for padding.
        log_sizes: ``[B, n]``, log of the size behind each column; -inf for padding.
        removed: how many columns fewer than a layer before any reduction has.
        tail: columns after the last reduced one: as many as a crop may take.
        plain: no column is merged or padding, so that attention needs no bias.
        padded: ``[B]``, which rows had padding in a call that brought images; some of it may have no column any more.
        image_at_end: of each row, whether its last token is a visual one; [] where there are none.
        kinds: ``[B, n]`` int8, of `SYSTEM`, `VISUAL`, `INSTRUCTION`, `RESPONSE`; None unless columns are evicted.
        evicted: ``[B]``, how many visual columns have been evicted; None unless they are.
    """

    owner: str
    first: int
    source: Tensor
    log_sizes: Tensor
    removed: int
    tail: int
    plain: bool
    padded: Tensor
    image_at_end: list[bool] = field(default_factory=list)
    kinds: Tensor | None = None
    evicted: Tensor | None = None

    @property
    def count(self) -> int:
        return self.log_sizes.shape[1]

    @property
    def seen(self) -> int:
        """The tokens behind them."""
        return self.count + self.removed

    @property
    def places(self) -> Tensor:
        """`source`, but -1 for padding."""
        return self.source.masked_fill(self.log_sizes == -torch.inf, -1)

    def append(
        self,
        source: Tensor,
        log_sizes: Tensor,
        plain: bool,
        tokens: int,
        tail: int | None,
        visual: Tensor | None = None,
    ) -> None:
        """The columns that `tokens` more tokens became, `source` counted from the first of those; `tail` of them follow
        the last reduced one, None is all. `visual` ``[B, new]``, which are visual; None where none is."""
        new = log_sizes.shape[1]
        if self.kinds is not None:
            self.kinds = torch.cat([self.kinds, self._kinds_of(new, visual)], dim=1)
        self.source = torch.cat([self.source, source + self.seen], dim=1)
        self.log_sizes = torch.cat([self.log_sizes, log_sizes], dim=1)
        self.removed += tokens - new
        self.tail = self.tail + new if tail is None else tail
        self.plain &= plain

    def _kinds_of(self, new: int, visual: Tensor | None) -> Tensor:
        rows = self.kinds.new_empty(len(self.kinds), new)
        if visual is None:
            return rows.fill_(RESPONSE if new == 1 else INSTRUCTION)
        before = ((self.kinds == VISUAL).any(dim=1, keepdim=True)) | (visual.cumsum(dim=1) > 0)
        return torch.where(visual, VISUAL, torch.where(before, INSTRUCTION, SYSTEM)).to(rows)

    def evict(self, kept: list[Tensor]) -> Tensor:
        """Only some columns of each row stay; returns ``[B, m]`` which, 0 for the padding that now is on the left."""
        index = pad_left(kept, -1)
        padding, index = index < 0, index.clamp(min=0)
        gone, held = self.count - index.shape[1], (self.kinds == VISUAL).sum(dim=1)
        self.source = self.source.gather(1, index).masked_fill(padding, 0)
        self.log_sizes = self.log_sizes.gather(1, index).masked_fill(padding, -torch.inf)
        self.kinds = self.kinds.gather(1, index).masked_fill(padding, SYSTEM)
        self.evicted = self.evicted + held - (self.kinds == VISUAL).sum(dim=1)
        self.removed += gone
        self.plain &= not any(len(row) < index.shape[1] for row in kept)
        return index

    def take(self, chosen: Callable[[Tensor], Tensor]) -> None:
        """Keep the rows that `chosen` picks."""
        self.source, self.log_sizes, self.padded = map(chosen, (self.source, self.log_sizes, self.padded))
        if self.kinds is not None:
            self.kinds, self.evicted = chosen(self.kinds), chosen(self.evicted)

    def drop(self, count: int) -> None:
        """The last columns go."""
        self.source, self.log_sizes = self.source[:, :-count], self.log_sizes[:, :-count]
        if self.kinds is not None:
            self.kinds = self.kinds[:, :-count]
        self.tail -= count

    @torch.compiler.disable
    def check_owner(self) -> None:
        """Raises RuntimeError unless this thread is in a call of the model that reduced the cache."""
        owner = OWNERS.get(self.owner)
        if owner is None:
            raise RuntimeError(
                "pact_ext: this cache was reduced by a handle that has been removed, or that another process has, and "
                "would be continued without proportional attention; start from a new cache, or keep the handle"
            )
        if not owner.in_call:
            raise RuntimeError(
                "pact_ext: this cache was reduced by another handle, or by one that is off; only its own model, "
                "reduced, can continue it"
            )


class ReducedCache:
    """Mixed into the class of a cache that was reduced.

    Attributes:
        stages: the columns behind each reduction, by layer.
    """

    stages: list[Columns]

    def stage(self, layer: int) -> Columns | None:
        """The columns that a layer has; None before the first reduction."""
        return next((columns for columns in reversed(self.stages) if columns.first <= layer), None)

    def update(self, keys: Tensor, values: Tensor, layer_idx: int, *args, **kwargs) -> tuple[Tensor, Tensor]:
        if layer_idx == 0:  # a model's first, so that nothing is written to a cache it cannot continue
            self.stages[0].check_owner()
        return super().update(keys, values, layer_idx, *args, **kwargs)

    def get_mask_sizes(self, query, layer_idx: int) -> tuple[int, int]:
        """Length and start of a mask over the tokens seen; `query` is how many, up to transformers 4 their places."""
        length, start = super().get_mask_sizes(query, layer_idx)
        columns = self.stage(layer_idx)
        return length + (columns.removed if columns else 0), start

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens seen, as for a sliding window, not columns held: positions go on from it."""
        columns = self.stage(layer_idx)
        if columns is None:
            return super().get_seq_length(layer_idx)
        # Up to transformers 4 a static cache counts its first row's keys that are not zero, as padding's are.
        return columns.seen if is_preallocated(self) else super().get_seq_length(layer_idx) + columns.removed

    def crop(self, length: int) -> None:
        # Up to transformers 4 `length` is what stays, in tokens seen; from 5 on what goes, negative.
        gone = int(self.get_seq_length()) - length if length > 0 else -length
        tail = min(columns.tail for columns in self.stages)
        if gone > tail:
            raise RuntimeError(
                f"pact_ext: a crop of {gone} tokens reaches into reduced visual tokens; at most the "
                f"{tail} tokens after them can go"
            )
        if gone > 0:
            super().crop(-gone)
            for columns in self.stages:
                columns.drop(gone)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)
        self._take(lambda x: x[beam_idx.to(x.device)])

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)
        self._take(lambda x: x.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._take(lambda x: x[indices.to(x.device)])

    def _take(self, chosen: Callable[[Tensor], Tensor]) -> None:
        for columns in self.stages:
            columns.take(chosen)

    def reset(self) -> None:
        super().reset()
        del self.stages
        self.__class__ = type(self).__mro__[2]  # what `add_stage` found

    def __reduce_ex__(self, protocol):
        return _new, (type(self).__mro__[2],), vars(self)


@functools.cache
def _reduced_class(base: type) -> type:
    return type(base.__name__, (ReducedCache, base), {"__module__": base.__module__})


def _new(base: type):
    """A reduced cache to be filled: its class has no name to be found by."""
    cls = _reduced_class(base)
    return cls.__new__(cls)


def add_stage(cache, columns: Columns) -> None:
    """The cache was reduced once more, at a later layer."""
    if not isinstance(cache, ReducedCache):
        cache.__class__ = _reduced_class(type(cache))
        cache.stages = []
    cache.stages.append(columns)


def stages_of(cache) -> list[Columns]:
    """How a cache was reduced, by layer; [] when it was not, or when there is no cache."""
    return cache.stages if isinstance(cache, ReducedCache) else []


def key_width(cache, layer: int, count: int) -> int:
    """How many keys attention gets for `count` columns: a static cache hands out all it has room for."""
    if cache is None or layer >= len(cache.layers):
        return count
    return getattr(cache.layers[layer], "max_cache_len", count)


def is_preallocated(cache) -> bool:
    return any(hasattr(layer, "max_cache_len") for layer in cache.layers)


def pad_left(rows: list[Tensor], value: float) -> Tensor:
    """Tensors ``[n_i, ...]`` as one ``[B, max n_i, ...]``."""
    longest = max(len(row) for row in rows)
    return torch.stack([F.pad(row, (0, 0) * (row.ndim - 1) + (longest - len(row), 0), value=value) for row in rows])
