"""The emulator catches the mistakes it is there to catch, by name, and lets right kernels pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulator import build

SEEDS = range(6)

# What each wrong kernel must be told, whatever the order of its threads and blocks.
MISTAKES = {
    "reverse: no barrier before the read": "shared memory race|unwritten shared memory",
    "reverse: no barrier before the write": "shared memory race",
    "reverse_warp: no syncwarp before the read": "shared memory race|unwritten shared memory",
    "reverse_warp: a vote for a syncwarp before the write": "shared memory race",
    "sum: half a warp exits": "divergent collective",
    "sum: half a warp elsewhere": "divergent collective",
    "barrier: a warp exits": "divergent barrier",
    "barrier: two barriers": "divergent barrier",
    "neighbor: out of bounds": "shared memory out of bounds",
    "neighbor: unwritten": "unwritten shared memory",
    "pipeline: no wait": "async copy in flight",
    "pipeline: wait too short": "async copy in flight",
    "chain: waits in a circle": "step limit",
    "scratch: no barrier before the read": "global memory race",
    "chain: a plain look": "global memory race",
    "count: a plain addition": "global memory race",
    "largest: a plain read before": "global memory race",
}


@pytest.fixture(scope="module")
def dev():
    return build.load()


def test_every_mistake_has_its_right_twin(dev):
    names = dev.self_test_names()
    assert set(MISTAKES) == {name for name in names if ":" in name}
    assert {name.split(":")[0] for name in MISTAKES} == {name for name in names if ":" not in name}


@pytest.mark.parametrize("name", sorted({name.split(":")[0] for name in MISTAKES}))
def test_right_kernels_pass(dev, name):
    for seed in SEEDS:
        assert dev.self_test(name, seed), f"seed {seed}"


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(dev, name):
    if build.SANITIZED and MISTAKES[name] == "global memory race":
        pytest.skip("the sanitizers' build does not see global memory's races")
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=MISTAKES[name]):
            dev.self_test(name, seed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mma_multiplies(dev, dtype):
    a, b = torch.randn(16, 16).to(dtype), torch.randn(8, 16).to(dtype)
    c = np.full((16, 8), np.nan, np.float32)
    dev.mma(str(dtype).removeprefix("torch."), *(x.view(torch.uint16).numpy() for x in (a, b)), c, 1)
    expected = (a.double() @ b.double().T).numpy()
    np.testing.assert_allclose(c, expected, rtol=0, atol=16 * 2**-24 * np.abs(expected).max() * 4)
