"""libpact_cuda.so, built here for one architecture: what it needs, what it shows, what its kernels take.

Nothing in here needs a GPU. Without nvcc there is nothing to look at.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import kernel_resources
import pytest
import torch

from bench import sass
from pact_ext import _library

ROOT = Path(__file__).parents[1]
ARCH = "9.0"
# A few values go to the stack: where two blocks per multiprocessor leave 128 registers, where folded sums of float32
# take every register, and in two kernels that hold a row's vectors.
_OLDER = ("sm_80", "sm_86", "sm_89", "sm_90a")
_HALVES = ("__half", "__nv_bfloat16")
MAY_SPILL = {
    (f"pact::{kernel}", arch)
    for kernel, archs in {
        **{f"attention_rows_kernel<{dtype}, false>": ("sm_100", "sm_120") for dtype in _HALVES},
        "attention_rows_kernel<float, true>": (*_OLDER, "sm_120"),
        "attention_columns_kernel<float, true>": ("sm_90a",),
        "euti_logits_kernel<__half, true, 0, 8>": ("sm_120",),
        "euti_logits_kernel<__nv_bfloat16, true, 0, 8>": ("sm_100", "sm_120"),
        "label_kernel<float>": _OLDER,
    }.items()
    for arch in archs
}

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="nvcc is not on the PATH")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the libraries, and the folder that CMake worked in."""
    folder = tmp_path_factory.mktemp("cuda")
    cmake_folder = kernel_resources.build(ARCH, folder)
    return folder / "pact_ext", cmake_folder


@pytest.fixture(scope="module")
def library(built):
    return built[0] / "libpact_cuda.so"


def symbols(library, *flags):
    listing = subprocess.run(["nm", "-D", *flags, str(library)], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in listing.splitlines()]


def dynamic_section(library):
    return subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout


def test_only_the_stable_shim_of_torch_is_needed(library):
    undefined = symbols(library, "--undefined-only")
    versioned = ("@GLIBC", "@GLIBCXX", "@CXXABI", "@GCC")  # libc, libm, libstdc++, libgcc
    others = [name for name in undefined if not any(v in name for v in versioned)]
    weak_hooks = {"__gmon_start__", "_ITM_deregisterTMCloneTable", "_ITM_registerTMCloneTable", "__cxa_finalize"}
    of_torch = set(others) - weak_hooks
    assert [name for name in of_torch if not re.fullmatch(r"(aoti_torch|torch)_\w+", name)] == []
    assert "aoti_torch_get_current_cuda_stream" in of_torch


def test_the_shim_functions_are_declared_by_torch(library):
    """By name, in the headers of the C shim: a misspelt one would only be missed on a GPU."""
    csrc = Path(torch.__file__).parent / "include" / "torch" / "csrc"
    headers = (csrc / "inductor/aoti_torch/c/shim.h", csrc / "stable/c/shim.h")
    declared = "".join(path.read_text() for path in headers)
    generated = "".join(path.read_text() for path in (csrc / "inductor/aoti_torch/generated").glob("*.h"))
    for name in symbols(library, "--undefined-only"):
        if re.match(r"(aoti_torch|torch)_\w+$", name):
            assert re.search(rf"\b{name}\b", declared + generated), name


def test_needed_libraries(library):
    section = dynamic_section(library)
    needed = re.findall(r"NEEDED.*\[(.+)\]", section)
    assert "libtorch.so" in needed
    assert not [name for name in needed if re.search(r"cuda|cudart|cublas|nvrtc|python|c10", name)]
    assert not re.search(r"R(UN)?PATH", section)


def test_it_exports_one_thing_of_its_own(library):
    exported = symbols(library, "--defined-only")
    assert [name for name in exported if "pact" in name] == ["pact_cuda_info"]
    assert not [name for name in exported if name.startswith("cuda")], "the CUDA runtime inside is not for others"


def run(code, folder):
    environment = {**os.environ, "PACT_LIBRARY_DIR": str(folder)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is a CUDA build")
def test_a_cpu_torch_does_not_load_it(built):
    code = "import pact_ext; print(any('libpact_cuda' in line for line in open('/proc/self/maps')))"
    assert run(code, built[0]) == "False"


def test_what_is_inside_is_told_without_loading_it(built):
    code = "import json; from pact_ext import _library; print(json.dumps(_library.cuda_info()))"
    info = json.loads(run(code, built[0]))
    assert info["archs"] == [ARCH]
    assert re.fullmatch(r"\d+\.\d+\.\d+", info["nvcc"])
    assert info["version"] == _library.cpu_info()["version"]


def test_without_the_library_there_is_nothing_to_tell(monkeypatch, tmp_path):
    monkeypatch.setenv("PACT_LIBRARY_DIR", str(tmp_path))
    assert _library.cuda_info() is None
    assert not _library.cuda_loadable()
    (tmp_path / "libpact_cuda.so").write_bytes(b"no library")
    with pytest.raises(ImportError, match=r"libpact_cuda.so is damaged, or from another version: reinstall"):
        _library.cuda_info()


def test_a_library_that_does_not_load_is_one_clear_error(monkeypatch, tmp_path):
    shutil.copy2(_library.library_path(), tmp_path)
    (tmp_path / "libpact_cuda.so").write_bytes(b"no library")
    monkeypatch.setenv("PACT_LIBRARY_DIR", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "library_path", lambda name="libpact_cuda.so": tmp_path / "libpact_cuda.so")
    with pytest.raises(ImportError, match=r"pact_ext: libpact_cuda.so does not load into torch .* reinstall pact-ext"):
        _library.load.__wrapped__()


def test_the_wheel_says_which_cuda_it_is_for(built, tmp_path):
    environment = {**os.environ, "PACT_CUDA": "1", "TORCH_CUDA_ARCH_LIST": ARCH}
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], env=environment, check=True, capture_output=True)
    (wheel,) = tmp_path.iterdir()
    assert re.fullmatch(r"pact_ext-[\d.]+\+cu1\d\d-py3-none-linux_\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        assert {"pact_ext/libpact_cpu.so", "pact_ext/libpact_cuda.so"} <= set(archive.namelist())


def test_relaxed_accesses_are_made_each_time(tmp_path):
    """The emulator sees to it that kernels use them; here is what nvcc makes of them: neither moved nor merged."""
    probe = tmp_path / "probe.cu"
    probe.write_text("""#include "device/platform.cuh"
    __global__ void probe(const unsigned long long* flag, int* done) {
      while (!pact::device::load_relaxed(flag)) pact::device::store_relaxed(done, 1);
    }""")
    command = ["nvcc", "-std=c++17", "-ptx", "-arch=sm_90", f"-I{ROOT / 'csrc' / 'cuda'}", str(probe), "-o", "-"]
    ptx = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"\b(ld|st)\.volatile\.global", ptx)) == {"ld", "st"}
    assert not re.search(r"\b(ld|st)\.global", ptx)


