"""What a reduction saves: the same generation with and without it, in turn."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict

import torch
from torch import nn

from ..config import PactConfig
from ..methods import Method, Pact, coerce
from . import apply

VARIANTS = ("stock", "reduced")


class _Clock:
    """A streamer that notes when each token has come. `generate` fetches it from the device first, so it is there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        pass


def benchmark(
    model: nn.Module,
    inputs: Mapping,
    config: Method | PactConfig | str,
    *,
    attention: str = "auto",
    runs: int = 5,
    new_tokens: int = 32,
    progress: Callable[[], object] | None = None,
) -> dict:
    """Time greedy generation of a model as it is and with `pact_ext.apply`, run after run in turn.

    One run of each warms up. Every run ends after `new_tokens`, whatever the model has to say.

    Args:
        model: a Hugging Face model that `pact_ext.apply` knows, not reduced.
        inputs: the processor's output that the model is called with.
        config, attention: as for `pact_ext.apply`.
        progress: called after each of the ``2 * (runs + 1)`` generations.

    Returns:
        Plain values. "stock" and "reduced" each hold `first_token_seconds` (prefill, the vision tower included) and
        `token_seconds` (the mean of the further ones; None for one token), a number a run; `cache_bytes`, what the
        key-value cache holds in the end; on a card `peak_bytes`, the most that was allocated at a time, weights
        included, else None: a process on the CPU has one peak for all. "reduced" holds `reduction_seconds` too, the
        part of the first token's that went into reducing. "ratio" holds the quotients, reduced by stock, of the
        medians; "report" what the reduction did.

    Raises:
        ValueError, RuntimeError: what `pact_ext.apply` and the model have to complain about.
    """
    method = coerce(config)
    if runs < 1 or new_tokens < 1:
        raise ValueError(f"pact_ext.benchmark: runs and new_tokens must be at least 1, got {runs} and {new_tokens}")
    found = {name: [] for name in VARIANTS}
    for run in range(runs + 1):
        for name in VARIANTS if run % 2 else reversed(VARIANTS):
            reducing = apply(model, method, attention=attention) if name == "reduced" else contextlib.nullcontext()
            with reducing as handle:
                measured = _generation(model, inputs, new_tokens)
                if handle is not None:
                    report = handle.report(synchronize=True)
                    measured["reduction_seconds"] = report.seconds
                    route = handle.attention
            if run:  # the first warms up
                found[name].append(measured)
            if progress is not None:
                progress()
    record = {name: _gathered(found[name]) for name in VARIANTS}
    return {
        "device": _device_name(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "batch": len(inputs["input_ids"]),
        "prompt_tokens": inputs["input_ids"].shape[1],
        "new_tokens": new_tokens,
        "runs": runs,
        "attention": route,
        "method": str(method),
        "config": asdict(method.config) if isinstance(method, Pact) else None,
        **record,
        "ratio": {key: _ratio(record, key) for key in record["stock"]},
        "report": {key: value for key, value in report.as_dict().items() if key != "seconds"},
    }


def median(values) -> float | None:
    """Of a list; a single value is its own, None too."""
    return statistics.median(values) if isinstance(values, list) else values


def _generation(model: nn.Module, inputs: Mapping, new_tokens: int) -> dict:
    clock, on_card = _Clock(), model.device.type == "cuda"
    if on_card:
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
    start = time.perf_counter()
    out = model.generate(
        **inputs,
        max_new_tokens=new_tokens,
        min_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        streamer=clock,
        return_dict_in_generate=True,
    )
    times = clock.times[1:]  # the prompt comes first
    if len(times) != new_tokens:
        raise RuntimeError(f"pact_ext.benchmark: generate must bring {new_tokens} tokens, got {len(times)}")
    return {
        "first_token_seconds": times[0] - start,
        "token_seconds": (times[-1] - times[0]) / (new_tokens - 1) if new_tokens > 1 else None,
        "cache_bytes": sum(x.nbytes for layer in out.past_key_values.layers for x in (layer.keys, layer.values)),
        "peak_bytes": torch.cuda.max_memory_allocated(model.device) if on_card else None,
    }


def _gathered(runs: list[dict]) -> dict:
    """Times as lists; memory, which is the same in every run but for the allocator's whims, as its largest."""
    lists = {key: [run[key] for run in runs] for key in runs[0]}
    return {
        key: None if None in values else values if key.endswith("seconds") else max(values)
        for key, values in lists.items()
    }


def _ratio(record: dict, key: str) -> float | None:
    stock, reduced = (median(record[name][key]) for name in VARIANTS)
    return None if stock is None else reduced / stock


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
