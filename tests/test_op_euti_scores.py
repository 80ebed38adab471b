"""pact::euti_scores."""

import pytest
import torch
from data import DTYPES, awkward_strides
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference

only_in_data = pytest.mark.only_in_data

# Computed in double from exact inputs and rounded to float32 at the end: a few ulp of float32.
RTOL = 1e-6
ATOL = 1e-37  # what float32 cannot hold


def inputs(n, d, key_heads, query_heads, head_size, dtype=torch.float32):
    hidden = torch.randn(n, d).to(dtype)
    keys = torch.randn(n, key_heads, head_size).to(dtype)
    queries = (torch.randn(n, query_heads, head_size) + 0.3).to(dtype)
    return hidden, keys, queries


def check(hidden, keys, queries, scale=None, rtol=RTOL):
    scores = ops.euti_scores(hidden, keys, queries, scale)
    expected = reference.euti_scores(hidden.cpu().double(), keys.cpu().double(), queries.cpu().double(), scale)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.cpu().double(), expected, rtol=rtol, atol=ATOL)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        *[(1, 1, 1, 1, 1), (3, 7, 1, 3, 5), (257, 33, 2, 6, 17), (600, 64, 4, 28, 128), (300, 4096, 32, 32, 128)],
        # on CUDA head sizes of 64 and 128 have kernels of their own, by the query heads to a key head
        *[(90, 8, 2, 2, 64), (90, 8, 2, 6, 64), (90, 8, 1, 7, 64), (90, 8, 2, 8, 128)],
    ],
    ids=str,
)
def test_agrees_with_float64(backend, shape, dtype):
    check(*(t.to(backend.device) for t in inputs(*shape, dtype)))


@given(
    n=st.integers(1, 80),
    d=st.integers(1, 40),
    key_heads=st.integers(1, 4),
    group=st.integers(1, 4),
    head_size=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_any_shape(n, d, key_heads, group, head_size, seed):
    torch.manual_seed(seed)
    check(*inputs(n, d, key_heads, key_heads * group, head_size))


@pytest.mark.parametrize("scale", [0.0, 1.0, -2.5, 30.0])
def test_scale(backend, scale):
    # On CUDA logits are float32: what one is off by, in proportion to its size, the weight is off by relatively.
    rtol = RTOL if backend.sees_data else RTOL * max(1, abs(scale))
    check(*(t.to(backend.device) for t in inputs(90, 10, 2, 4, 16)), scale, rtol)


def test_weights_sum_to_one(backend):
    _, keys, queries = inputs(500, 1, 2, 4, 16)
    scores = ops.euti_scores(torch.ones(500, 1).to(backend.device), keys.to(backend.device), queries.to(backend.device))
    assert scores.double().sum().item() == pytest.approx(1, abs=1e-6)


def test_two_dimensional_keys_and_queries(backend):
    hidden, keys, queries = (t.to(backend.device) for t in inputs(50, 9, 2, 4, 8))
    expected = ops.euti_scores(hidden, keys, queries)
    assert torch.equal(ops.euti_scores(hidden, keys.flatten(1), queries), expected)
    assert torch.equal(ops.euti_scores(hidden, keys, queries.flatten(1)), expected)
    one_head = ops.euti_scores(hidden, keys.flatten(1), queries[:, :2].flatten(1))
    assert torch.equal(one_head, ops.euti_scores(hidden, keys.view(50, 1, 16), queries[:, :2].reshape(50, 1, 16)))


def test_large_finite_inputs_do_not_overflow(backend):
    hidden, keys, queries = (t.to(backend.device) * 1e18 for t in inputs(40, 6, 1, 2, 8))
    scores = ops.euti_scores(hidden, keys, queries)
    assert scores.isfinite().all()
    check(hidden, keys, queries)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "head_size"), [(700, 16), (200, 64), (200, 128)])
def test_same_bits_every_thread_count_and_stride(backend, threads, n, head_size, dtype):
    hidden, keys, queries = (t.to(backend.device) for t in inputs(n, 48, 2, 4, head_size, dtype))
    expected = ops.euti_scores(hidden, keys, queries)
    for count in backend.thread_counts:
        threads(count)
        for views in zip(awkward_strides(hidden), awkward_strides(keys), awkward_strides(queries), strict=True):
            assert torch.equal(ops.euti_scores(*views), expected)


H, K, Q = torch.ones(4, 6), torch.ones(4, 2, 8), torch.ones(4, 4, 8)


@only_in_data
@pytest.mark.parametrize(
    ("hidden", "keys", "queries", "name"),
    [
        (H * float("nan"), K, Q, "hidden"),
        (H, K * float("inf"), Q, "keys"),
        (H, K, Q * float("nan"), "queries"),
    ],
    ids=["hidden", "keys", "queries"],
)
def test_nan_and_inf_raise(backend, hidden, keys, queries, name):
    with pytest.raises(RuntimeError, match=f"pact::euti_scores: {name} must be finite, got NaN or Inf"):
        ops.euti_scores(hidden, keys, queries)
