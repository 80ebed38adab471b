"""Memory that runs out: an error that names the operator and the allocation, and no allocation beyond the need."""

import ctypes
import gc
import resource
from pathlib import Path

import pytest
import torch
from conftest import BACKENDS

from pact_ext import ops

on_each_device = pytest.mark.parametrize(
    "backend", [BACKENDS[0], *(b for b in BACKENDS if not b.sees_data)], indirect=True, ids=lambda backend: backend.name
)
MIB = 2**20


@pytest.fixture
def room(threads):
    """A function that limits how many more bytes this process may map, on one thread, which needs no further stack."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    threads(1)

    def limit(more):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what other tests have freed would serve without being mapped
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + more, before[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_AS, before)


@on_each_device
def test_more_than_any_machine_has(backend):
    """A petabyte, for the outputs or for a copy of the input."""
    wanted = "allocating [2147483647, 131072] of float32"
    kind, words = (RuntimeError, "") if backend.sees_data else (torch.OutOfMemoryError, "CUDA ")
    x, labels = torch.ones(1, 2**17).to(backend.device), torch.zeros(1, dtype=torch.int64).to(backend.device)
    with pytest.raises(kind) as caught:
        ops.segment_mean(x, labels, 2**31 - 1)
    assert str(caught.value).startswith(f"pact::segment_mean: {words}out of memory, {wanted}")
    with pytest.raises(kind) as caught:
        ops.density(x[:, :1].expand(2**31 - 1, 2**17), 2.0)
    assert str(caught.value).startswith(f"pact::density: {words}out of memory, {wanted}")


def test_memory_of_the_work_itself(room):
    keys, labels = torch.ones(2**25, 1).half(), torch.zeros(2**25, dtype=torch.int64)
    room(40 * MIB)
    with pytest.raises(RuntimeError, match=r"^pact::dbdpc: out of memory, allocating 45\d{7} bytes$"):
        ops.dbdpc(keys[:60_000], 0.2, 2.0)  # a bit for every pair
    with pytest.raises(RuntimeError, match=f"^pact::segment_mean: out of memory, allocating {8 * 2**25} bytes$"):
        ops.segment_mean(keys, labels, 1)


def test_empty_segments_need_their_outputs_alone(room):
    segments = 2**23
    x, labels = torch.ones(3, 1).half(), torch.tensor([0, segments - 1, 0])
    room(segments * (2 + 8) + 32 * MIB)
    means, counts = ops.segment_mean(x, labels, segments)
    assert means.sum() == 2
    assert counts[0] == 2
    assert counts[1:-1].sum() == 0
    assert counts[-1] == 1
