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
# (n, dk, d): one token; a tile's edges; an odd width, padded inside; several tiles in both directions.
SIZES = [(1, 8, 8), (65, 33, 31), (128, 64, 64), (300, 72, 257)]


def cases() -> int:
    """Every operator, dtype and size; returns how many calls."""
    import torch

    from pact_ext import ops

    torch.manual_seed(0)
    count = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for n, dk, d in SIZES:
            on_host = [torch.randn(n, d), torch.randn(n, 1, dk), torch.randn(n, 2, dk), torch.randn(n // 4 + 1, dk)]
            on_host[3] = on_host[3].repeat(5, 1)[:n] + 0.4 * torch.randn(n, dk)
            hidden, keys, queries, near = (t.to(dtype).cuda() for t in on_host)
            centers = torch.arange(0, n, 3).flip(0).cuda()
            labels = (torch.arange(n) % 7 - 1).cuda()
            ops.euti_scores(hidden, keys, queries)
            ops.density(near, 2.0)
            ops.density(near, 2.0, gaussian=True)
            ops.max_distance(near)
            ops.assign(near, centers, 0.3)
            ops.segment_mean(hidden, labels, 6)
            for dc in (0.0, 0.3, 2.0):
                ops.dbdpc(near, dc, 2.0)
            for prune_ratio in (0.0, 0.5, 1.0):
                ops.reduce(hidden, keys, queries, near, prune_ratio, 0.3, 2.0, 1.5)
            ops.reduce(hidden, keys, queries, near, 0.5, 0.3, 2.0, 0.0, scores=torch.arange(float(n)).cuda())
            torch.cuda.synchronize()
            count += 13
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
