"""The CUDA kernels that rank, select and label, in the emulator: the answers of the sequential loop, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import DTYPES
from emulator import build

from pact_ext import reference

dev = build.load()
SEEDS = range(4)


def priority_order(density):
    rho = (density.astype(np.float64) * 2.0**-32).astype(np.float32)
    return np.lexsort((np.arange(len(density)), -rho))


def pack(neighbours, words):
    """[n, n] booleans as [n, words] of 32 bits; the bits past n are set, as nobody may look at them."""
    n = len(neighbours)
    padded = np.ones((n, words * 32), bool)
    padded[:, :n] = neighbours
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint32)


def greedy(density, neighbours):
    centers = []
    for token in priority_order(density):
        if not neighbours[token, centers].any():
            centers.append(token)
    return np.sort(centers)


def select(density, neighbours, seed=0, blocks=2, warps=2, compact_threads=64, spare_words=1, kept_words=8):
    """(centers, position, is_center bits), with what surrounds the outputs checked."""
    n = len(density)
    words = -(-n // 32) + spare_words
    centers, position = np.full(n, -7, np.int32), np.full(n, -7, np.int32)
    is_center = np.full(words, 0xFFFFFFFF, np.uint32)
    adjacency = pack(neighbours, words)
    launch = blocks, warps, compact_threads, kept_words
    count = dev.select(density, adjacency, centers, position, is_center, *launch, seed)
    assert (centers[count:] == -7).all()
    return centers[:count], position, is_center


def check(density, neighbours, **how):
    n, expected = len(density), greedy(density, neighbours)
    for seed in SEEDS:
        centers, position, is_center = select(density, neighbours, seed, **how)
        np.testing.assert_array_equal(centers, expected)
        mask = np.isin(np.arange(n), expected)
        np.testing.assert_array_equal(position, np.where(mask, np.cumsum(mask) - 1, -1))
        bits = np.unpackbits(is_center.view(np.uint8), bitorder="little").astype(bool)
        np.testing.assert_array_equal(bits[:n], mask)
        assert not bits[n:].any()
    return expected


def graph(n, probability, seed=0):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((n, n)) < probability, 1)
    return upper | upper.T | np.eye(n, dtype=bool)


def densities(n, seed=0, low=2**32):
    return np.random.default_rng(seed).integers(low, n * 2**32 + 1, n, dtype=np.uint64)


# --- Rank -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 127, 128, 129, 257, 2049, 2200])
def test_rank(n):
    for density in (densities(n), np.full(n, 2**33, np.uint64), densities(n) // 2**33 * 2**33):
        rank = np.full(n, -7, np.int32)
        dev.rank("density", density, rank, n)
        np.testing.assert_array_equal(rank[priority_order(density)], np.arange(n))


def test_rank_compares_as_float32():
    """Densities that differ beyond float32's precision tie, and the lower index comes first."""
    density = np.array([2**40, 2**40 + 1, 2**40 + 2**17, 2**40 - 1, 0, 2**64 - 1, 2**64 - 2**30, 1], np.uint64)
    rank = np.empty(8, np.int32)
    dev.rank("density", density, rank, 0)
    assert np.argsort(rank).tolist() == [5, 6, 2, 0, 1, 3, 7, 4]


@pytest.mark.parametrize("n", [255, 257, 513])
def test_rank_of_numbers_and_floats(n):
    """Of 64 bits and of any sign, with ties across tiles; and 0, which is not what lies behind the last token."""
    rng = np.random.default_rng(n)
    numbers = rng.integers(0, 3, n).astype(np.uint64) << np.uint64(40) | rng.integers(0, 3, n).astype(np.uint64)
    floats = rng.integers(-2, 3, n).astype(np.float32)
    floats[rng.random(n) < 0.2] = np.nan
    for by, values in (("number", numbers), ("float", floats)):
        rank = np.full(n, -7, np.int32)
        dev.rank(by, values, rank, n)
        key = np.where(np.isnan(values), -np.inf, values) if by == "float" else values.astype(np.float64)
        np.testing.assert_array_equal(rank[np.lexsort((np.arange(n), -key))], np.arange(n))


