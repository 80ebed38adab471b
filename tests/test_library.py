"""Loading: what the library needs of torch and the platform, and what is said when that is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pact_ext import _library


def run(code, *arguments, **env):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


UNUSABLE = """
import os, sys, torch
if "PACT_CPU_ISA" in os.environ:
    torch.ops.load_library(sys.argv[1])
    density = torch.ops.pact.density
try:
    import pact_ext
except ImportError as error:
    print(error)
sys.argv[0] = "/usr/bin/pact-ext"
from pact_ext.cli import main
assert [main(line) for line in (["--version"], ["show", "--help"], ["layers", "--help"])] == [0, 0, 0]
if os.environ.pop("PACT_CPU_ISA", None):
    try:
        density(torch.ones(1, 1), 1.0)
    except RuntimeError as error:
        print(error)
sys.exit(main(["info"]))
"""


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("nothing", r"pact_ext: .*libpact_cpu.so is missing.*pip install"),
        ("damaged", r"pact_ext: libpact_cpu.so does not load into torch .* reinstall pact-ext"),
        ("mmx", r"pact_ext: PACT_CPU_ISA must be one of (\w+, )*portable on this machine, got 'mmx'"),
    ],
)
def test_a_library_that_cannot_be_used(tmp_path, given, reason):
    """Importing the package raises; its command line has its help, and one line for the rest."""
    if given == "damaged":
        (tmp_path / "libpact_cpu.so").write_bytes(b"no library")
    environment = {"PACT_CPU_ISA": given} if given == "mmx" else {"PACT_LIBRARY_DIR": str(tmp_path)}
    result = run(UNUSABLE, str(_library.library_path()), **environment)
    assert result.returncode == 2, result.stderr
    told = result.stdout.splitlines()[0]
    assert re.match(reason, told)
    assert result.stderr == f"pact-ext: error: {told}\n"
    # An operator itself says so too, whatever has become of the variable.
    assert ('pact: PACT_CPU_ISA must be one of ["' in result.stdout and 'got "mmx"' in result.stdout) == (
        given == "mmx"
    )


def test_the_command_line_is_known_by_how_it_was_started(tmp_path):
    environment = {**os.environ, "PACT_LIBRARY_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "pact_ext.cli", "--version"]
    assert subprocess.run(command, env=environment, capture_output=True, timeout=120).returncode == 0


def test_torch_too_old(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ImportError, match=r"pact_ext needs torch >= 2.10, found torch 2.9.1\+cpu: pip install"):
        _library.load.__wrapped__()


def test_operators_without_a_python_package_and_isa_by_environment():
    code = f"""
import torch
torch.ops.load_library({str(_library.library_path())!r})
centers, labels = torch.ops.pact.dbdpc(torch.eye(3), 0.5, 2.0)
assert centers.tolist() == [0, 1, 2]
from pact_ext import _library
print(_library.cpu_info()["isa"])
"""
    assert run(code, PACT_CPU_ISA="portable").stdout == "portable\n"


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


def test_no_path_of_the_build_is_inside():
    library = _library.library_path().read_bytes()
    assert b"torch/csrc/stable/" in library
    assert not re.search(rb"/[\w./-]*torch/(csrc|headeronly)/", library)


def test_needed_libraries():
    listing = subprocess.run(["readelf", "-d", str(_library.library_path())], capture_output=True, text=True).stdout
    needed = re.findall(r"NEEDED.*\[(.+)\]", listing)
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if "python" in name or "cuda" in name]
    assert "RUNPATH" not in listing
    assert "RPATH" not in listing


def test_words_of_errors_look_nothing_up_in_a_locale(tmp_path):
    """A library with a C++ runtime linked in may find the locale of torch's, and would die of a number in words."""
    source = tmp_path / "words.cpp"
    source.write_text("#include \"error.h\"\nstd::string words(long n, double x) { return pact::joined(n, ' ', x); }\n")
    compiler = os.environ.get("CXX", "c++")
    flags = [
        "-std=c++17",
        f"-I{Path(__file__).parents[1] / 'csrc'}",
        "-c",
        str(source),
        "-o",
        str(tmp_path / "words.o"),
    ]
    subprocess.run([compiler, *flags], check=True)
    wanted = subprocess.run(["nm", "-C", str(tmp_path / "words.o")], capture_output=True, text=True, check=True).stdout
    assert "std::to_string" in wanted or "snprintf" in wanted
    assert not re.search("stream|locale", wanted)
