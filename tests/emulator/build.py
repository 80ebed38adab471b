"""Builds the development module `_pact_dev` with the host compiler: `python tests/emulator/build.py [--sanitize]`.

Objects and the module live in build/dev (build/dev-sanitize); what did not change is not compiled again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import fcntl
import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "csrc" / "dev"
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DPACT_EMULATED", "-Wall", "-Wextra"]
FLAGS += ["-ffp-contract=off", "-Wno-unknown-pragmas"]  # fused only where written, as nvcc is told; "#pragma unroll"
SANITIZE = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]


def _includes() -> list[str]:
    import pybind11

    folders = [ROOT / "tests" / "emulator", pybind11.get_include(), sysconfig.get_path("include")]
    return [f"-I{folder}" for folder in folders]


def _stale(target: Path, depfile: Path) -> bool:
    """Whether a file that `target` was made from is newer, or gone."""
    if not target.exists() or not depfile.exists():
        return True
    made = target.stat().st_mtime_ns
    files = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    files.append(__file__)
    return any(not os.path.exists(f) or os.stat(f).st_mtime_ns > made for f in files)


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    sys.stderr.write(done.stderr)


def build(sanitize: bool = False) -> Path:
    """Path of the module, compiled if anything it is made from changed."""
    folder = ROOT / "build" / ("dev-sanitize" if sanitize else "dev")
    folder.mkdir(parents=True, exist_ok=True)
    module = folder / f"_pact_dev{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = FLAGS + (SANITIZE if sanitize else [])
    compiler = os.environ.get("CXX", "c++")
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        commands, objects = [], []
        for source in sorted(SOURCES.glob("*.cpp")):
            objects.append(folder / f"{source.stem}.o")
            depfile = folder / f"{source.stem}.d"
            if _stale(objects[-1], depfile):
                commands.append([compiler, *flags, *_includes(), "-MD", "-MF", str(depfile), "-c", str(source)])
                commands[-1] += ["-o", str(objects[-1])]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_compile, commands))
        if commands or not module.exists() or any(o.stat().st_mtime > module.stat().st_mtime for o in objects):
            _compile([compiler, *flags, "-shared", *map(str, objects), "-o", str(module)])
    return module


def load():
    """The module, built if need be; under sanitizers when PACT_SANITIZE is set (then libasan must be preloaded)."""
    path = build(sanitize=bool(os.environ.get("PACT_SANITIZE")))
    if "_pact_dev" not in sys.modules:
        spec = importlib.util.spec_from_file_location("_pact_dev", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["_pact_dev"] = module
    return sys.modules["_pact_dev"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", action="store_true", help="AddressSanitizer and UBSan")
    print(build(parser.parse_args().sanitize))
