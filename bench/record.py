"""The record of a run: facts of the machine, and for every case the medians and the memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from pact_ext import __version__
from pact_ext._library import cpu_info

from .cases import CONFIG, OPERATORS, Case, model_shape


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git(*arguments: str) -> str | None:
    try:
        folder = Path(__file__).parent
        return subprocess.run(
            ("git", *arguments), cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def machine_facts() -> dict[str, Any]:
    """What the figures depend on. `load` is the machine's load average of the last minute: who else was computing."""
    commit = _git("rev-parse", "HEAD")
    info = cpu_info()
    return {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "isa": info["isa"],
        "compiler": info["compiler"],
        "torch": torch.__version__,
        "python": platform.python_version(),
        "pact_ext": __version__,
        "commit": commit,
        "changed_since_commit": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        "config": {name: getattr(CONFIG, name) for name in ("prune_ratio", "dc", "dn", "alpha", "gaussian")},
    }


def timing_of(seconds: list[float]) -> dict[str, float | int]:
    milliseconds = [1e3 * s for s in seconds]
    return {
        "median_ms": statistics.median(milliseconds),
        "min_ms": min(milliseconds),
        "max_ms": max(milliseconds),
        "rounds": len(milliseconds),
    }


def _order(case: Case) -> tuple[int, int, int]:
    return OPERATORS.index(case.op), case.dk, case.n


def make_record(facts: dict[str, Any], benchmarks: list[dict], memory: Mapping[Case, dict[str, float]]) -> dict:
    """A record from the benchmarks of pytest-benchmark's JSON, the turns of each case pooled.

    memory: MiB beyond inputs and outputs, by case and implementation.
    """
    seconds: dict[Case, dict[str, list[float]]] = {}
    centers: dict[Case, int | None] = {}
    for one in benchmarks:
        info = one["extra_info"]
        case = Case(info["op"], info["n"], info["dk"])
        seconds.setdefault(case, {}).setdefault(info["implementation"], []).extend(one["stats"]["data"])
        if info["implementation"] == "ours float32":
            centers[case] = info["centers"]
    return {
        "facts": facts,
        "cases": [
            {
                **case._asdict(),
                "d": model_shape(case.dk)[0],
                "centers": centers.get(case),
                "timings": {name: timing_of(data) for name, data in by_name.items()},
                "memory_mib": memory.get(case, {}),
            }
            for case, by_name in sorted(seconds.items(), key=lambda item: _order(item[0]))
        ],
    }
