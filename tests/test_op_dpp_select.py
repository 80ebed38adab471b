"""pact::dpp_select: every choice held to the exact gains, ties to the lower index where gains are exact."""

import pytest
import torch
from certificate import DPP_ERROR, DPP_ERROR_FLOAT32, check_dpp_select
from data import DTYPES, adversarial, awkward_strides, clustered

from pact_ext import _library, ops, reference

# (n, dk): one token; a panel's edge; an odd size; several ranges of panels, and a width past one sum block.
SHAPES = [(1, 1), (24, 40), (25, 7), (131, 33), (300, 520)]


def check(backend, keys, relevance, count):
    chosen = ops.dpp_select(keys.to(backend.device), relevance.to(backend.device), count)
    error = DPP_ERROR if backend.sees_data else DPP_ERROR_FLOAT32
    check_dpp_select(keys, relevance, count, chosen, error)
    return chosen.cpu()


def orthogonal(n: int, directions: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys along a few axes, either way, any of them repeated, some zero; relevance of either sign in powers of two: a
    gain is the square of the relevance until its direction is taken, exactly, and 0 from then on."""
    keys = torch.eye(directions)[torch.randint(0, directions, (n,))] * 2.0 ** torch.randint(-3, 4, (n, 1))
    keys *= torch.randint(0, 2, (n, 1)) * 2.0 - 1
    keys[7::40] = 0
    return keys, 2.0 ** torch.randint(-4, 1, (n,)) * (torch.randint(0, 2, (n,)) * 2.0 - 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_choice_gains_most(backend, shape, dtype):
    check(backend, clustered(*shape, dtype), torch.randn(shape[0]), min(shape[0], 12))


def test_beyond_doubt_it_is_the_reference(backend):
    """Random directions and relevance: no two gains are near each other."""
    keys, relevance = torch.randn(90, 64), torch.rand(90) + 0.1
    expected = reference.dpp_select(keys.double(), relevance, 40)
    assert torch.equal(check(backend, keys, relevance, 40), expected)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial(backend, name):
    keys = adversarial()[name]
    check(backend, keys, torch.randn(len(keys)), len(keys) if backend.sees_data else min(len(keys), 20))


@pytest.mark.parametrize(("n", "count"), [(60, 60), (9, 1), (700, 10)])
def test_exact_with_ties(backend, n, count):
    """The directions by magnitude, then the rest by relevance with its sign; of equal ones the lower index."""
    keys, relevance = orthogonal(n)
    expected = reference.dpp_select(keys.double(), relevance, count)
    chosen = ops.dpp_select(keys.to(backend.device), relevance.to(backend.device), count)
    assert chosen.cpu().tolist() == expected.tolist()


def test_ties_across_the_threads_ranges(backend):
    keys, relevance = torch.eye(256).repeat(3, 1).to(backend.device), torch.ones(768).to(backend.device)
    assert ops.dpp_select(keys, relevance, 4).tolist() == [0, 1, 2, 3]
    relevance[[400, 700]] = 2.0
    assert ops.dpp_select(keys, relevance, 4).tolist() == [400, 700, 0, 1]


def test_relevance_of_one_token_or_none(backend):
    keys, relevance = torch.randn(30, 12).to(backend.device), torch.zeros(30).to(backend.device)
    relevance[::2] = -0.0
    assert ops.dpp_select(keys, relevance, 30).tolist() == list(range(30))
    relevance[17] = -3.0
    assert ops.dpp_select(keys, relevance, 4).tolist() == [17, 0, 1, 2]


@pytest.mark.parametrize("scale", [2.0**-100, 2.0**120, -1.0])
def test_scale_and_sign_of_all_relevance_do_not_show(backend, scale):
    keys, relevance = clustered(60, 32).to(backend.device), (torch.rand(60) + 0.1).to(backend.device)
    expected = ops.dpp_select(keys, relevance, 15)
    assert torch.equal(ops.dpp_select(keys, relevance * scale, 15), expected)


def test_below_the_least_gain_relevance_decides(backend):
    """Gains on either side of 1e-6 of the first."""
    keys = torch.eye(6).to(backend.device)
    relevance = torch.tensor([2e-4, -0.0009, -0.5, -0.0011, 0.0005, -1.0]).to(backend.device)
    assert ops.dpp_select(keys, relevance, 6).tolist() == [5, 2, 3, 4, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    n = 500 if backend.sees_data else 60  # the CPU's threads share these
    keys, relevance = clustered(n, 264, dtype).view(n, 8, 33).to(backend.device), torch.rand(n).to(backend.device)
    expected = ops.dpp_select(keys, relevance, 5)
    for count in backend.thread_counts:
        threads(count)
        for view, other in zip([keys, *awkward_strides(keys)], [relevance, *awkward_strides(relevance)], strict=True):
            assert torch.equal(ops.dpp_select(view, other, 5), expected)


def test_avx2_and_avx512_agree():
    info = _library.cpu_info()
    if not {"avx2", "avx512"} <= set(info["isa_usable"]):
        pytest.skip("this processor lacks AVX-512 or AVX2")
    keys, relevance, results = clustered(200, 300), torch.rand(200), []
    for isa in ("avx2", "avx512"):
        _library.use_cpu_isa(isa)
        results.append(ops.dpp_select(keys, relevance, 100))
    _library.use_cpu_isa(info["isa"])
    assert torch.equal(*results)


@pytest.mark.parametrize("bad", [float("nan"), -float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["keys", "relevance"])
def test_nan_and_inf(backend, bad, name):
    """An error on the CPU; on CUDA, which does not look, still distinct tokens."""
    keys, relevance = clustered(130, 13), torch.rand(130)
    {"keys": keys[:, 4], "relevance": relevance}[name][[3, 64, 129]] = bad
    if backend.sees_data:
        with pytest.raises(RuntimeError, match=f"pact::dpp_select: {name} must be finite, got NaN or Inf"):
            ops.dpp_select(keys, relevance, 7)
        return
    chosen = ops.dpp_select(keys.to(backend.device), relevance.to(backend.device), 7).tolist()
    assert len({*chosen} & {*range(130)}) == 7
    keys, relevance = keys[:9], relevance[:9]
    {"keys": keys, "relevance": relevance}[name][:] = bad
    everything = ops.dpp_select(keys.to(backend.device), relevance.to(backend.device), 9)
    assert sorted(everything.tolist()) == list(range(9))
