"""Builds the operator libraries with CMake and Ninja, and names the wheel.

The libraries hold no Python symbol and use torch's stable ABI, so one wheel serves every Python and every
torch >= 2.10: it is tagged py3-none-<platform>. torch is only read here (headers, version), never imported, so
that building works inside pip's isolated build environment too.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

try:
    from setuptools.command.bdist_wheel import bdist_wheel
except ImportError:
    sys.exit("\npact_ext cannot be built: setuptools is too old. Upgrade it: pip install 'setuptools>=77'.\n")

ROOT = Path(__file__).parent.resolve()
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "pact_ext" / "_version.py").read_text())[1]
MINIMUM_TORCH = (2, 10)


def fail(problem: str, remedy: str) -> None:
    sys.exit(f"\npact_ext cannot be built: {problem}. {remedy}\n")


def torch_folder() -> Path:
    """The torch package of this Python's environment: importable, or hidden by build isolation."""
    spec = importlib.util.find_spec("torch")
    candidates = [Path(spec.origin).parent] if spec and spec.origin else []
    candidates += [Path(sysconfig.get_path(kind)) / "torch" for kind in ("purelib", "platlib")]
    for folder in candidates:
        if (folder / "include" / "torch" / "csrc" / "stable").is_dir():
            break
    else:
        fail("no torch >= 2.10 in this Python environment", "Install it first: pip install 'torch>=2.10'.")
    version = re.search(r"__version__ = '(\d+)\.(\d+)", (folder / "version.py").read_text())
    if version and tuple(map(int, version.groups())) < MINIMUM_TORCH:
        fail(f"torch {version[1]}.{version[2]} is too old", "Upgrade it: pip install 'torch>=2.10'.")
    return folder


def tool(name: str, remedy: str) -> str:
    beside_python = shutil.which(name, path=str(Path(sys.executable).parent))
    return shutil.which(name) or beside_python or fail(f"{name} is not on the PATH", remedy)


class CMakeBuild(build_ext):
    """Runs CMake in one build folder per kind of build, so that a rebuild compiles only what changed."""

    def run(self) -> None:
        cmake = tool("cmake", "Install it: pip install cmake.")
        ninja = tool("ninja", "Install it: pip install ninja.")
        compiler = tool(os.environ.get("CXX", "c++"), "Install a C++17 compiler: apt-get install g++.")
        sanitize = os.environ.get("PACT_SANITIZE", "")
        build = ROOT / "build" / ("sanitize" if sanitize else "cmake")
        output = build if sanitize else (ROOT if self.inplace else Path(self.build_lib).resolve()) / "pact_ext"
        build.mkdir(parents=True, exist_ok=True)
        configure = [
            *[cmake, "-S", str(ROOT), "-B", str(build), "-G", "Ninja"],
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
            f"-DCMAKE_CXX_COMPILER={compiler}",
            f"-DPACT_VERSION={VERSION}",
            f"-DPACT_TORCH={torch_folder()}",
            f"-DPACT_SANITIZE={sanitize}",
        ]
        for command in (configure, [cmake, "--build", str(build)]):
            if subprocess.run(command).returncode:
                fail(f"'{' '.join(command[:3])} ...' failed", "The compiler's or CMake's own words are above.")
        if not sanitize:
            output.mkdir(parents=True, exist_ok=True)
            # Replaced, never overwritten: a process that has the old library loaded keeps its file.
            fresh = shutil.copy2(build / "libpact_cpu.so", output / "libpact_cpu.so.new")
            os.replace(fresh, output / "libpact_cpu.so")

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "pact_ext" / "libpact_cpu.so")]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class PlatformWheel(bdist_wheel):
    """Platform-specific, but of no particular Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        version=f"{VERSION}+cpu",
        ext_modules=[Extension("pact_ext.libpact", sources=[])],  # what it holds is CMake's affair
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
    )
