"""Finds and loads the operator libraries, and asks them about themselves."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import platform
import re
import sys
from pathlib import Path

import torch

MINIMUM_TORCH = (2, 10)
_WANTED_ISA = os.environ.get("PACT_CPU_ISA")  # the library looks at it once, as it is loaded


def library_path(name: str = "libpact_cpu.so") -> Path:
    """Where a library is: beside this file, or in the folder that PACT_LIBRARY_DIR names."""
    return Path(os.environ.get("PACT_LIBRARY_DIR") or Path(__file__).parent) / name


def _load(path: Path) -> None:
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"pact_ext: {path.name} does not load into torch {torch.__version__} on {platform.system()} "
            f"{platform.machine()}: {error}. "
            "It was built for another platform or torch: reinstall pact-ext for this one, or build it from source."
        ) from error


@functools.cache
def load() -> ctypes.CDLL:
    """Register the operators with torch. Raises ImportError, with the remedy, when that cannot be done.

    Returns the CPU library, to be asked about itself.
    """
    path = library_path()
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < MINIMUM_TORCH:
        wanted = ".".join(map(str, MINIMUM_TORCH))
        raise ImportError(
            f"pact_ext needs torch >= {wanted}, found torch {torch.__version__}: pip install 'torch>={wanted}'"
        )
    if not path.exists():
        raise ImportError(
            f"pact_ext: {path} is missing, so its operators were never built here. "
            "Build them with 'pip install --no-build-isolation -e .' in the source folder, or install a wheel."
        )
    _load(path)
    handle = ctypes.CDLL(str(path))
    try:
        handle.pact_cpu_info.restype = ctypes.c_char_p
        handle.pact_cpu_use_isa.argtypes = [ctypes.c_char_p]
        handle.pact_cpu_use_isa.restype = ctypes.c_int
    except AttributeError:
        raise ImportError(f"pact_ext: {path} is from another version: reinstall pact-ext") from None
    known = json.loads(handle.pact_cpu_info())
    if known["isa"] is None:
        usable = ", ".join(known["isa_usable"])
        raise ImportError(f"pact_ext: PACT_CPU_ISA must be one of {usable} on this machine, got {_WANTED_ISA!r}")
    if cuda_loadable():
        _load(library_path("libpact_cuda.so"))
    return handle


def in_command_line() -> bool:
    """Whether this process is the pact-ext command, or ``python -m pact_ext.cli``."""
    return Path(sys.argv[0]).stem == "pact-ext" or sys.orig_argv[1:3] == ["-m", "pact_ext.cli"]


def cuda_loadable() -> bool:
    """Whether `load` takes in the CUDA operators too: they are here, and this torch is a CUDA build."""
    return torch.version.cuda is not None and library_path("libpact_cuda.so").exists()


def cuda_info() -> dict | None:
    """Facts of the CUDA library: architectures, nvcc, torch ABI floor. None when there is no such library.

    Read from the file, so a CPU build of torch can ask too.
    """
    path = library_path("libpact_cuda.so")
    if not path.exists():
        return None
    found = re.search(rb"pact_cuda_info=(\{[^\0]*\})\0", path.read_bytes())
    if found is None:
        raise ImportError(f"pact_ext: {path} is damaged, or from another version: reinstall pact-ext")
    info = json.loads(found[1])
    return {**info, "archs": info["archs"].split()}


def cuda_fits(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether code built for these architectures runs on a card of that compute capability.

    Code for 8.0 runs on every 8.x; the intermediate code of +PTX on every newer card; 9.0a on 9.0 alone.
    """
    major, minor = capability
    for arch in archs:
        number, _, ptx = arch.partition("+")
        specific = number.endswith("a")
        built = tuple(int(part) for part in number.rstrip("a").split("."))
        same = built == capability if specific else built[0] == major and built[1] <= minor
        if same or (ptx and not specific and built <= capability):
            return True
    return False


def cpu_info() -> dict:
    """Facts of the CPU library: compiler, torch ABI floor, the instruction sets it holds, can use, and uses."""
    return json.loads(load().pact_cpu_info())


def use_cpu_isa(name: str) -> None:
    """Make the CPU operators use one instruction set of ``cpu_info()["isa_usable"]``, for tests and benchmarks.

    Not thread-safe. The environment variable PACT_CPU_ISA chooses one from the start.
    """
    if not load().pact_cpu_use_isa(name.encode()):
        usable = ", ".join(cpu_info()["isa_usable"])
        raise ValueError(f"instruction set {name!r} cannot be used here; there are {usable}")
