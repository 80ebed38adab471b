"""Loading: what the library needs of torch and the platform, and what is said when that is missing."""

import os
import re
import subprocess
import sys

import pytest
import torch

from pact_ext import _library


def run(code, **env):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def test_missing_library(tmp_path):
    result = run("import pact_ext", PACT_LIBRARY_DIR=str(tmp_path))
    assert result.returncode == 1
    assert re.search(r"ImportError: pact_ext: .*libpact_cpu.so is missing.*pip install", result.stderr)


def test_library_of_another_platform(tmp_path):
    (tmp_path / "libpact_cpu.so").write_bytes(b"no library")
    result = run("import pact_ext", PACT_LIBRARY_DIR=str(tmp_path))
    last = result.stderr.strip().splitlines()[-1]
    assert re.match(r"ImportError: pact_ext: libpact_cpu.so does not load into torch .* reinstall pact-ext", last)


def test_torch_too_old(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"pact_ext needs torch >= 2.10, found torch 2.9.1\+cpu: pip install"):
        _library.load.__wrapped__()


def test_the_operators_need_no_python_package():
    code = f"""
import torch
torch.ops.load_library({str(_library.library_path())!r})
centers, labels = torch.ops.pact.dbdpc(torch.eye(3), 0.5, 2.0)
assert centers.tolist() == [0, 1, 2]
"""
    assert run(code).returncode == 0


def test_isa_is_chosen_by_environment():
    code = """
import torch
from pact_ext import _library, ops
print(_library.cpu_info()["isa"])
ops.density(torch.ones(1, 1), 1.0)
"""
    assert run(code, PACT_CPU_ISA="portable").stdout.strip() == "portable"
    unknown = run(code, PACT_CPU_ISA="mmx")
    assert unknown.stdout.strip() == "None"
    assert 'RuntimeError: pact: PACT_CPU_ISA must be one of ["' in unknown.stderr


def test_isa_is_chosen_by_call():
    before = _library.cpu_info()["isa"]
    with pytest.raises(ValueError, match="instruction set 'mmx' cannot be used here; there are .*portable"):
        _library.use_cpu_isa("mmx")
    assert _library.cpu_info()["isa"] == before
    _library.use_cpu_isa("portable")
    assert _library.cpu_info()["isa"] == "portable"
    _library.use_cpu_isa(before)


def symbols(*flags):
    listing = subprocess.run(["nm", "-D", *flags, str(_library.library_path())], capture_output=True, text=True)
    assert listing.returncode == 0, listing.stderr
    return [line.split()[-1] for line in listing.stdout.splitlines()]


def test_only_torch_symbols_of_the_stable_abi_are_needed():
    undefined = symbols("--undefined-only")
    of_torch = [s for s in undefined if re.search(r"torch|c10|aten|at::|_ZN2at", s)]
    assert of_torch, "the library uses torch"
    assert [s for s in of_torch if not re.match(r"(aoti_torch_|torch_)\w+$", s)] == []
    assert [s for s in undefined if re.match(r"_?Py", s)] == []


def test_of_its_own_it_exports_two_c_functions_only():
    assert sorted(s for s in symbols("--defined-only") if "pact" in s) == ["pact_cpu_info", "pact_cpu_use_isa"]


def test_needed_libraries():
    listing = subprocess.run(["readelf", "-d", str(_library.library_path())], capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", listing)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name or "cuda" in name]
    assert "RUNPATH" not in listing
    assert "RPATH" not in listing
