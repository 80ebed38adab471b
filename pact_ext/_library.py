"""Finds and loads the operator libraries, and asks them about themselves."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
from pathlib import Path

import torch

MINIMUM_TORCH = (2, 10)


def library_path() -> Path:
    """Where libpact_cpu.so is: beside this file, or in the folder that PACT_LIBRARY_DIR names."""
    return Path(os.environ.get("PACT_LIBRARY_DIR") or Path(__file__).parent) / "libpact_cpu.so"


@functools.cache
def load() -> None:
    """Register the operators with torch. Raises ImportError, with the remedy, when that cannot be done."""
    path = library_path()
    found = f"torch {torch.__version__}"
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        raise ImportError(f"pact_ext needs torch >= {wanted}, found {found}: pip install 'torch>={wanted}'")
    if not path.exists():
        raise ImportError(
            f"pact_ext: {path} is missing, so its operators were never built here. "
            "Build them with 'pip install --no-build-isolation -e .' in the source folder, or install a wheel."
        )
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"pact_ext: {path.name} does not load into {found} on {platform.system()} {platform.machine()}: {error}. "
            "It was built for another platform or torch: reinstall pact-ext for this one, or build it from source."
        ) from error


@functools.cache
def _handle() -> ctypes.CDLL:
    load()
    handle = ctypes.CDLL(str(library_path()))
    handle.pact_cpu_info.restype = ctypes.c_char_p
    handle.pact_cpu_use_isa.argtypes = [ctypes.c_char_p]
    handle.pact_cpu_use_isa.restype = ctypes.c_int
    return handle


def cpu_info() -> dict:
    """Facts of the CPU library: compiler, torch ABI floor, the instruction sets it holds, can use, and uses."""
    return json.loads(_handle().pact_cpu_info())


def use_cpu_isa(name: str) -> None:
    """Make the CPU operators use one instruction set of ``cpu_info()["isa_usable"]``, for tests and benchmarks.

    Not thread-safe. The environment variable PACT_CPU_ISA chooses one from the start.
    """
    if not _handle().pact_cpu_use_isa(name.encode()):
        usable = ", ".join(cpu_info()["isa_usable"])
        raise ValueError(f"instruction set {name!r} cannot be used here; there are {usable}")
