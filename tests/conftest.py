"""One suite over every backend present: on the CPU, each instruction set this processor has is a backend."""

from __future__ import annotations

from dataclasses import dataclass

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
