"""Peak memory of an operator beyond its inputs and outputs: ``python -m bench.memory reduce --n 8192 --dk 512``.

The kernel's own record of the resident set is read, so nothing is missed: torch's allocator, the operator's
buffers, a library's packing buffers. Each figure wants a fresh process, in which no earlier call has left pages
behind that the measured one could use for free; that is what the command line is for.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .cases import OPERATORS, Inputs, make_call

MIB = 2**20
WARM_UP_TOKENS = 64
PROCESS = Path("/proc/self")


def available() -> bool:
    """Whether this system keeps a peak that can be reset: Linux does."""
    return (PROCESS / "clear_refs").exists()


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    for line in (PROCESS / "status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _tensor_bytes(result: Any) -> int:
    tensors = result if isinstance(result, tuple) else (result,)
    return sum(t.nbytes for t in tensors)


def release_unused() -> None:
    """Give back to the system what Python and the C library keep of freed memory."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def peak_extra_bytes(call: Callable[[], Any]) -> int:
    """How far the resident set rises above its level before `call`, less the tensors that `call` returns."""
    release_unused()  # a kept page that the call takes for itself would not show
    (PROCESS / "clear_refs").write_text("5")  # proc(5): 5 resets the peak, VmHWM, to the present value
    before = _status("VmRSS")
    result = call()
    return max(0, _status("VmHWM") - before - _tensor_bytes(result))


def measure(op: str, n: int, dk: int, dtype: torch.dtype, implementation: str = "ours") -> int:
    """Bytes beyond inputs and outputs, in this process. A tiny call first starts the threads and the libraries."""
    make_call(op, implementation, Inputs(WARM_UP_TOKENS, dk, dtype))()
    return peak_extra_bytes(make_call(op, implementation, Inputs(n, dk, dtype)))


def measure_in_fresh_process(op: str, n: int, dk: int, dtype: torch.dtype, implementation: str = "ours") -> float:
    """MiB beyond inputs and outputs."""
    options = ("--n", n, "--dk", dk, "--dtype", str(dtype).removeprefix("torch."), "--implementation", implementation)
    command = [sys.executable, "-m", __name__, op, *map(str, options)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stderr}")
    return float(done.stdout)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description="Peak memory beyond inputs and outputs")
    parser.add_argument("op", choices=OPERATORS)
    parser.add_argument("--n", type=int, required=True, help="tokens")
    parser.add_argument("--dk", type=int, default=512, help="key width (default: %(default)s)")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--implementation", choices=("ours", "eager"), default="ours")
    options = parser.parse_args()
    if not available():
        sys.exit("Peak memory is read from /proc/self/clear_refs and status, which this system does not have.")
    extra = measure(options.op, options.n, options.dk, getattr(torch, options.dtype), options.implementation)
    print(f"{extra / MIB:.2f}")


if __name__ == "__main__":
    main()