# --- Selection --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 65, 200])
@pytest.mark.parametrize("probability", [0, 0.02, 0.2, 0.9])
def test_selection_is_the_sequential_one(n, probability):
    check(densities(n), graph(n, probability))


@pytest.mark.parametrize("n", [33, 100])
def test_all_densities_equal(n):
    check(np.full(n, 2**32, np.uint64), graph(n, 0.1))


def test_one_clique():
    assert check(np.full(70, 2**32, np.uint64), np.ones((70, 70), bool)).tolist() == [0]


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
@pytest.mark.parametrize(("blocks", "warps"), [(1, 1), (3, 2), (2, 8)])
def test_chain(order, blocks, warps):
    """Each token waits for the one before it: the longest dependency there is."""
    n = 120
    place = np.arange(n)
    if order == "descending":
        place = place[::-1]
    elif order == "shuffled":
        place = np.random.default_rng(0).permutation(n)
    neighbours = np.abs(place[:, None] - place[None, :]) <= 1
    density = ((n - place).astype(np.uint64) + np.uint64(1)) << np.uint64(32)
    centers = check(density, neighbours, blocks=blocks, warps=warps)
    assert len(centers) == n // 2


def test_chain_that_decides_from_far():
    """Rank r neighbours r - 1, r - 2 and r - 40: pending neighbours in several words."""
    place = np.random.default_rng(1).permutation(150)
    apart = np.abs(place[:, None] - place[None, :])
    density = (np.uint64(200) - place.astype(np.uint64)) << np.uint64(32)
    check(density, np.isin(apart, [0, 1, 2, 40]), blocks=2, warps=4)


@pytest.mark.parametrize(("n", "kept_words"), [(1150, 1), (1150, 16), (8300, 8), (8300, 16)])
def test_more_tokens_than_pending_bits_in_registers(n, kept_words):
    """Neighbours past the words that a warp keeps, of tokens there and of the first: read again at every look. Few are
    joined, so that it is quick."""
    neighbours = np.eye(n, dtype=bool)
    for i in range(n - 120, n):
        for j in (i - n + 100, i - 1):
            if j >= 0:
                neighbours[i, j] = neighbours[j, i] = True
    density = np.full(n, 2**32, np.uint64)
    expected = greedy(density, neighbours)
    how = {"blocks": 1, "warps": 4, "compact_threads": 1024, "kept_words": kept_words}
    centers, _, _ = select(density, neighbours, seed=1, **how)
    np.testing.assert_array_equal(centers, expected)


@pytest.mark.parametrize("compact_threads", [32, 96, 1024])
def test_compaction_of_any_block(compact_threads):
    check(densities(130), graph(130, 0.05), compact_threads=compact_threads, spare_words=70)


def test_rows_without_any_bits():
    """What NaN keys leave behind: tokens that are not even their own neighbours. No hang, and the same answer."""
    n = 70
    neighbours = graph(n, 0.1)
    neighbours[:, ::3] = neighbours[::3] = False
    check(densities(n), neighbours)


# --- Labels -----------------------------------------------------------------------------------------------------


def labelled(keys, dc, dtype, seed, scatter=None):
    """Labels of the kernels for tokens within dc by float64 distances, and all they were made from."""
    keys = keys.to(dtype)
    n = len(keys)
    distance = reference.pairwise_distance(keys.double())
    neighbours = (distance <= dc).numpy()
    density = (reference.density_from_distance(distance, 2.0).numpy() * 2.0**32).astype(np.uint64)
    centers, position, is_center = select(density, neighbours, blocks=1)
    norm = keys.double().norm(dim=1)
    inv_norm = torch.where(norm > 0, 1 / norm, 0).numpy()
    width = -(-keys.shape[1] // 8) * 8
    rows = torch.zeros(n, width, dtype=dtype)
    rows[:, : keys.shape[1]] = keys
    rows = rows.numpy() if dtype == torch.float32 else rows.view(torch.uint16).numpy()
    labels = np.full(n if scatter is None else scatter.max() + 1, -7, np.int64)
    name = str(dtype).removeprefix("torch.")
    dev.label(name, rows, inv_norm, pack(neighbours, len(is_center)), is_center, position, scatter, labels, seed)
    return labels, centers, distance[:, centers].numpy()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "dk"), [(1, 4), (33, 8), (120, 64), (65, 300)])
