"""pact::farthest_points: every choice replayed in float64, ties to the lower index on distances that are exact."""

import pytest
import torch
from certificate import check_farthest_points
from data import DTYPES, adversarial, awkward_strides, clustered

from pact_ext import _library, ops, reference

# (n, dk): one token; the edges of a CUDA tile, and of a CPU one; three CUDA tiles; widths past one sum block.
SHAPES = [(1, 1), (127, 7), (128, 16), (129, 33), (191, 9), (193, 8), (300, 520)]


def signs(n: int, dk: int) -> torch.Tensor:
    """Rows of +-1, some repeated, some scaled, a few zero. Of norm 4 or 16, so that every distance is exact in any
    precision, and most are the distance of many pairs."""
    assert dk in (16, 256)
    keys = (torch.randint(0, 2, (n, dk)) * 2.0 - 1) * 2.0 ** torch.randint(-3, 4, (n, 1))
    keys[n // 2 :: 3] = keys[: len(keys[n // 2 :: 3])]
    keys[5::50] = 0
    return keys


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_choice_is_the_farthest(backend, shape, dtype):
    keys = clustered(*shape, dtype).to(backend.device)
    count = min(shape[0], 6)
    check_farthest_points(keys, count, None, ops.farthest_points(keys, count))
    first = shape[0] // 2
    check_farthest_points(keys, count, first, ops.farthest_points(keys, count, first=first))


@pytest.mark.parametrize("name", adversarial())
def test_adversarial(backend, name):
    keys = adversarial()[name].to(backend.device)
    count = len(keys) if backend.sees_data else min(len(keys), 30)
    check_farthest_points(keys, count, None, ops.farthest_points(keys, count))


@pytest.mark.parametrize(("n", "dk", "count"), [(70, 16, 70), (520, 256, 5)])  # the CPU's threads share the longer one
@pytest.mark.parametrize("first", [None, 0, 59])
def test_exact_with_ties(backend, n, dk, count, first):
    keys = signs(n, dk)
    expected = reference.farthest_points(keys.double(), count, first=first)
    assert torch.equal(ops.farthest_points(keys.to(backend.device), count, first=first).cpu(), expected)


@pytest.mark.parametrize("pairs", [((10, 450), (200, 210)), ((100, 120), (11, 499)), ((300, 301), (250, 301))], ids=str)
def test_first_of_equally_far_pairs(backend, pairs):
    """Opposite tokens among equal ones, in tiles before and after each other."""
    keys = torch.ones(500, 1) * torch.eye(3)[2]
    for (i, j), direction in zip(pairs, torch.eye(3), strict=False):
        keys[i] = direction
        keys[j] = -direction
    expected = reference.farthest_points(keys.double(), 2).tolist()
    assert ops.farthest_points(keys.to(backend.device), 2).tolist() == expected


def test_equal_tokens_come_by_index(backend):
    keys = torch.randn(1, 33).repeat(40, 1).to(backend.device)
    assert ops.farthest_points(keys, 40).tolist() == list(range(40))
    assert ops.farthest_points(keys, 3, first=1).tolist() == [1, 0, 2]


@pytest.mark.parametrize("first", [None, 45])
@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_tokens_come_last_by_index(backend, dtype, first):
    """They are at distance 0 from what was chosen, exactly."""
    keys = torch.randn(20, 72).repeat(3, 1).to(dtype).to(backend.device)
    chosen = ops.farthest_points(keys, 60, first=first).tolist()
    assert len({token % 20 for token in chosen[:20]}) == 20
    assert chosen[20:] == sorted(chosen[20:])


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    n = 500 if backend.sees_data else 60  # the CPU's threads share these
    keys = clustered(n, 264, dtype).view(n, 8, 33).to(backend.device)
    expected = ops.farthest_points(keys, 4)
    for count in backend.thread_counts:
        threads(count)
        for view in [keys, *awkward_strides(keys)]:
            assert torch.equal(ops.farthest_points(view, 4), expected)


def test_avx2_and_avx512_agree():
    info = _library.cpu_info()
    if not {"avx2", "avx512"} <= set(info["isa_usable"]):
        pytest.skip("this processor lacks AVX-512 or AVX2")
    keys, results = clustered(300, 300), []
    for isa in ("avx2", "avx512"):
        _library.use_cpu_isa(isa)
        results.append(ops.farthest_points(keys, 300))
    _library.use_cpu_isa(info["isa"])
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf(backend, dtype, bad):
    """An error on the CPU; on CUDA, which does not look, still distinct tokens."""
    keys = clustered(130, 13, dtype)
    keys[[3, 3, 64, 129], [0, 5, 12, 1]] = bad
    if backend.sees_data:
        with pytest.raises(RuntimeError, match="pact::farthest_points: keys must be finite, got NaN or Inf"):
            ops.farthest_points(keys, 7)
        return
    for first in (None, 64):
        chosen = ops.farthest_points(keys.to(backend.device), 7, first=first).tolist()
        assert len({*chosen} & {*range(130)}) == 7
    everything = ops.farthest_points(torch.full((9, 4), bad).to(keys.dtype).to(backend.device), 9)
    assert sorted(everything.tolist()) == list(range(9))
