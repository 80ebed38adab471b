"""One suite over every backend: each instruction set this processor has, CUDA emulated, CUDA where there is a card."""

from __future__ import annotations

import os
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from emulator import operators

from pact_ext import _library, ops


@dataclass(frozen=True)
class Backend:
    name: str
    device: str

    @property
    def sees_data(self) -> bool:
        """Whether every operator raises for what only the data shows (contract section 9): the CPU's do."""
        return self.name.startswith("cpu-")

    @property
    def thread_counts(self) -> tuple[int, ...]:
        """How many of the CPU's threads to run on, for the same bits; elsewhere it is a second run."""
        return (1, 2, 5, 2, 1) if self.name.startswith("cpu-") else (1,)


BACKENDS = [Backend(f"cpu-{isa}", "cpu") for isa in _library.cpu_info()["isa_usable"]]
if _library.cuda_loadable() and torch.cuda.is_available():
    BACKENDS.append(Backend("cuda", "cuda"))
elif not os.environ.get("LD_PRELOAD"):
    # Without a card, the CUDA operators on host memory, their kernels run by the emulator. Under a sanitizer that would
    # take many minutes: small_cases.py is for it.
    BACKENDS.append(Backend("emulated", "cpu"))


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "only_in_data: an error that only the data shows: on CUDA, operators that never synchronise miss it"
    )
    config.addinivalue_line("markers", "large: takes minutes in the emulator, which leaves it out")


# These build in the source folder, where two builds at once would meet; and they are the longest, so they begin.
BUILDERS = ("test_readme.py", "test_package.py", "test_cuda_build.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in BUILDERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Processes side by side get whole files, so that what a file builds is built once; one gets all the builders."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "builders" if file.endswith(BUILDERS) else file

    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def _threads_beside_other_processes():
    """One thread where processes run side by side: waiting for each other's threads costs far more than it gains."""
    if os.environ.pop("PYTEST_XDIST_WORKER", None):  # which pytest-benchmark in a process of its own would find
        torch.set_num_threads(1)


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request, monkeypatch):
    """The backend under test; tensors go to `backend.device`."""
    if not request.param.sees_data and request.node.get_closest_marker("only_in_data"):
        pytest.skip("this operator does not wait for the card to look at its data")
    if request.param.name == "emulated":
        if request.node.get_closest_marker("large"):
            pytest.skip("too large for the emulator")
        monkeypatch.setattr(ops, "_ops", operators.load())
    if not request.param.name.startswith("cpu-"):
        yield request.param
        return
    default = _library.cpu_info()["isa"]
    _library.use_cpu_isa(request.param.name.removeprefix("cpu-"))
    yield request.param
    _library.use_cpu_isa(default)


@pytest.fixture
def threads():
    """A function that sets the number of threads; the old number returns after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def fresh_python(tmp_path_factory):
    """A new virtual environment that has this one's torch and nothing else of ours."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    # By link, so that an editable install of pact_ext beside torch stays out of sight.
    hidden = ("pact_ext", "__editable__", "pip", "setuptools", "_distutils", "distutils", "__pycache__")
    for entry in Path(torch.__file__).parents[1].iterdir():
        if not entry.name.startswith(hidden):
            target = site / entry.name
            if not target.exists():
                target.symlink_to(entry)
    return folder / "bin" / "python"
