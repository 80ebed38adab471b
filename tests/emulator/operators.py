"""The CUDA operators on the CPU: their own torch side and launchers, with every kernel run by the emulator.

The sources of csrc/cuda are copied to build/emulated with each launch rewritten into a call of the emulator, and the
few words that name a CUDA device rewritten to the CPU; the library registers its operators as torch.ops.pact_emulated.
So what is checked is the code that runs on a GPU: checks, workspace, order of the kernels, launch configurations.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import torch

from . import build as emulator

RUNTIME = Path(__file__).parent / "host_runtime"
POINTER = "kernel"  # what a launcher calls the kernels that it is given
CONCURRENT = ("select_kernel",)  # blocks of these wait for each other

# What the torch side says of a device, and what it says here.
WORDS = {
    "op_support.h": {
        "torch::stable::accelerator::DeviceGuard guard_;": "int guard_;",
        # What lies between the slots of a workspace is out of bounds (gaps.h).
        "#pragma once": '#pragma once\n#include "gaps.h"',
        "bytes_ += (size_t(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment": "bytes_ = gaps_.after("
        "bytes_ + size_t(count) * sizeof(T), kAlignment)",
        "(owner_->mutable_data_ptr());": "(owner_->mutable_data_ptr()); gaps_.guard(base_);",
        "char* base_ = nullptr;": "char* base_ = nullptr; emulator::Gaps gaps_;",
    },
    "op_support.cpp": {
        "device_(DeviceType::CUDA, input.get_device_index())": "device_(DeviceType::CPU)",
        "TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(input.get_device_index(), &stream));": "",
        "torch::stable::Device(DeviceType::CPU),": "torch::stable::Device(DeviceType::CPU), false && ",
    },
}
DEFINITIONS = ["-DTORCH_TARGET_VERSION=0x020a000000000000", '-DPACT_CUDA_ARCHS="emulated"', '-DPACT_VERSION="0"']
DEFINITIONS += ['-DPACT_NVCC_VERSION="0"']


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
        pointer = f"reinterpret_cast<const void*>({kernel})" if kernel == POINTER else "nullptr"
        call = f"emulator::configured({caller}, {pointer}, {waits}, {text[at + 3 : end]})"
        text = head[:begin] + call + text[end + 3 :]
    return text


def translate(folder: Path) -> list[Path]:
    """Write what changed, return the sources to compile."""
    sources = []
    csrc = emulator.ROOT / "csrc"
    originals = [p for p in sorted((csrc / "cuda").rglob("*")) if p.is_file() and p.name != "info.cpp"]
    originals += [*sorted(csrc.glob("*.h")), csrc / "ops.cpp"]
    for original in originals:
        text = original.read_text()
        for word, other in WORDS.get(original.name, {}).items():
            if word not in text:
                raise RuntimeError(f"{original} no longer says {word!r}")
            text = text.replace(word, other)
        text = text.replace("(pact, CUDA, m)", "(pact, CPU, m)").replace("(pact, ", "(pact_emulated, ")
        if "<<<" in text:
            text = '#include "host_launch.h"\n' + rewrite_launches(text)
        target = folder / original.relative_to(emulator.ROOT)
        if target.suffix == ".cu":
            target = target.with_suffix(".cu.cpp")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text() != text:
            target.write_text(text)
        if target.suffix == ".cpp":
            sources.append(target)
    return sources


def build(sanitize: bool = emulator.SANITIZED) -> Path:
    """Path of the library; only what changed is compiled."""
    torch_folder = Path(torch.__file__).parent
    flags = [*emulator.FLAGS, "-O2", "-w", *DEFINITIONS, f"-I{RUNTIME}", f"-I{RUNTIME.parent}"]
    flags += ["-isystem", f"{torch_folder}/include", *(emulator.SANITIZE if sanitize else [])]
    kernel_flags = flags if sanitize else [*flags, *emulator.SHOW_ACCESSES]
    shared = emulator.emulator_objects(sanitize)
    with emulator.build_folder("emulated", sanitize) as folder:
        jobs = [
            (source, source.with_suffix(".o"), kernel_flags if source.name.endswith(".cu.cpp") else flags)
            for source in translate(folder)
        ]
        objects = emulator.compile_objects(jobs)
        torch_library = [f"-L{torch_folder}/lib", "-ltorch_cpu", *(emulator.SANITIZE if sanitize else ["-Wl,-z,defs"])]
        return emulator.link([*objects, *shared], folder / "libpact_emulated.so", torch_library)


@cache
def load():
    """torch.ops.pact_emulated."""
    torch.ops.load_library(build())
    return torch.ops.pact_emulated
