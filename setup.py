"""Builds the operator libraries with CMake and Ninja, and names the wheel.

The libraries hold no Python symbol and use torch's stable ABI, so one wheel serves every Python and every
torch >= 2.10: it is tagged py3-none-<platform>. torch is only read here (headers, version), never imported, so
that building works inside pip's isolated build environment too.

The CUDA library is built when nvcc is on the PATH and the torch found is a CUDA build, which alone can load it.
PACT_CUDA=1 builds it beside a CPU torch too (a wheel for others), PACT_CUDA=0 never. TORCH_CUDA_ARCH_LIST chooses the
architectures, written as for torch: "8.0;9.0a;12.0+PTX". No card needs to be present.
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
LIBRARIES = ("libpact_cpu.so", "libpact_cuda.so")

CUDA_ARCHS = "8.0;8.6;8.9;9.0;10.0;12.0+PTX"  # the default; PTX of the last serves newer cards
_BASE = "8.0 8.6 8.7 8.9 9.0 10.0 10.3 11.0 12.0 12.1"
KNOWN_ARCHS = tuple(f"{arch}{suffix}" for arch in _BASE.split() for suffix in ("", "a") if not (suffix and arch < "9"))
ARCH_NAMES = {"Ampere": "8.0;8.6+PTX", "Ada": "8.9+PTX", "Hopper": "9.0+PTX", "Blackwell": "10.0;10.3;12.0;12.1+PTX"}


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
    return folder.resolve()  # environments that share a torch by a link share what was compiled


def tool(name: str, remedy: str) -> str:
    """The environment's own first: in pip's isolated build it is of the same release, so that nothing is compiled twice
    because another CMake words the same flags in another order."""
    beside_python = shutil.which(name, path=str(Path(sys.executable).parent))
    return beside_python or shutil.which(name) or fail(f"{name} is not on the PATH", remedy)


# --- CUDA ---------------------------------------------------------------------------------------------------


def parse_archs(text: str) -> list[str]:
    """The list that TORCH_CUDA_ARCH_LIST means: names expanded, each once, in the order given."""
    archs: list[str] = []
    for name in re.split(r"[;,\s]+", text.strip(";, \n")):
        for arch in ARCH_NAMES.get(name, name).split(";"):
            if arch.removesuffix("+PTX") not in KNOWN_ARCHS:
                known = ", ".join((*KNOWN_ARCHS, *ARCH_NAMES))
                fail(
                    f"'{arch}' in TORCH_CUDA_ARCH_LIST is no architecture that it knows",
                    f"There are {known}; the numbers may end in +PTX.",
                )
            if arch not in archs:
                archs.append(arch)
    return archs


def gencode(archs: list[str]) -> list[str]:
    """nvcc's options for them. +PTX adds the intermediate code, which newer cards compile on first use."""
    options = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        # Every card of 9.0 runs sm_90a, and its tensor cores take orders from warpgroups in no other code.
        code = "90a" if number == "90" else number
        options.append(f"-gencode=arch=compute_{code},code=sm_{code}")
        if arch.endswith("+PTX"):
            options.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return list(dict.fromkeys(options))