# --- Registers, spills, stack, shared memory ----------------------------------------------------------------------

TABLE = json.loads(kernel_resources.TABLE.read_text()) if kernel_resources.TABLE.exists() else {"kernels": {}}


def spilling(kernels):
    """(kernel, architecture) of those that spill registers or use a stack."""
    return {
        (name, arch)
        for name, archs in kernels.items()
        for arch, figures in archs.items()
        if figures["stack"] or figures["spill_stores"] or figures["spill_loads"]
    }


def test_no_kernel_spills_or_uses_a_stack(built):
    kernels = kernel_resources.measured(built[1])
    assert kernels, "nvcc reported no kernel"
    assert spilling(kernels) <= MAY_SPILL


def test_the_table_holds_every_kernel_of_this_build(built):
    nvcc = ".".join(kernel_resources.setup()["nvcc_version"]())
    if nvcc != TABLE["nvcc"]:
        pytest.skip(f"the table was made by nvcc {TABLE['nvcc']}, here is {nvcc}: registers may differ")
    expected = {name: {"sm_90a": archs["sm_90a"]} for name, archs in TABLE["kernels"].items()}
    assert kernel_resources.measured(built[1]) == expected, "run `make kernel-resources` and look at what changed"


def test_the_table_shows_no_spills_but_the_known_ones():
    assert spilling(TABLE["kernels"]) == MAY_SPILL
    assert {arch for archs in TABLE["kernels"].values() for arch in archs} == {
        option.partition(",code=")[2]
        for option in kernel_resources.setup()["gencode"](kernel_resources.setup()["CUDA_ARCHS"].split(";"))
        if ",code=sm_" in option
    }


# --- Loops --------------------------------------------------------------------------------------------------------

LOOPS = json.loads(kernel_resources.LOOPS.read_text()) if kernel_resources.LOOPS.exists() else {"kernels": {}}


@pytest.fixture(scope="module")
def loops(library):
    if sass.tools() is None:
        pytest.skip("cuobjdump and nvdisasm are not installed")
    return sass.table(library, kernel_resources.LOOPS_ARCH)


def test_loops_of_products_have_no_branch_and_no_spill(loops):
    of_products = [(name, loop) for name, found in loops.items() for loop in found if loop.get("tensor", 0) >= 16]
    assert len(of_products) >= 20
    assert [name for name, loop in of_products if {"regions", "local"} & {*loop}] == []


def test_the_pairs_of_a_whole_tile_go_through_no_branch(loops):
    """Density, neighbours and nearest centres: what is done with 64 pairs of a thread is one run of instructions."""
    epilogues = {
        name: max(found, key=lambda loop: loop["instructions"])
        for name, found in loops.items()
        if re.match(r"pact::(density|nearest)_kernel<__(half|nv_bfloat16), pact::Warps<2, false>", name)
    }
    assert len(epilogues) == 6
    assert [name for name, loop in epilogues.items() if loop.get("regions", 0)] == []


def test_the_table_holds_every_loop_of_this_build(loops):
    nvcc = ".".join(kernel_resources.setup()["nvcc_version"]())
    if nvcc != LOOPS["nvcc"]:
        pytest.skip(f"the table was made by nvcc {LOOPS['nvcc']}, here is {nvcc}: loops may differ")
    assert loops == LOOPS["kernels"], "run `make kernel-resources` and look at what changed"


# --- How both are read --------------------------------------------------------------------------------------------


def test_the_report_of_ptxas_is_read_right():
    report = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN4pact6device4loopILb1EEEvNS_6ParamsE' for 'sm_90'
ptxas info    : Function properties for _ZN4pact6device4loopILb1EEEvNS_6ParamsE
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 26 registers, used 1 barriers, 8 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 3.431 ms
"""
    figures = {"registers": 26, "stack": 8, "spill_stores": 4, "spill_loads": 12, "shared": 1024}
    assert kernel_resources.parse(report) == {"pact::device::loop<true>": {"sm_90": figures}}
