"""Small cases of every kernel under compute-sanitizer: ``make gpu-sanitize``.

Run without arguments it starts compute-sanitizer once for each tool, with itself as the program. The caching allocator
is off, so that each buffer is an allocation of its own, with bounds of its own. Inputs are made on the host: initcheck
then knows every byte that was written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

TOOLS = {
    "memcheck": ["--leak-check", "no"],
    "racecheck": ["--racecheck-report", "all"],
    "synccheck": [],
    "initcheck": [],
}


def cases() -> int:
    """Runs them; returns how many calls."""
    import small_cases
    import torch

    count = small_cases.run("cuda")
    torch.cuda.synchronize()
    return count


def find_sanitizer() -> str:
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    found = shutil.which("compute-sanitizer", path=os.pathsep.join(folders))
    return found or sys.exit("compute-sanitizer is not on the PATH, nor in CUDA_HOME/bin: it comes with the toolkit.")


def main() -> int:
    sanitizer = find_sanitizer()
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).parents[1]), *filter(None, [environment.get("PYTHONPATH")])]
    )
    summary = []
    for tool, options in TOOLS.items():
        command = [sanitizer, "--tool", tool, "--error-exitcode", "99", *options, sys.executable, __file__, "cases"]
        start = time.monotonic()
        status = subprocess.run(command, env=environment).returncode
        summary.append((tool, status, time.monotonic() - start))
    for tool, status, seconds in summary:
        print(f"{tool:<10} {'clean' if status == 0 else f'FAILED (exit status {status})':<26} {seconds:5.0f} s")
    return int(any(status for _, status, _ in summary))


if __name__ == "__main__":
    if sys.argv[1:] == ["cases"]:
        print(f"{cases()} calls")
    else:
        sys.exit(main())
