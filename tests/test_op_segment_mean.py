"""pact::segment_mean: float32 sums in ascending index, rounded once."""

import pytest
import torch
from data import DTYPES, awkward_strides
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference

only_in_data = pytest.mark.only_in_data


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("n", "d", "segments"), [(1, 1, 1), (5, 3, 2), (100, 17, 9), (333, 3584, 60), (64, 31, 200), (400, 72, 3)]
)
def test_same_bits_as_the_reference(backend, dtype, n, d, segments):
    x = (torch.randn(n, d) * 10).to(dtype).to(backend.device)
    labels = torch.randint(-1, segments, (n,)).to(backend.device)
    means, counts = ops.segment_mean(x, labels, segments)
    expected_means, expected_counts = reference.segment_mean(x.cpu(), labels.cpu(), segments)
    assert means.dtype == dtype
    assert torch.equal(means.cpu(), expected_means)
    assert torch.equal(counts.cpu(), expected_counts)


@given(st.integers(1, 60), st.integers(1, 40), st.integers(1, 20), st.sampled_from(DTYPES), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_same_bits_on_any_shape(n, d, segments, dtype, seed):
    torch.manual_seed(seed)
    x, labels = torch.randn(n, d).to(dtype), torch.randint(-1, segments, (n,))
    means, counts = ops.segment_mean(x, labels, segments)
    expected_means, expected_counts = reference.segment_mean(x, labels, segments)
    assert torch.equal(means, expected_means)
    assert torch.equal(counts, expected_counts)


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_every_half_value(backend, dtype):
    """One row per segment: every finite value, subnormals included, comes back as it went in."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = values[values.isfinite()][:, None].contiguous().to(backend.device)
    labels = torch.arange(x.shape[0], device=backend.device)
    assert torch.equal(ops.segment_mean(x, labels, x.shape[0])[0].view(torch.int16), (x + 0.0).view(torch.int16))


@pytest.mark.large
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_between_half_values(backend, dtype):
    """Means of two neighbours lie halfway: ties to even, as torch rounds; beyond the largest value, to infinity."""
    values = torch.arange(0, 2**15 - 1, dtype=torch.int32).to(torch.int16).view(dtype)
    values = values[values.isfinite()]
    pairs = torch.stack([values[:-1], values[1:]], dim=1).to(backend.device)
    labels = torch.arange(pairs.shape[0], device=backend.device).repeat_interleave(2)
    means, _ = ops.segment_mean(pairs.reshape(-1, 1), labels, pairs.shape[0])
    assert torch.equal(means.flatten(), (pairs.float().sum(dim=1) / 2).to(dtype))


def test_overflowing_sums(backend):
    x = torch.full((3, 2), 3e38).to(backend.device)
    means, _ = ops.segment_mean(x, torch.zeros(3, dtype=torch.int64).to(backend.device), 1)
    assert means.isinf().all()  # float32 sums, as the contract says


def test_empty_segments_and_discarded_rows(backend):
    x = torch.tensor([[1.0], [2.0], [4.0]]).to(backend.device)
    means, counts = ops.segment_mean(x, torch.tensor([2, -1, 2]).to(backend.device), 4)
    assert means.flatten().tolist() == [0, 0, 2.5, 0]
    assert counts.tolist() == [0, 0, 2, 0]


def test_order_of_the_sum_is_ascending(backend):
    x = torch.tensor([[1e8], [1.0], [-1e8], [1.0]]).to(backend.device)  # left to right in float32: 1
    means, _ = ops.segment_mean(x, torch.zeros(4, dtype=torch.int64).to(backend.device), 1)
    assert means.item() == 0.25


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    x = torch.randn(200, 33).to(dtype).to(backend.device)
    labels = torch.randint(-1, 20, (200,)).to(backend.device)
    expected = ops.segment_mean(x, labels, 20)[0]
    for count in backend.thread_counts:
        threads(count)
        for view in [x, *awkward_strides(x)]:
            assert torch.equal(ops.segment_mean(view, labels.repeat_interleave(2)[::2], 20)[0], expected)


@only_in_data
@pytest.mark.parametrize("label", [2, -2])
def test_label_out_of_range(backend, label):
    with pytest.raises(RuntimeError, match=rf"pact::segment_mean: labels must be in \[-1, 2\), got {label}"):
        ops.segment_mean(torch.ones(3, 2), torch.tensor([0, 1, label]), 2)


@only_in_data
def test_inf_raises(backend):
    with pytest.raises(RuntimeError, match="pact::segment_mean: x must be finite"):
        ops.segment_mean(torch.full((3, 2), float("inf")), torch.tensor([0, 1, 0]), 2)
