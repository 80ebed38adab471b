"""Which architectures a build is for, the list written as for torch; nvcc's options; when CUDA is built at all."""

import runpy
from pathlib import Path

import pytest

from pact_ext import _library

ROOT = Path(__file__).parents[1]


@pytest.fixture
def setup_module(monkeypatch):
    for name in ("PACT_CUDA", "TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


@pytest.mark.parametrize(
    ("text", "archs"),
    [
        ("9.0", ["9.0"]),
        ("8.0;8.6;8.9;9.0;10.0;12.0+PTX", ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]),
        ("8.0 9.0a, 12.0+PTX ;", ["8.0", "9.0a", "12.0+PTX"]),
        ("Hopper;9.0", ["9.0+PTX", "9.0"]),
        ("Ampere;Ada;8.0", ["8.0", "8.6+PTX", "8.9+PTX"]),
    ],
)
def test_lists_as_torch_users_write_them(setup_module, text, archs):
    assert setup_module["parse_archs"](text) == archs


@pytest.mark.parametrize("unknown", ["7.5", "9", "sm_90", "8.0a", "9.0b", "Volta", "9.0+ptx", "native"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(setup_module, unknown):
    with pytest.raises(SystemExit) as caught:
        setup_module["parse_archs"](f"8.0;{unknown}")
    message = str(caught.value).strip()
    assert message.startswith(f"pact_ext cannot be built: '{unknown}' in TORCH_CUDA_ARCH_LIST is no architecture")
    assert "8.0, 8.6, 8.7, 8.9, 9.0, 9.0a, 10.0" in message
    assert "\n" not in message


def test_options_for_nvcc(setup_module):
    assert setup_module["gencode"](["8.0", "9.0a", "12.0+PTX"]) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90a,code=sm_90a",
        "-gencode=arch=compute_120,code=sm_120",
        "-gencode=arch=compute_120,code=compute_120",
    ]


def test_cards_of_9_0_get_what_only_they_have(setup_module, monkeypatch):
    """sm_90a in place of sm_90, once; intermediate code for newer cards is that of 9.0."""
    hopper = ["-gencode=arch=compute_90a,code=sm_90a", "-gencode=arch=compute_90,code=compute_90"]
    assert setup_module["gencode"](["9.0+PTX", "9.0a"]) == hopper
    options = setup_module["cuda_options"]
    monkeypatch.setitem(options.__globals__, "find_nvcc", lambda: "/somewhere/nvcc")
    monkeypatch.setitem(options.__globals__, "nvcc_version", lambda: ("13", "0", "88"))
    assert "-DPACT_HAS_SM90A=ON" in options(["8.0", "9.0"])
    assert "-DPACT_HAS_SM90A=OFF" in options(["8.0+PTX"])


def test_the_default_list_is_known(setup_module):
    assert setup_module["parse_archs"](setup_module["CUDA_ARCHS"])[-1] == "12.0+PTX"


@pytest.mark.parametrize(
    ("choice", "nvcc", "torch_has_cuda", "wanted"),
    [
        ("", True, True, True),
        ("", True, False, False),
        ("", False, True, False),
        ("1", True, False, True),
        ("0", True, True, False),
    ],
)
def test_when_cuda_is_built(setup_module, monkeypatch, choice, nvcc, torch_has_cuda, wanted):
    cuda_wanted = setup_module["cuda_wanted"]
    monkeypatch.setenv("PACT_CUDA", choice)
    monkeypatch.setitem(cuda_wanted.__globals__, "find_nvcc", lambda: "/somewhere/nvcc" if nvcc else None)
    monkeypatch.setitem(cuda_wanted.__globals__, "torch_has_cuda", lambda: torch_has_cuda)
    assert cuda_wanted() is wanted


def test_a_torch_is_known_as_a_cuda_build_by_its_version_file(setup_module, monkeypatch, tmp_path):
    torch_has_cuda = setup_module["torch_has_cuda"]
    monkeypatch.setitem(torch_has_cuda.__globals__, "torch_folder", lambda: tmp_path)
    for line, expected in (("cuda: Optional[str] = '13.0'", True), ("cuda: Optional[str] = None", False)):
        (tmp_path / "version.py").write_text(f"__version__ = '2.11.0'\n{line}\nhip: Optional[str] = None\n")
        assert torch_has_cuda() is expected


def test_what_cannot_be_built_is_said_in_one_sentence(setup_module, monkeypatch):
    cuda_wanted = setup_module["cuda_wanted"]
    monkeypatch.setitem(cuda_wanted.__globals__, "find_nvcc", lambda: None)
    monkeypatch.setenv("PACT_CUDA", "1")
    with pytest.raises(SystemExit, match="PACT_CUDA=1, but nvcc is not on the PATH. Install the CUDA toolkit"):
        cuda_wanted()
    monkeypatch.setenv("PACT_CUDA", "yes")
    with pytest.raises(SystemExit, match="PACT_CUDA is 'yes'. Set it to 1 or 0"):
        cuda_wanted()


@pytest.mark.parametrize(
    ("archs", "capability", "fits"),
    [
        (["9.0"], (9, 0), True),
        (["8.0"], (8, 6), True),
        (["8.6"], (8, 0), False),
        (["8.9"], (9, 0), False),
        (["9.0a"], (9, 0), True),
        (["10.0a"], (10, 3), False),
        (["10.0"], (10, 3), True),
        (["8.0", "12.0+PTX"], (13, 0), True),
        (["12.0"], (13, 0), False),
        (["8.0+PTX"], (9, 0), True),
        (["9.0+PTX"], (8, 0), False),
    ],
)
def test_which_cards_are_served(archs, capability, fits):
    assert _library.cuda_fits(archs, capability) is fits
