"""pact::density: exact sums, so invariances hold bit for bit."""

import pytest
import torch
from certificate import density_margin
from data import DTYPES, SHAPES, adversarial, awkward_strides, clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference


def check_against_float64(keys, dn, gaussian):
    rho = ops.density(keys, dn, gaussian=gaussian).cpu().double()
    expected = reference.density(keys.cpu().double(), dn, gaussian=gaussian)
    torch.testing.assert_close(rho, expected, rtol=density_margin(dn, gaussian), atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(backend, shape, dtype):
    """Each shape and each dtype meets both forms, but not in all pairs."""
    dn, gaussian = [(2.0, True), (0.3, False)][(SHAPES.index(shape) + DTYPES.index(dtype)) % 2]
    check_against_float64(clustered(*shape, dtype).to(backend.device), dn, gaussian)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial(backend, name):
    check_against_float64(adversarial()[name].to(backend.device), 0.7, False)


@pytest.mark.parametrize("dn", [1e-300, 1e-30, 1e-3, 1e3, 1e300])
@pytest.mark.parametrize("gaussian", [False, True])
def test_extreme_dn(backend, dn, gaussian):
    keys = clustered(30, 8).to(backend.device)
    rho = ops.density(keys, dn, gaussian=gaussian)
    expected = reference.density(keys.cpu().double(), dn, gaussian=gaussian)
    torch.testing.assert_close(rho.cpu().double(), expected, rtol=1e-3 if dn == 1e-3 else 1e-6, atol=0)


@given(st.integers(1, 210), st.integers(1, 70), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_any_shape(n, dk, seed):
    torch.manual_seed(seed)
    check_against_float64(torch.randn(n, dk), 1.0, True)


def test_permutation_moves_the_same_bits(backend):
    keys = clustered(333, 40).to(backend.device)
    order = torch.randperm(333, device=backend.device)
    assert torch.equal(ops.density(keys[order], 0.5), ops.density(keys, 0.5)[order])


def test_duplicates_tie_exactly(backend):
    keys = torch.randn(40, 24).repeat(7, 1).to(backend.device)
    rho = ops.density(keys, 0.5).view(7, 40)
    assert (rho == rho[0]).all()


def test_equal_tokens_count_fully(backend):
    assert (ops.density(torch.randn(1, 33).repeat(400, 1).to(backend.device), 0.1) == 400).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_of_two_scaling_changes_no_bit(backend, dtype):
    keys = clustered(100, 32, dtype).to(backend.device)
    scaled = keys * 2.0 ** torch.randint(-4, 5, (100, 1)).to(keys)
    assert torch.equal(ops.density(scaled, 0.5), ops.density(keys, 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_change_no_bit(backend, dtype):
    keys = clustered(77, 24, dtype).view(77, 3, 8).to(backend.device)
    expected = ops.density(keys, 2.0)
    assert torch.equal(ops.density(keys.flatten(1), 2.0), expected)
    for view in awkward_strides(keys):
        assert torch.equal(ops.density(view, 2.0), expected)
    once = keys[:1].expand(9, 3, 8)  # stride 0
    assert (ops.density(once, 2.0) == 9).all()


def test_same_bits_every_run_and_thread_count(backend, threads):
    keys = clustered(700, 64).to(backend.device)
    expected = ops.density(keys, 0.5)
    for count in backend.thread_counts:
        threads(count)
        assert torch.equal(ops.density(keys, 0.5), expected)


def test_avx2_and_avx512_agree_bit_for_bit():
    from pact_ext import _library

    info = _library.cpu_info()
    if not {"avx2", "avx512"} <= set(info["isa_usable"]):
        pytest.skip("this processor lacks AVX-512 or AVX2")
    keys, results = clustered(500, 300), []
    for isa in ("avx2", "avx512"):
        _library.use_cpu_isa(isa)
        results.append(ops.density(keys, 0.5))
    _library.use_cpu_isa(info["isa"])
    assert torch.equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", [(0, 0), (250, 6), (499, 12)])
def test_nan_and_inf_raise(backend, dtype, bad, place):
    keys = clustered(500, 13, dtype)
    keys[place] = bad
    if backend.sees_data:
        with pytest.raises(RuntimeError, match="pact::density: keys must be finite, got NaN or Inf"):
            ops.density(keys, 2.0)
