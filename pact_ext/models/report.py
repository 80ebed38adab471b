"""What a reduction gained, measured on the call that did it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import NamedTuple

import torch

from ..reduction import Reduction


class Stopwatch:
    """Time of a stretch of work: events on a CUDA device, so that nothing waits; the clock elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if device.type == "cuda" else None
        self._seconds = 0.0

    def __enter__(self) -> Stopwatch:
        if self._events:
            self._record(0)
        self._seconds = -time.perf_counter()
        return self

    def __exit__(self, *exception) -> None:
        self._seconds += time.perf_counter()
        if self._events:
            self._record(1)

    def _record(self, which: int) -> None:
        """On the stream that does the work, which need not be the current device's."""
        self._events[which].record(torch.cuda.current_stream(self._device))

    def seconds(self, synchronize: bool) -> float | None:
        """The time; None while the device has not come that far and `synchronize` is False."""
        if not self._events:
            return self._seconds
        if synchronize:
            self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1e3 if self._events[1].query() else None


class Step(NamedTuple):
    """What one site left: the columns of the sequence from its layer on, and each row's reduction so far."""

    layer: int
    columns: int
    reductions: list[Reduction | None]


@dataclass(frozen=True)
class Report:
    """What one call gained. `str` gives a small table, `as_dict` plain numbers.

    Attributes:
        visual_in, visual_out: visual tokens of each row before and after; rows as in `Handle.last`.
        tokens_in, tokens_out: columns of the whole batch's sequence, text and padding included, before and after.
        layer, layers: the reduction is at the input of `layer` of `layers`; of several, this is the first.
        visual_by_layer: visual tokens of the whole batch that each layer sees.
        cache_bytes, cache_bytes_saved: key-value cache of this call's tokens in all layers, beams included, as it is,
            and what it is less than without a reduction; 0 and 0 without a cache. A static cache is allocated up
            front: 0 saved.
        seconds: time spent reducing; None while it is pending on the device.
    """

    visual_in: list[int]
    visual_out: list[int]
    tokens_in: int
    tokens_out: int
    layer: int
    layers: int
    visual_by_layer: list[int]
    cache_bytes: int
    cache_bytes_saved: int
    seconds: float | None

    @property
    def reduction_ratio(self) -> float:
        """Share of the visual tokens that is gone."""
        return 1 - sum(self.visual_out) / sum(self.visual_in)

    @property
    def mean_visual_tokens(self) -> float:
        """Visual tokens of the whole batch that a layer sees, on the average over all layers."""
        return sum(self.visual_by_layer) / self.layers

    def as_dict(self) -> dict:
        """Every figure by name."""
        return {**vars(self), "reduction_ratio": self.reduction_ratio, "mean_visual_tokens": self.mean_visual_tokens}

    def __str__(self) -> str:
        lines = [f"{'row':<8}{'visual tokens':>14}{'after':>8}{'reduction':>11}"]
        rows = [(str(i), *counts) for i, counts in enumerate(zip(self.visual_in, self.visual_out, strict=True))]
        for name, before, after in [*rows, ("total", sum(self.visual_in), sum(self.visual_out))]:
            share = f"{100 * (1 - after / before):.1f} %" if before else "-"
            lines.append(f"{name:<8}{before:>14}{after:>8}{share:>11}")
        seconds = "pending" if self.seconds is None else f"{1e3 * self.seconds:.2f} ms"
        lines += [
            f"sequence {self.tokens_in} -> {self.tokens_out} from layer {self.layer} of {self.layers} on",
            f"visual tokens per layer, average {self.mean_visual_tokens:.1f}",
            f"key-value cache {_mebibytes(self.cache_bytes)}, {_mebibytes(self.cache_bytes_saved)} less than without",
            f"time spent reducing {seconds}",
        ]
        return "\n".join(lines)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.2f} MiB"
