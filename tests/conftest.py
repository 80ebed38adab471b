"""One suite over every backend present: on the CPU, each instruction set this processor has is a backend."""

from __future__ import annotations

import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pact_ext import _library


@dataclass(frozen=True)
class Backend:
    name: str
    device: str


BACKENDS = [Backend(f"cpu-{isa}", "cpu") for isa in _library.cpu_info()["isa_usable"]]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request):
    """The backend under test; tensors go to `backend.device`."""
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
