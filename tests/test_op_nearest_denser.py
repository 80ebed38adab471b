"""pact::nearest_denser: replay on the operators' own distances to the bit, float64 within a margin where n is large."""

import numpy as np
import pytest
import torch
from certificate import DISTANCE_MARGIN, own_distances
from data import DTYPES, adversarial, awkward_strides, clustered

from pact_ext import ops, reference

# (n, dk): one token; the edges of panels and of tiles, 192 tokens on the CPU and 128 on CUDA; odd sizes over two and
# three tiles; a width past one block of sums.
SHAPES = [(1, 1), (2, 3), (49, 16), (127, 9), (128, 8), (129, 33), (191, 8), (192, 40), (193, 257), (300, 72)]


def outranks(density):
    """``[n, n]``: whether the token of a column is denser than that of the row, or equally dense and lower."""
    index = np.arange(len(density))
    return (density[None] > density[:, None]) | (density[None] == density[:, None]) & (index[None] < index[:, None])


def replay(distance, density):
    """What the operator must return for these distances."""
    allowed = outranks(density.numpy())
    nearest = np.where(allowed, distance.numpy(), np.inf).argmin(axis=1)  # the first on a tie
    first = ~allowed.any(axis=1)
    nearest = np.where(first, distance.numpy().argmax(axis=1), nearest)
    indices = np.where(first, -1, nearest)
    return distance[torch.arange(len(distance)), torch.from_numpy(nearest)], torch.from_numpy(indices)


def check_replay(keys, density, distance):
    distances, indices = ops.nearest_denser(keys, density.to(keys.device))
    expected = replay(distance, density)
    assert torch.equal(distances.cpu(), expected[0])
    assert torch.equal(indices.cpu(), expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_certificate(backend, shape, dtype):
    """Whoever is returned outranks the token, is as far as said, and nobody who outranks it is nearer."""
    keys = clustered(*shape, dtype)
    density = torch.randn(len(keys)).round(decimals=1)  # of both signs, with ties
    distances, indices = (t.cpu() for t in ops.nearest_denser(keys.to(backend.device), density.to(backend.device)))
    assert (distances.dtype, indices.dtype) == (torch.float32, torch.int64)
    distance, allowed = reference.pairwise_distance(keys.double()), torch.from_numpy(outranks(density.numpy()))
    first = ~allowed.any(dim=1)
    assert torch.equal(indices == -1, first)
    assert distances[first].item() == pytest.approx(distance[first].max().item(), abs=DISTANCE_MARGIN)
    token = torch.arange(len(keys))[~first]
    assert allowed[token, indices[token]].all()
    distances = distances.double()[token]
    torch.testing.assert_close(distances, distance[token, indices[token]], atol=DISTANCE_MARGIN, rtol=0)
    nearest = distance.where(allowed, torch.inf)[token].amin(dim=1)
    torch.testing.assert_close(distances, nearest, atol=DISTANCE_MARGIN, rtol=0)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_replay(backend, name):
    """Ties in distance and density, of any sign: nothing is left to rounding."""
    keys = adversarial()[name].to(backend.device)
    rising = torch.arange(float(len(keys))) - len(keys) // 2
    distance = own_distances(keys).cpu()
    for density in (torch.zeros(len(keys)), rising, (rising / 3).round()):
        check_replay(keys, density, distance)


@pytest.mark.parametrize("n", [127, 128, 129, 191, 193, 385])
def test_ties_go_to_the_lower_index_across_tiles(backend, n):
    """Distances 0, 1 and 2 exactly, between tokens that lie anywhere in rank order."""
    keys = (torch.eye(6) * 2.0 ** torch.arange(6))[torch.randint(6, (n,))] * (1 - 2 * torch.randint(2, (n, 1)))
    density = torch.randint(-4, 5, (n,)).float()
    expected = reference.nearest_denser(keys, density)
    result = ops.nearest_denser(keys.to(backend.device), density.to(backend.device))
    for ours, other in zip(result, expected, strict=True):
        assert torch.equal(ours.cpu(), other)


@pytest.mark.parametrize("first", [0, 128, 299])
def test_the_first_has_the_largest_distance_to_any(backend, first):
    """Wherever the first token and the farthest from it lie."""
    for farthest in (1, 129, 298):
        keys, density = torch.ones(300, 4), -torch.arange(300.0)
        keys[first, 3], keys[farthest, 3] = 3.0, -3.0
        density[first] = 1
        distances, indices = ops.nearest_denser(keys.to(backend.device), density.to(backend.device))
        expected = reference.pairwise_distance(keys.double())[first, farthest].item()
        assert distances[first].item() == pytest.approx(expected, abs=DISTANCE_MARGIN)
        assert indices[first] == -1


def test_any_finite_density(backend):
    """The largest and the smallest floats of both signs; both zeros are one."""
    keys = torch.randn(11, 4).to(backend.device)
    most, least = torch.finfo(torch.float32).max, 2.0**-149
    distance = own_distances(keys).cpu()
    for density in ([-least, -0.0, -most, least, 0.0, -1.0, most, 1.0, -0.0, -most, most], [-most] * 11):
        check_replay(keys, torch.tensor(density), distance)


def test_same_bits_every_thread_count_and_stride(backend, threads):
    keys, density = clustered(450, 24).view(450, 3, 8).to(backend.device), torch.randn(450).to(backend.device)
    expected = ops.nearest_denser(keys, density)
    for count in backend.thread_counts:
        threads(count)
        views = zip([keys, *awkward_strides(keys)], [density, *awkward_strides(density)], strict=True)
        for view, other_density in views:
            for ours, other in zip(ops.nearest_denser(view, other_density), expected, strict=True):
                assert torch.equal(ours, other)


@pytest.mark.only_in_data
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nan_and_inf_raise(backend, value):
    bad, fine = torch.tensor([1.0, value, 2.0]), torch.ones(3)
    with pytest.raises(RuntimeError, match="pact::nearest_denser: keys must be finite"):
        ops.nearest_denser(bad[:, None], fine)
    with pytest.raises(RuntimeError, match="pact::nearest_denser: density must be finite"):
        ops.nearest_denser(fine[:, None], bad)


def test_nan_stays_where_it_is(backend):
    """Without a look at the data: NaN in a key is far from everything, in a density it ranks last; no index leaves."""
    if backend.sees_data:
        pytest.skip("the CPU raises")
    nan = float("nan")
    keys, density = clustered(140, 8).to(backend.device), torch.arange(140.0).to(backend.device)
    expected = ops.nearest_denser(keys, density)
    keys[7] = density[0] = nan  # a rank of its own, and the last
    distances, indices = ops.nearest_denser(keys, density)
    assert distances[7].isnan()
    assert ((indices >= -1) & (indices < 140)).all()
    same = torch.arange(140, device=backend.device) != 7
    same &= expected[1] != 7
    same[139] = False  # the first looks at all
    assert torch.equal(distances[same], expected[0][same])
    assert torch.equal(indices[same], expected[1][same])
    assert (ops.nearest_denser(keys, torch.full_like(density, nan))[1] < 140).all()
