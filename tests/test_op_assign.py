"""pact::assign: nearest centre, ties to the lower token, a strict limit."""

import math

import pytest
import torch
from certificate import DISTANCE_MARGIN
from data import DTYPES, SHAPES, adversarial, awkward_strides, clustered
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference

only_in_data = pytest.mark.only_in_data


def some_centers(n, device="cpu"):
    return torch.randperm(n)[: max(1, n // 3)].sort().values.to(device)


def check_nearest(keys, centers, labels, distances):
    exact = reference.pairwise_distance(keys.cpu().double())[:, centers.cpu()]
    chosen = exact.gather(1, labels.cpu()[:, None]).flatten()
    assert (chosen <= exact.min(dim=1).values + DISTANCE_MARGIN).all()
    torch.testing.assert_close(distances.cpu().double(), chosen, rtol=0, atol=DISTANCE_MARGIN)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(backend, shape, dtype):
    keys = clustered(*shape, dtype).to(backend.device)
    centers = some_centers(shape[0], backend.device)
    check_nearest(keys, centers, *ops.assign(keys, centers, math.inf))


@given(st.integers(1, 210), st.integers(1, 40), st.integers(1, 210), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_any_number_of_centers(n, dk, c, seed):
    torch.manual_seed(seed)
    keys = torch.randn(n, dk)
    centers = torch.randperm(n)[:c].sort().values
    check_nearest(keys, centers, *ops.assign(keys, centers, math.inf))


@pytest.mark.parametrize("name", adversarial())
def test_ties_go_to_the_lower_token(backend, name):
    keys = adversarial()[name].to(backend.device)
    n = keys.shape[0]
    centers = some_centers(n, backend.device)
    labels, distances = ops.assign(keys, centers, math.inf)
    columns = torch.stack([ops.assign(keys, c[None], math.inf)[1] for c in centers], dim=1)
    assert torch.equal(distances, columns.min(dim=1).values)
    first = [(columns[i] == distances[i]).nonzero()[0].item() for i in range(n)]
    assert labels.tolist() == first


def test_distances_are_symmetric_to_the_bit(backend):
    keys = clustered(120, 40).to(backend.device)
    columns = torch.stack(
        [ops.assign(keys, torch.tensor([j], device=keys.device), math.inf)[1] for j in range(120)], dim=1
    )
    assert torch.equal(columns, columns.T)
    assert (columns.diagonal() == 0).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_distances_stay_in_range(backend, sign):
    """Parallel vectors, whose cosine may round beyond 1 in magnitude."""
    keys = (torch.randn(20, 7).repeat(20, 1) * sign ** torch.arange(400)[:, None] * torch.rand(400, 1)).to(
        backend.device
    )
    for center in range(0, 400, 23):
        _, distances = ops.assign(keys, torch.tensor([center], device=backend.device), math.inf)
        assert (distances >= 0).all()
        assert (distances <= 2).all()


def test_unsorted_and_repeated_centers(backend):
    keys = torch.eye(4).repeat(2, 1).to(backend.device)  # token i equals token i + 4
    labels, distances = ops.assign(keys, torch.tensor([7, 2, 3, 2, 0]).to(backend.device), 0.5)
    # Token 3 is the lower of the two centres equal to 3 and 7; the first of the repeated 2s is meant.
    assert labels.tolist() == [4, -1, 1, 2, 4, -1, 1, 2]
    assert distances.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]


def test_zero_vector_is_at_zero_from_itself_only(backend):
    keys = torch.zeros(3, 5).to(backend.device)
    labels, distances = ops.assign(keys, torch.tensor([1, 2]).to(backend.device), math.inf)
    assert labels.tolist() == [0, 0, 1]
    assert distances.tolist() == [1, 0, 0]


def test_limit_is_strict(backend):
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).to(backend.device)
    center = torch.tensor([0]).to(backend.device)
    assert ops.assign(keys, center, 1.0)[0].tolist() == [0, -1]
    assert ops.assign(keys, center, math.nextafter(1.0, 2))[0].tolist() == [0, 0]
    assert ops.assign(keys, center, 0.0)[0].tolist() == [-1, -1]
    assert ops.assign(keys, center, -1.0)[0].tolist() == [-1, -1]
    assert ops.assign(keys, center, 0.5)[1].tolist() == [0, 1]  # distances whatever the label


def test_same_bits_every_thread_count_and_stride(backend, threads):
    keys = clustered(500, 24).view(500, 3, 8).to(backend.device)
    centers = some_centers(500, backend.device)
    expected = ops.assign(keys, centers, 0.5)
    for count in backend.thread_counts:
        threads(count)
        for view in [keys, *awkward_strides(keys)]:
            for ours, other in zip(ops.assign(view, centers, 0.5), expected, strict=True):
                assert torch.equal(ours, other)
    every_other = torch.stack([centers, centers], dim=1).flatten()[::2]
    assert torch.equal(ops.assign(keys, every_other, 0.5)[0], expected[0])


@only_in_data
@pytest.mark.parametrize("center", [4, -1])
def test_center_out_of_range(backend, center):
    with pytest.raises(RuntimeError, match=rf"pact::assign: centers must be token indices in \[0, 4\), got {center}"):
        ops.assign(torch.ones(4, 3), torch.tensor([0, center]), 1.0)


@only_in_data
def test_nan_raises(backend):
    with pytest.raises(RuntimeError, match="pact::assign: keys must be finite"):
        ops.assign(torch.full((4, 3), float("nan")), torch.tensor([0]), 1.0)
