"""What each kernel takes of a multiprocessor, as ptxas reports it, and what its loops are made of: ``make
kernel-resources`` rewrites both tables.

kernel_resources.json holds every kernel of every architecture of the default list, by the kernel's name and template
arguments. Shared memory that a launch asks for (all of it, in these kernels) is not in ptxas's report.
kernel_loops.json holds the loops of every kernel on one architecture, as bench.sass reads them.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

from bench import sass

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".json")
LOOPS = TABLE.with_name("kernel_loops.json")
LOOPS_ARCH = "sm_90a"
FIELDS = ("registers", "stack", "spill_stores", "spill_loads", "shared")

_ENTRY = re.compile(
    r"Compiling entry function '(\w+)' for '(\w+)'.*?"
    r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads.*?"
    r"Used (\d+) registers([^\n]*)",
    re.S,
)


def setup() -> dict:
    """The functions of setup.py."""
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


def build(archs: str, folder: Path) -> Path:
    """Build the libraries into `folder`, return the folder that CMake worked in. Nothing that is in place changes."""
    environment = {**os.environ, "PACT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": archs}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(folder)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return ROOT / "build" / ("cuda-" + "-".join(setup()["parse_archs"](archs)))


def parse(report: str) -> dict[str, dict[str, dict[str, int]]]:
    """Kernel to architecture to figures, from what ``nvcc --resource-usage`` printed."""
    kernels: dict[str, dict[str, dict[str, int]]] = {}
    for mangled, arch, stack, stores, loads, registers, rest in _ENTRY.findall(report):
        shared = re.search(r"(\d+) bytes smem", rest)
        figures = (registers, stack, stores, loads, shared[1] if shared else 0)
        if "Groups" in mangled and arch != "sm_90a":  # nothing but a trap
            continue
        kernels.setdefault(sass.kernel_name(mangled), {})[arch] = dict(zip(FIELDS, map(int, figures), strict=True))
    return kernels


def measured(cmake_folder: Path) -> dict[str, dict[str, dict[str, int]]]:
    """The figures of a build, kernels in alphabetical order."""
    reports = [path.read_text() for path in sorted((cmake_folder / "cuda").glob("*.resources"))]
    return dict(sorted(parse("\n".join(reports)).items()))


def write(kernels: dict[str, dict[str, dict[str, int]]], nvcc: str) -> None:
    """One line for each kernel and architecture, so that a difference reads well."""
    lines = []
    for name, archs in kernels.items():
        rows = ",\n".join(f"   {json.dumps(arch)}: {json.dumps(figures)}" for arch, figures in archs.items())
        lines.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    body = ",\n".join(lines)
    TABLE.write_text(f'{{\n "nvcc": {json.dumps(nvcc)},\n "kernels": {{\n{body}\n }}\n}}\n')


def write_loops(kernels: dict[str, list[dict]], nvcc: str) -> None:
    """One line for each loop."""
    lines = []
    for name, loops in kernels.items():
        rows = ",\n".join(f"   {json.dumps(loop)}" for loop in loops)
        lines.append(f"  {json.dumps(name)}: [" + (f"\n{rows}\n  ]" if loops else "]"))
    body = ",\n".join(lines)
    head = f' "nvcc": {json.dumps(nvcc)},\n "arch": {json.dumps(LOOPS_ARCH)},\n'
    LOOPS.write_text(f'{{\n{head} "kernels": {{\n{body}\n }}\n}}\n')


def main() -> None:
    functions = setup()
    folder = ROOT / "build" / "kernel-resources"
    kernels, nvcc = measured(build(functions["CUDA_ARCHS"], folder)), ".".join(functions["nvcc_version"]())
    write(kernels, nvcc)
    write_loops(sass.table(folder / "pact_ext" / "libpact_cuda.so", LOOPS_ARCH), nvcc)
    spilling = [
        f"{name} on {arch}: {figures}"
        for name, archs in kernels.items()
        for arch, figures in archs.items()
        if figures["stack"] or figures["spill_stores"] or figures["spill_loads"]
    ]
    print(f"{TABLE}: {len(kernels)} kernels, {sum(map(len, kernels.values()))} rows")
    print("\n".join(["Spills or stack:", *spilling]) if spilling else "No spills, no stack.")


if __name__ == "__main__":
    main()
