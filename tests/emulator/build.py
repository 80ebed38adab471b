"""Builds the development module `_pact_dev` with the host compiler.

The emulator (the sources of this folder) is compiled once for everything that it runs, the kernels with calls before
each access to memory, which the emulator answers (global_memory.h). What did not change is not compiled again.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import fcntl
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "c++")
# Fused only where written, as nvcc is told.
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-DPACT_EMULATED"]
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
SHOW_ACCESSES = ["-fsanitize=thread"]  # no runtime is linked to it: the emulator is the runtime
# Whether to build for the sanitizers, and run under them: then libasan must be preloaded.
SANITIZED = bool(os.environ.get("PACT_SANITIZE"))


@contextlib.contextmanager
def build_folder(name: str, sanitize: bool):
    """build/<name>, for one process at a time."""
    folder = ROOT / "build" / (f"{name}-sanitize" if sanitize else name)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    sys.stderr.write(done.stderr)


def _stale(target: Path, command: list[str]) -> bool:
    """Whether a file that `target` was made from is newer, or gone, or the command is another."""
    depfile, made_by = target.with_suffix(".d"), target.with_suffix(".command")
    if not target.exists() or not depfile.exists() or not made_by.exists() or made_by.read_text() != " ".join(command):
        return True
    made = target.stat().st_mtime_ns
    files = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    return any(not os.path.exists(f) or os.stat(f).st_mtime_ns > made for f in files)


def compile_objects(jobs: list[tuple[Path, Path, list[str]]]) -> list[Path]:
    """Objects of (source, object, flags) each; only what changed is compiled."""
    commands = []
    for source, target, flags in jobs:
        command = [COMPILER, *flags, "-MD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)]
        if _stale(target, command):
            target.with_suffix(".command").unlink(missing_ok=True)
            commands.append((command, target))

    def make(job):
        _run(job[0])
        job[1].with_suffix(".command").write_text(" ".join(job[0]))

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, commands))
    return [target for _, target, _ in jobs]


def link(objects: list[Path], library: Path, flags: list[str]) -> Path:
    if not library.exists() or any(o.stat().st_mtime_ns > library.stat().st_mtime_ns for o in objects):
        _run([COMPILER, "-shared", *map(str, objects), *flags, "-o", str(library)])
    return library


def emulator_objects(sanitize: bool) -> list[Path]:
    with build_folder("emulator", sanitize) as folder:
        flags = [*FLAGS, "-O2", "-Wall", "-Wextra", *(SANITIZE if sanitize else [])]
        return compile_objects([(s, folder / f"{s.stem}.o", flags) for s in sorted(HERE.glob("*.cpp"))])


def build(sanitize: bool = SANITIZED) -> Path:
    """Path of the module, compiled if anything it is made from changed."""
    import pybind11

    flags = [*FLAGS, "-O1", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]  # "#pragma unroll"
    flags += SANITIZE if sanitize else SHOW_ACCESSES
    flags += [f"-I{folder}" for folder in (HERE, pybind11.get_include(), sysconfig.get_path("include"))]
    emulator = emulator_objects(sanitize)
    with build_folder("dev", sanitize) as folder:
        sources = sorted((ROOT / "csrc" / "dev").glob("*.cpp"))
        objects = compile_objects([(source, folder / f"{source.stem}.o", flags) for source in sources])
        module = folder / f"_pact_dev{sysconfig.get_config_var('EXT_SUFFIX')}"
        return link([*objects, *emulator], module, SANITIZE if sanitize else [])


def load():
    """The module, built if need be."""
    path = build()
    if "_pact_dev" not in sys.modules:
        spec = importlib.util.spec_from_file_location("_pact_dev", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["_pact_dev"] = module
    return sys.modules["_pact_dev"]
