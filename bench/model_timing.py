"""Moments of a run, and what it allocates: device events on a card, where the host runs ahead; the clock elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import TorchDispatchMode

Moment = Any
"""A number of seconds, or an event of a card."""


def moment(device: torch.device) -> Moment:
    """Now, when all that was asked for has been done."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(start: Moment, end: Moment) -> float:
    """Seconds; waits for the end."""
    if isinstance(start, float):
        return end - start
    end.synchronize()
    return start.elapsed_time(end) / 1e3


class Peak:
    """The most that is allocated on a card beyond what was at the start; None elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.before = device, 0
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()

    def bytes(self) -> int | None:
        return torch.cuda.max_memory_allocated() - self.before if self.device.type == "cuda" else None


class _Calls(TorchDispatchMode):
    """Counts what PyTorch chooses to run its scaled dot-product attention on."""

    def __init__(self) -> None:
        super().__init__()
        self.backends: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten.scaled_dot_product_attention.default:
            choice = SDPBackend(torch._fused_sdp_choice(*args, **kwargs))
            self.backends[choice.name.lower().removesuffix("_attention")] += 1
        return func(*args, **kwargs)


@torch.inference_mode()
def attention_backends(model: nn.Module, prompt: dict[str, Tensor]) -> dict[str, int]:
    """Which backend the language model's attention runs on in prefill, and in how many of its layers."""
    calls, decoder = _Calls(), model.get_decoder()
    hooks = [
        decoder.register_forward_pre_hook(lambda *_: calls.__enter__() and None),
        decoder.register_forward_hook(lambda *_: calls.__exit__(None, None, None)),
    ]
    try:
        model(**prompt, use_cache=True, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    return dict(calls.backends)


@torch.inference_mode()
def attention_kernels(model: nn.Module, prompt: dict[str, Tensor]) -> list[str]:
    """Names of the kernels of attention that a prefill on a card launches."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        model(**prompt, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
    names = {event.name for event in profile.events()}
    return sorted(name[:160] for name in names if any(part in name.lower() for part in ("flash", "fmha", "attention")))
