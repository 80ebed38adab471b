"""The kernels around the Gram tiles, run by the emulator: density and adjacency, the largest distance, the nearest
centre, and the keys made ready for them, against float64 on every dtype, tile edge and thread order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from certificate import DISTANCE_MARGIN, density_margin
from data import DTYPES, adversarial, clustered
from emulator import build

from bench import gpu_accuracy
from pact_ext import reference

SEEDS = [0, 1, 2]
# (n, dk): one token, part of a tile, its edges, also those of later tiles; widths short of a stage and past one fold.
SHAPES = [(1, 1), (2, 3), (33, 40), (127, 8), (128, 64), (255, 72), (129, 512), (130, 520), (257, 24)]


# Hopper multiplies half precision by warpgroups, other cards by warps; for float32 they are alike.
CARDS = [(dtype, 9) for dtype in DTYPES] + [(dtype, 8) for dtype in DTYPES if dtype.itemsize == 2]


@pytest.fixture
def dev():
    module = build.load()
    yield module
    module.use_tensor_cores(9)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def as_numpy(x: torch.Tensor) -> np.ndarray:
    return (x.view(torch.uint16) if x.element_size() == 2 else x).contiguous().numpy()


class Keys:
    """Keys [n, dk] packed, scaled and with their norms, or those that an index names, as the operators hand them to the
    Gram kernels."""

    def __init__(self, dev, keys: torch.Tensor, index: np.ndarray | None = None, seed: int = 0):
        self.dev, self.seed, self.dtype = dev, seed, name_of(keys.dtype)
        keys = keys.flatten(1)
        vector = 16 // keys.element_size()
        width = -(-keys.shape[1] // vector) * vector
        self.index, self.n = index, len(keys) if index is None else len(index)
        rows = as_numpy(keys)
        self.packed = np.full((len(keys), width), 0x7FFF if rows.dtype == np.uint16 else np.nan, rows.dtype)
        self.inv_norm = np.full(len(keys), np.nan)
        self.bad = np.zeros(1, np.int32)
        dev.prepare_keys(self.dtype, rows, self.packed, self.inv_norm, self.bad, seed)

    def density(self, dn=0.5, gaussian=False, cutoff=0.3, adjacency=True):
        tiles = -(-self.n // self.dev.gram_tile)
        density = np.zeros(self.n, np.uint64)
        words = tiles * self.dev.gram_tile // 32
        bits = np.full((tiles * self.dev.gram_tile, words), 0xA5A5A5A5, np.uint32) if adjacency else None
        exponent = 1 / dn if gaussian else -1 / dn
        keys = (self.packed, self.inv_norm, self.index)
        self.dev.density(self.dtype, *keys, exponent, gaussian, density, cutoff, bits, self.seed)
        rho = np.full(self.n, np.nan, np.float32)
        self.dev.density_to_float(density, rho, self.seed)
        return density, torch.from_numpy(rho), bits

    def max_distance(self) -> float:
        largest = np.zeros(1, np.uint32)
        self.dev.max_distance(self.dtype, self.packed, self.inv_norm, largest, self.seed)
        return largest.view(np.float32)[0]

    def nearest(self, centers: Keys, center_token, count=None, token_index=None, limit=math.inf):
        nearest = np.full(self.n, 2**64 - 1, np.uint64)
        count = None if count is None else np.array([count], np.int32)
        center_token = torch.as_tensor(center_token).int().numpy()
        mine = (self.packed, self.inv_norm, self.index, token_index)
        theirs = (centers.packed, centers.inv_norm, centers.index, center_token, count)
        self.dev.nearest(self.dtype, *mine, *theirs, nearest, self.seed)
        labels, distances = np.full(self.n, -9, np.int64), np.full(self.n, np.nan, np.float32)
        self.dev.nearest_to_labels(nearest, limit, None, labels, distances, self.seed)
        return torch.from_numpy(labels), torch.from_numpy(distances)


def unpack(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little").astype(bool))


def check(dev, keys, dn, gaussian, cutoff, seed=0):
    """Density, bits and the largest distance of the keys against float64."""
    run = Keys(dev, keys, seed=seed)
    assert run.bad[0] == 0
    _, rho, bits = run.density(dn, gaussian, cutoff)
    distance = reference.pairwise_distance(keys.double())
    expected = reference.density_from_distance(distance, dn, gaussian)
    torch.testing.assert_close(rho.double(), expected, rtol=density_margin(dn, gaussian), atol=0)

    near, n = unpack(bits), run.n
    assert torch.equal(near, near.T), "the adjacency is not symmetric"
    assert near[:n, :n].diagonal().all()
    assert not near[n:].any(), "padding has neighbours"
    clear = (distance - cutoff).abs() > DISTANCE_MARGIN
    assert torch.equal(near[:n, :n][clear], (distance <= cutoff)[clear])
    assert run.max_distance() == pytest.approx(distance.max().item(), abs=DISTANCE_MARGIN)


@pytest.mark.parametrize(("dtype", "major"), CARDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pairs_agree_with_float64(dev, shape, dtype, major):
    """Each shape and each dtype meets both forms of the density, but not in all pairs."""
    dev.use_tensor_cores(major)
    dn, gaussian = [(2.0, True), (0.3, False)][(SHAPES.index(shape) + DTYPES.index(dtype)) % 2]
    check(dev, clustered(*shape, dtype), dn, gaussian, 0.4)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_pairs(dev, name):
    check(dev, adversarial()[name], 0.7, False, 0.5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_thread_order_changes_no_bit(dev, dtype):
    keys = clustered(150, 40, dtype)
    runs = [Keys(dev, keys, seed=seed) for seed in SEEDS]
    for run in runs[1:]:
        for mine, first in zip(run.density(), runs[0].density(), strict=True):
            assert np.array_equal(mine, first)
        assert run.max_distance() == runs[0].max_distance()
        for mine, first in zip(run.nearest(run, range(150)), runs[0].nearest(runs[0], range(150)), strict=True):
            assert torch.equal(mine, first)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dk", [24, 1048, 4104])  # the last is more than a block's shared memory holds at once
def test_equal_and_opposite_keys_are_exact(dev, dtype, dk):
    row = torch.randn(1, dk).to(dtype)
    equal = Keys(dev, row.repeat(140, 1))
    density, rho, bits = equal.density(0.1, cutoff=0.0)
    assert (rho == 140).all()
    assert (density == 140 << 32).all()
    assert unpack(bits)[:140, :140].all()
    assert equal.max_distance() == 0
    assert Keys(dev, torch.cat([row, -row])).max_distance() == 2
    assert Keys(dev, torch.eye(40).to(dtype)).max_distance() == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_permutation_moves_the_same_bits(dev, dtype):
    keys, order = clustered(140, 40, dtype), torch.randperm(140)
    density, _, bits = Keys(dev, keys).density()
    moved, _, moved_bits = Keys(dev, keys[order]).density()
    assert np.array_equal(moved, density[order])
    assert torch.equal(unpack(moved_bits)[:140, :140], unpack(bits)[:140, :140][order][:, order])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dk", [40, 1048])
def test_a_list_of_rows_is_as_a_copy_of_them(dev, dtype, dk):
    keys, index = clustered(150, dk, dtype), torch.randint(0, 150, (135,))
    listed, copied = Keys(dev, keys, index.numpy().astype(np.int32)), Keys(dev, keys[index])
    for mine, other in zip(listed.density(), copied.density(), strict=True):
        assert np.array_equal(mine, other)
    centers = Keys(dev, keys, np.arange(149, -1, -1, dtype=np.int32)), Keys(dev, keys.flip(0))
    runs = [tokens.nearest(c, range(150, 300)) for tokens, c in zip((listed, copied), centers, strict=True)]
    for mine, other in zip(*runs, strict=True):
        assert torch.equal(mine, other)


def test_density_without_adjacency(dev):
    run = Keys(dev, clustered(130, 8))
    assert np.array_equal(run.density(adjacency=False)[0], run.density()[0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_come_out_as_nan(dev, dtype, bad):
    keys = clustered(140, 13, dtype)
    keys[131, 7] = bad
    run = Keys(dev, keys)
    assert run.bad[0] == 1
    _, rho, _ = run.density()
    assert rho.isnan().nonzero().flatten().tolist() == [131]
    assert math.isnan(run.max_distance())
    labels, distances = run.nearest(
        run, [*range(131), -1, *range(132, 140)], token_index=np.arange(140, 280, dtype=np.int32)
    )
    assert distances.isnan().nonzero().flatten().tolist() == (labels < 0).nonzero().flatten().tolist() == [131]


@pytest.mark.parametrize("dtype", DTYPES)
def test_bad_and_zero_keys_leave_the_others_alone(dev, dtype):
    """In tiles without edge or diagonal, too."""
    keys = clustered(300, 13, dtype)
    keys[[5, 200]], keys[[7, 150]] = math.nan, 0
    good = torch.tensor([i for i in range(300) if i not in (5, 200)])
    density, rho, bits = Keys(dev, keys).density()
    expected, _, expected_bits = Keys(dev, keys[good]).density()
    assert rho.isnan().nonzero().flatten().tolist() == [5, 200]
    assert np.array_equal(density[good], expected)
    near = unpack(bits)[:300, :300]
    assert torch.equal(near[good][:, good], unpack(expected_bits)[:298, :298])
    assert not near[[5, 200]][:, good].any()
    assert not near[good][:, [5, 200]].any()
    assert near[7].nonzero().flatten().tolist() == [7]

    tokens, index = Keys(dev, keys), torch.cat([torch.arange(150), torch.arange(299, 149, -1)])
    labels, distances = tokens.nearest(Keys(dev, keys[index]), index)
    assert torch.equal(index[labels], torch.arange(300))
    assert (distances == 0).all()


@pytest.mark.parametrize(("dtype", "major"), CARDS)
@pytest.mark.parametrize(
    ("shape", "centers"), [((1, 1), 1), ((130, 40), 1), ((130, 40), 127), ((130, 40), 129), ((129, 1040), 129)], ids=str
)
def test_nearest_agrees_with_float64(dev, shape, dtype, major, centers):
    dev.use_tensor_cores(major)
    n, keys = shape[0], clustered(*shape, dtype)
    index = torch.randperm(n)[: min(centers, n)].sort().values
    tokens, chosen = Keys(dev, keys), Keys(dev, keys, index.numpy().astype(np.int32))
    labels, distances = tokens.nearest(chosen, index)
    to_centers = reference.pairwise_distance(keys.double())[:, index]
    expected = to_centers.min(dim=1).values
    torch.testing.assert_close(distances.double(), expected, rtol=0, atol=DISTANCE_MARGIN)
    assert (to_centers[torch.arange(n), labels] <= expected + DISTANCE_MARGIN).all()
    assert torch.equal(labels[index], torch.arange(len(index)))
    assert (distances[index] == 0).all()

    limited, _ = tokens.nearest(chosen, index, limit=0.2)
    assert torch.equal(limited, torch.where(distances < 0.2, labels, -1))


@pytest.mark.parametrize("width", [256, 512, 768, 1024, 4096])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("major", [8, 9])
def test_distances_keep_their_margin_as_tensor_cores_truncate(dev, major, dtype, width):
    """Of the generation that truncates every 8 terms and of that which does every 16, on rows that cost them most."""
    dev.use_tensor_cores(major)
    for kind in ("positive", "one element outweighs"):
        keys, index = gpu_accuracy.rows(width)[kind][:128].to(dtype), torch.arange(0, 128, 4)
        run, chosen = Keys(dev, keys), Keys(dev, keys[index])
        exact = reference.pairwise_distance(keys.double())
        found = run.nearest(chosen, index)[1].double() - exact[:, index].min(dim=1).values
        widest = run.max_distance() - exact.max().item()
        assert max(found.abs().max().item(), abs(widest)) < DISTANCE_MARGIN, kind


def test_nearest_takes_the_lower_of_equals_and_itself(dev):
    keys = torch.randn(20, 12).repeat(14, 1)
    run = Keys(dev, keys)
    labels, distances = run.nearest(run, [-1] * 280)
    assert (labels == -1).all()
    assert distances.isinf().all()
    labels, distances = run.nearest(run, range(280), token_index=np.full(280, 999, np.int32))
    assert torch.equal(labels, torch.arange(280) % 20)
    assert (distances == 0).all()
    zero = Keys(dev, torch.zeros(3, 8))
    labels, distances = zero.nearest(zero, [7, 8, 9], token_index=np.array([9, 7, 5], np.int32))
    assert labels.tolist() == [2, 0, 0]
    assert distances.tolist() == [0, 0, 1]


@pytest.mark.parametrize("count", [-3, 0, 1, 5, 128, 129, 200, 10**6])
def test_nearest_reads_the_count_on_the_device(dev, count):
    keys = clustered(200, 16)
    run, used = Keys(dev, keys), min(max(count, 0), 200)
    labels, distances = run.nearest(run, range(200), count=count)
    if used == 0:
        assert (labels == -1).all()
        return
    expected = reference.pairwise_distance(keys.double())[:, :used].min(dim=1).values
    torch.testing.assert_close(distances.double(), expected, rtol=0, atol=DISTANCE_MARGIN)
    assert labels.max() < used


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 7, 8, 300, 4101])
def test_keys_are_scaled_by_powers_of_two(dev, dtype, width):
    keys = torch.randn(19, width).to(dtype) * 2.0 ** torch.randint(-8, 9, (19, 1)).to(dtype)
    run = Keys(dev, keys)
    packed = torch.from_numpy(run.packed).view(dtype)
    expected = keys
    if dtype != torch.float16:
        _, exponent = expected.abs().max(dim=1, keepdim=True).values.double().frexp()
        expected = (expected.double() * 2.0 ** -exponent.double()).to(dtype)
    assert torch.equal(packed[:, :width], expected)
    assert (packed[:, width:] == 0).all()
    norm = packed.double().square().sum(dim=1).sqrt()
    torch.testing.assert_close(torch.from_numpy(run.inv_norm), 1 / norm, rtol=1e-5, atol=0)


def test_rows_that_stay_in_place_have_the_norms_of_a_copy(dev):
    """float16 needs no scaling: without a copy, and with nothing wanted but the copy."""
    rows = as_numpy(clustered(21, 264, torch.float16))
    packed, inv_norm, in_place = np.zeros_like(rows), np.zeros(21), np.zeros(21)
    dev.prepare_keys("float16", rows, packed, inv_norm, None, 0)
    dev.prepare_keys("float16", rows, None, in_place, None, 0)
    assert np.array_equal(packed, rows)
    assert np.array_equal(in_place, inv_norm)
    assert (inv_norm > 0).all()
    alone = np.zeros_like(rows)
    dev.prepare_keys("float16", rows, alone, None, None, 0)
    assert np.array_equal(alone, rows)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [(0, 0), (17, 6), (30, 12)])
def test_bad_elements_are_found(dev, dtype, bad, place):
    keys, found = clustered(31, 13, dtype), np.zeros(1, np.int32)
    keys *= 2.0**100 if dtype != torch.float16 else 8.0
    dev.check_rows(name_of(dtype), as_numpy(keys), found, 0)
    assert found[0] == Keys(dev, keys).bad[0] == 0
    keys[place] = bad
    dev.check_rows(name_of(dtype), as_numpy(keys), found, 0)
    assert found[0] == Keys(dev, keys).bad[0] == 1
