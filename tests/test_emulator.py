"""The emulator catches the mistakes it is there to catch, by name, and lets right kernels pass."""

from __future__ import annotations

import math
import subprocess
from fractions import Fraction

import numpy as np
import pytest
import torch
from emulator import build, operators

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
    "products: unpublished": "unpublished shared memory",
    "products: not begun": "unfenced accumulators",
    "products: not committed": "products under way",
    "products: a side is written before the wait": "shared memory race",
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


def on_tensor_cores(x: list[Fraction], y: list[Fraction], terms: int, extra_bits: int) -> Fraction:
    """The sum of products, added in groups of so many and each sum cut, in exact arithmetic."""
    exponent = lambda value: math.frexp(value)[1] - 1  # noqa: E731
    total = Fraction(0)
    for first in range(0, len(x), terms):
        pairs = [(a, b) for a, b in zip(x, y, strict=True)][first : first + terms]
        exponents = [exponent(a) + exponent(b) for a, b in pairs if a * b] + [exponent(total)] * bool(total)
        if not exponents:
            continue
        unit = Fraction(2) ** (max(exponents) - 23 - extra_bits)
        total = sum(int(term / unit) * unit for term in [*(a * b for a, b in pairs), total])
        if total:
            last = Fraction(2) ** (exponent(total) - 23)
            total = int(total / last) * last
    return total


@pytest.fixture
def tensor_cores(dev):
    yield dev.use_tensor_cores
    dev.use_tensor_cores(9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("major", "how"), [(8, (8, 1)), (9, (16, 2))])
def test_mma_truncates_as_tensor_cores_do(dev, tensor_cores, dtype, major, how):
    tensor_cores(major)
    a, b = torch.randn(16, 16).to(dtype), torch.randn(8, 16).to(dtype)
    a[:, ::3] *= 64  # a few that outweigh the others
    a[0], b[0, 5:] = 0, 0
    c = np.full((16, 8), np.nan, np.float32)
    dev.mma(str(dtype).removeprefix("torch."), *(x.view(torch.uint16).numpy() for x in (a, b)), c, 1)
    rows, columns = ([[Fraction(v) for v in row] for row in x.double().tolist()] for x in (a, b))
    assert c.tolist() == [[float(on_tensor_cores(row, column, *how)) for column in columns] for row in rows]


HOST = {
    "a copy that is waited for": "ok",
    "a copy that is not waited for": "not there",
    "a wait for what came before the copy": "not there",
    "the largest launch": "ok",
    "no block": "launch limit: grid.x 0, of at most 2147483647",
    "too many rows of blocks": "launch limit: grid.y 65536, of at most 65535",
    "too many threads": "launch limit: threads of a block 1088, of at most 1024",
    "more shared memory than was asked for": "launch limit: bytes of shared memory 49153, of at most 49152",
    "more than there is": "cudaErrorInvalidValue",
    "as much as was asked for": "ok",
    "more than was asked for": "launch limit: bytes of shared memory 73729, of at most 73728",
}


def test_what_the_host_gets_wrong_is_named(tmp_path):
    """Reading what is still under way, and launches that no card would take."""
    source, program = operators.RUNTIME / "self_test.cpp", tmp_path / "self_test"
    subprocess.run([build.COMPILER, "-std=c++17", "-Wall", "-Werror", source, "-o", program], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert dict(line.split(": ", 1) for line in said.splitlines()) == HOST