def test_labels_are_nearest_centers(n, dk, dtype):
    keys = torch.randn(max(1, n // 6), dk).repeat(6, 1)[:n]
    keys = (keys + 0.5 * torch.randn(len(keys), dk))[:n]
    for seed in range(3):
        labels, centers, to_centers = labelled(keys, 0.6, dtype, seed)
        rows = np.arange(len(keys))
        # float32 sums against float64: another centre only when it is as near up to rounding
        assert (to_centers[rows, labels] <= to_centers.min(axis=1) + 1e-6).all()
        np.testing.assert_array_equal(labels[centers], np.arange(len(centers)))


def test_ties_go_to_the_lower_position():
    """Tokens between two orthogonal centres, at exactly the same distance of both."""
    keys = torch.zeros(37, 8)
    keys[:16, 0] = keys[16:32, 1] = 1
    keys[32:] = torch.tensor([1.0, 1.0, 0, 0, 0, 0, 0, 0])
    keys[:, 2] = 0.0
    density = np.where(np.arange(37) < 32, 2**40, 2**33).astype(np.uint64)
    distance = reference.pairwise_distance(keys)
    neighbours = (distance <= 0.5).numpy()
    centers, position, is_center = select(density, neighbours)
    assert centers.tolist() == [0, 16]
    labels, inv_norm = np.full(37, -7, np.int64), (1 / keys.double().norm(dim=1)).numpy()
    adjacency = pack(neighbours, len(is_center))
    dev.label("float32", keys.numpy(), inv_norm, adjacency, is_center, position, None, labels, 0)
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 0], [16, 16, 5]))


def test_scattered_labels():
    keys = torch.randn(40, 16)
    plain, _, _ = labelled(keys, 0.7, torch.float32, 0)
    scatter = np.sort(np.random.default_rng(0).permutation(90)[:40]).astype(np.int32)
    scattered, _, _ = labelled(keys, 0.7, torch.float32, 1, scatter)
    np.testing.assert_array_equal(scattered[scatter], plain)
    assert (np.delete(scattered, scatter) == -7).all()


def test_zero_vectors_label_themselves():
    labels, centers, _ = labelled(torch.cat([torch.zeros(3, 8), torch.eye(8)]), 0.3, torch.float32, 0)
    np.testing.assert_array_equal(labels, np.arange(11))
    assert len(centers) == 11


def test_a_token_without_candidates():
    """Only NaN keys bring this about; the label is then -1, inside the contract of segment_mean."""
    labels = np.full(2, -7, np.int64)
    args = np.ones(2), np.zeros((2, 1), np.uint32), np.array([2], np.uint32), np.array([-1, 0], np.int32)
    dev.label("float32", np.ones((2, 4), np.float32), *args, None, labels, 0)
    assert labels.tolist() == [-1, 0]


@pytest.mark.parametrize("count", [0, 1, 33, 40])
def test_centers_to_tokens(count):
    centers = np.arange(40, dtype=np.int32) * 2
    index = np.random.default_rng(0).permutation(100).astype(np.int32)
    out32, out64 = np.full(40, -7, np.int32), np.full(40, -7, np.int64)
    dev.centers_to_tokens(centers, index, count, out32, out64, 0)
    expected = np.where(np.arange(40) < count, index[centers], -7)
    np.testing.assert_array_equal(out32, expected)
    np.testing.assert_array_equal(out64, expected)
    dev.centers_to_tokens(centers, None, count, None, out64, 0)
    np.testing.assert_array_equal(out64[:count], centers[:count])
