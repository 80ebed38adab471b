"""pact::max_distance."""

import pytest
import torch
from certificate import DISTANCE_MARGIN
from data import DTYPES, SHAPES, adversarial, awkward_strides, clustered

from pact_ext import ops, reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_float64(backend, shape, dtype):
    keys = clustered(*shape, dtype)
    largest = ops.max_distance(keys.to(backend.device))
    assert largest.shape == ()
    assert largest.dtype == torch.float32
    assert largest.item() == pytest.approx(reference.max_distance(keys.double()).item(), abs=DISTANCE_MARGIN)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial(backend, name):
    keys = adversarial()[name]
    expected = reference.max_distance(keys.double()).item()
    assert ops.max_distance(keys.to(backend.device)).item() == pytest.approx(expected, abs=DISTANCE_MARGIN)


def test_exact_values(backend):
    assert ops.max_distance(torch.randn(1, 9).to(backend.device)).item() == 0
    assert ops.max_distance(torch.randn(1, 9).repeat(200, 1).to(backend.device)).item() == 0
    assert ops.max_distance(torch.eye(7).to(backend.device)).item() == 1
    x = torch.randn(1, 9)
    assert ops.max_distance(torch.cat([x, -x]).to(backend.device)).item() == 2


@pytest.mark.parametrize("pair", [(0, 1), (0, 499), (250, 300), (498, 499)])
def test_finds_the_one_far_pair(backend, pair):
    keys = torch.ones(500, 4)
    keys[pair[0], 3], keys[pair[1], 3] = 3.0, -3.0
    expected = reference.max_distance(keys.double()).item()
    assert ops.max_distance(keys.to(backend.device)).item() == pytest.approx(expected, abs=DISTANCE_MARGIN)


def test_same_bits_every_thread_count_and_stride(backend, threads):
    keys = clustered(450, 24).view(450, 3, 8).to(backend.device)
    expected = ops.max_distance(keys)
    for count in backend.thread_counts:
        threads(count)
        for view in [keys, *awkward_strides(keys)]:
            assert torch.equal(ops.max_distance(view), expected)


@pytest.mark.only_in_data
def test_inf_raises(backend):
    with pytest.raises(RuntimeError, match="pact::max_distance: keys must be finite"):
        ops.max_distance(torch.full((3, 2), float("inf")).to(backend.device))
