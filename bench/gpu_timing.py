"""Timing on a GPU by device events, with a cold L2 cache, and the facts and rates of the card."""

from __future__ import annotations

import gc
import hashlib
import re
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pact_ext._library import cuda_info

from .gpu_model import Rates
from .record import machine_facts

ROOT = Path(__file__).parents[1]
MOST_RUNS, FEWEST_RUNS, SECONDS = 50, 3, 0.25
CLOCKS = ("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit", "temperature.gpu")


class Timer:
    """Writes a buffer larger than the L2 cache before every run, so that inputs come from memory."""

    def __init__(self) -> None:
        size = 4 * getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 64 << 20)
        self.buffer = torch.empty(max(size, 256 << 20), dtype=torch.int8, device="cuda")

    def __call__(self, call: Callable[[], Any]) -> dict[str, float | int]:
        """Microseconds: the median, the 10th and the 90th percentile, and how many runs."""
        call()
        torch.cuda.synchronize()
        times: list[float] = []
        start = time.monotonic()
        while len(times) < FEWEST_RUNS or (len(times) < MOST_RUNS and time.monotonic() - start < SECONDS):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.buffer.zero_()
            begin.record()
            call()
            end.record()
            end.synchronize()
            times.append(1e3 * begin.elapsed_time(end))
        times.sort()
        last = len(times) - 1
        return {
            "median_us": statistics.median(times),
            "p10_us": times[round(0.1 * last)],
            "p90_us": times[round(0.9 * last)],
            "runs": len(times),
        }


def peak_extra_mib(call: Callable[[], Any]) -> float:
    """Peak memory of one call beyond what was allocated before it and what it returns."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    tensors = result if isinstance(result, tuple) else (result,)
    return (torch.cuda.max_memory_allocated() - before - sum(t.nbytes for t in tensors)) / 2**20


def measure_rates(timer: Timer) -> Rates:
    """Copy bandwidth (read and written bytes), and the rate of an 8192^3 product; float32 without TF32."""
    source = torch.empty(1 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    seconds = 1e-6 * timer(lambda: target.copy_(source))["median_us"]
    flops = {}
    for dtype in (torch.bfloat16, torch.float32):
        a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
        product = 1e-6 * timer(lambda a=a: torch.mm(a, a))["median_us"]
        flops[str(dtype).removeprefix("torch.")] = 2 * 8192**3 / product
    return Rates(2 * source.nbytes / seconds, flops)


def record_name(gpu: str) -> str:
    """What a record of a card is called."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")


def sources_hash() -> str:
    """Of everything the CUDA library is built from: tells a record of other kernels."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "csrc" / "cuda").rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def clocks() -> dict[str, str]:
    """As nvidia-smi reads them; they are never set."""
    command = ["nvidia-smi", f"--query-gpu={','.join(('driver_version', *CLOCKS))}", "--format=csv,noheader", "-i", "0"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip(("driver", *CLOCKS), (value.strip() for value in said.split(",")), strict=False))


def gpu_facts(commit: str | None) -> dict[str, Any]:
    """What the figures depend on."""
    properties = torch.cuda.get_device_properties(0)
    facts = machine_facts()
    if facts["commit"] is None:
        facts["commit"] = commit
    return {
        **facts,
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda_of_torch": torch.version.cuda,
        "library": cuda_info(),
        "sources": sources_hash(),
        "clocks_before": clocks(),
    }
