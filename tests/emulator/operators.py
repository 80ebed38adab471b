"""The CUDA operators on the CPU: their own torch side and launchers, with every kernel run by the emulator.

The sources of csrc/cuda are copied to build/emulated with each launch rewritten into a call of the emulator, and the
few words that name a CUDA device rewritten to the CPU; the library registers its operators as torch.ops.pact_emulated.
So what is checked is the code that runs on a GPU: checks, workspace, order of the kernels, launch configurations.
"""

from __future__ import annotations

import concurrent.futures
import fcntl
import os
import re
import subprocess
from functools import cache
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "emulated"
RUNTIME = Path(__file__).parent / "host_runtime"
CONCURRENT = ("select_kernel",)  # blocks of these wait for each other

# What the torch side says of a device, and what it says here.
WORDS = {
    "op_support.h": {"torch::stable::accelerator::DeviceGuard guard_;": "int guard_;"},
    "op_support.cpp": {
        "device_(DeviceType::CUDA, input.get_device_index())": "device_(DeviceType::CPU)",
        "TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(input.get_device_index(), &stream));": "",
        "torch::stable::Device(DeviceType::CPU),": "torch::stable::Device(DeviceType::CPU), false && ",
    },
}
FLAGS = ["-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w", "-DPACT_EMULATED"]
FLAGS += ["-DTORCH_TARGET_VERSION=0x020a000000000000", '-DPACT_CUDA_ARCHS="emulated"', '-DPACT_VERSION="0"']
FLAGS += ['-DPACT_NVCC_VERSION="0"']


def rewrite_launches(text: str) -> str:
    """``kernel<T><<<grid, block, bytes, stream>>>(args)`` to ``emulator::configured(...)(args)``."""
    while "<<<" in text:
        at = text.index("<<<")
        end = text.index(">>>", at)
        head = text[:at].rstrip()
        begin = len(head)
        if head.endswith(">"):
            depth = 0
            while True:
                begin -= 1
                depth += {">": 1, "<": -1}.get(head[begin], 0)
                if depth == 0:
                    break
        while begin and re.match(r"[\w:]", head[begin - 1]):
            begin -= 1
        kernel = head[begin:]
        waits = "true" if kernel.split("<")[0] in CONCURRENT else "false"
        caller = f"[=](auto... args) {{ {kernel}(args...); }}"
        call = f"emulator::configured({caller}, {waits}, {text[at + 3 : end]})"
        text = head[:begin] + call + text[end + 3 :]
    return text


def translate() -> list[Path]:
    """Write what changed, return the sources to compile."""
    sources = []
    originals = [p for p in sorted((ROOT / "csrc" / "cuda").rglob("*")) if p.is_file() and p.name != "info.cpp"]
    originals += [*sorted((ROOT / "csrc").glob("*.h")), ROOT / "csrc" / "ops.cpp"]
    for original in originals:
        text = original.read_text()
        for word, other in WORDS.get(original.name, {}).items():
            if word not in text:
                raise RuntimeError(f"{original} no longer says {word!r}")
            text = text.replace(word, other)
        text = text.replace("(pact, CUDA, m)", "(pact, CPU, m)").replace("(pact, ", "(pact_emulated, ")
        if "<<<" in text:
            text = '#include "host_launch.h"\n' + rewrite_launches(text)
        target = FOLDER / original.relative_to(ROOT)
        if target.suffix == ".cu":
            target = target.with_suffix(".cu.cpp")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
        if target.suffix == ".cpp":
            sources.append(target)
    return sources


def stale(source: Path, depfile: Path, target: Path) -> bool:
    if not target.exists() or not depfile.exists():
        return True
    files = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    made = target.stat().st_mtime_ns
    return any(not os.path.exists(f) or os.stat(f).st_mtime_ns > made for f in (*files, __file__))


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def build() -> Path:
    """Path of the library; only what changed is compiled."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch_folder = Path(torch.__file__).parent
    includes = [f"-I{RUNTIME}", f"-I{RUNTIME.parent}", "-isystem", f"{torch_folder}/include"]
    compiler, library = os.environ.get("CXX", "c++"), FOLDER / "libpact_emulated.so"
    with open(FOLDER / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commands, objects = [], []
        for source in translate():
            target = source.with_suffix(".o")
            depfile = source.with_suffix(".d")
            objects.append(str(target))
            if stale(source, depfile, target):
                commands.append([compiler, *FLAGS, *includes, "-MD", "-MF", str(depfile), "-c", str(source)])
                commands[-1] += ["-o", str(target)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(run, commands))
        if commands or not library.exists():
            run(
                [
                    compiler,
                    "-shared",
                    *objects,
                    f"-L{torch_folder}/lib",
                    "-ltorch_cpu",
                    "-Wl,-z,defs",
                    "-o",
                    str(library),
                ]
            )
    return library


@cache
def load():
    """torch.ops.pact_emulated."""
    torch.ops.load_library(build())
    return torch.ops.pact_emulated