def find_nvcc() -> str | None:
    """nvcc of CUDA_HOME, else of the PATH."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    return (shutil.which("nvcc", path=str(Path(home) / "bin")) if home else None) or shutil.which("nvcc")


def torch_has_cuda() -> bool:
    """Whether there is a torch and it is a CUDA build, by its own version.py."""
    try:
        return bool(re.search(r"^cuda\b.*= '\d", (torch_folder() / "version.py").read_text(), re.M))
    except SystemExit:  # a source distribution is made without torch
        return False


def cuda_wanted() -> bool:
    """See the top of this file."""
    choice = os.environ.get("PACT_CUDA", "")
    if choice not in ("", "0", "1"):
        fail(f"PACT_CUDA is '{choice}'", "Set it to 1 or 0, or leave it out.")
    if choice == "1" and not find_nvcc():
        fail("PACT_CUDA=1, but nvcc is not on the PATH", "Install the CUDA toolkit, or set CUDA_HOME.")
    return choice == "1" or (choice == "" and find_nvcc() is not None and torch_has_cuda())


def nvcc_version() -> tuple[str, ...]:
    """Major, minor and patch."""
    said = subprocess.run([find_nvcc(), "--version"], capture_output=True, text=True).stdout
    found = re.search(r"\bV(\d+)\.(\d+)\.(\d+)", said)
    return found.groups() if found else fail("'nvcc --version' names no version", "Is the CUDA toolkit whole?")


def cuda_options(archs: list[str]) -> list[str]:
    """CMake's options for libpact_cuda.so, or for leaving it out."""
    if not archs:
        return ["-DPACT_CUDA=OFF"]
    return [
        "-DPACT_CUDA=ON",
        f"-DPACT_NVCC={find_nvcc()}",
        f"-DPACT_NVCC_VERSION={'.'.join(nvcc_version())}",
        f"-DPACT_CUDA_ARCHS={' '.join(archs)}",
        f"-DPACT_CUDA_GENCODE={';'.join(gencode(archs))}",
        f"-DPACT_HAS_SM90A={'ON' if any('sm_90a' in option for option in gencode(archs)) else 'OFF'}",
    ]


def local_version() -> str:
    """What the wheel holds: cu130 and the like, or cpu."""
    return "cu" + "".join(nvcc_version()[:2]) if cuda_wanted() else "cpu"


# --- Build --------------------------------------------------------------------------------------------------


class CMakeBuild(build_ext):
    """Runs CMake in one build folder per library and kind of build, so that a rebuild compiles only what changed, and
    the CPU library is compiled once whatever CUDA libraries are built beside it."""

    def run(self) -> None:
        cmake = tool("cmake", "Install it: pip install cmake.")
        ninja = tool("ninja", "Install it: pip install ninja.")
        compiler = tool(os.environ.get("CXX", "c++"), "Install a C++17 compiler: apt-get install g++.")
        sanitize = os.environ.get("PACT_SANITIZE", "")
        cuda = not sanitize and cuda_wanted()
        archs = parse_archs(os.environ.get("TORCH_CUDA_ARCH_LIST") or CUDA_ARCHS) if cuda else []
        build = ROOT / "build"
        folders = [build / ("sanitize" if sanitize else "cmake"), build / ("cuda-" + "-".join(archs))]
        output = (ROOT if self.inplace else Path(self.build_lib).resolve()) / "pact_ext"
        for name, folder in zip(LIBRARIES[: 1 + cuda], folders, strict=False):
            folder.mkdir(parents=True, exist_ok=True)
            configure = [
                *[cmake, "-S", str(ROOT), "-B", str(folder), "-G", "Ninja"],
                f"-DCMAKE_MAKE_PROGRAM={ninja}",
                f"-DCMAKE_CXX_COMPILER={compiler}",
                f"-DPACT_VERSION={VERSION}",
                f"-DPACT_TORCH={torch_folder()}",
                f"-DPACT_SANITIZE={sanitize}",
                *cuda_options(archs if name == LIBRARIES[1] else []),
            ]
            target = name.removeprefix("lib").removesuffix(".so")
            for command in (configure, [cmake, "--build", str(folder), "--target", target]):
                if subprocess.run(command).returncode:
                    fail(f"'{' '.join(command[:3])} ...' failed", "The compiler's or CMake's own words are above.")
            if not sanitize:
                # Replaced, never overwritten: a process that has the old library loaded keeps its file.
                output.mkdir(parents=True, exist_ok=True)
                fresh = shutil.copy2(folder / name, output / f"{name}.new")
                os.replace(fresh, output / name)
        if not (cuda or sanitize):
            (output / LIBRARIES[1]).unlink(missing_ok=True)  # of an earlier build, which this one is not

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_lib) / "pact_ext" / name) for name in LIBRARIES[: 1 + cuda_wanted()]]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class PlatformWheel(bdist_wheel):
    """Platform-specific, but of no particular Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        version=f"{VERSION}+{local_version()}",
        ext_modules=[Extension("pact_ext.libpact", sources=[])],  # what it holds is CMake's affair
        cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
    )
