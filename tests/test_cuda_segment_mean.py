"""The CUDA kernels of segment_mean, in the emulator: the reference's bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import DTYPES
from emulator import build

from pact_ext import reference

dev = build.load()
SEEDS = range(3)


def elements(x):
    """The tensor's elements as numpy holds them: half types as their bits."""
    return x.numpy() if x.dtype == torch.float32 else x.view(torch.uint16).numpy()


def segment_mean(
    x, labels, segments, *, aligned=False, offset=0, spare=0, at_once=7, sort_threads=64, threads=128, slots=2, seed=0
):
    n, width = x.shape
    stride = width + spare
    flat = torch.full((offset + n * stride,), float("nan"), dtype=x.dtype)
    flat[offset:].view(n, stride)[:, :width] = x
    means = torch.full((segments, width), float("nan"), dtype=x.dtype)
    counts = np.full(segments, -7, np.int64)
    dtype = str(x.dtype).removeprefix("torch.")
    layout = elements(flat), offset, stride, width
    launch = aligned, elements(means), counts
    dev.segment_mean(dtype, *layout, labels.numpy(), segments, *launch, at_once, sort_threads, threads, slots, seed)
    return means, torch.from_numpy(counts)


def check(x, labels, segments, **how):
    inside = torch.where((labels >= 0) & (labels < segments), labels, -1)
    expected_means, expected_counts = reference.segment_mean(x, inside, segments)
    for seed in SEEDS:
        means, counts = segment_mean(x, labels, segments, seed=seed, **how)
        assert torch.equal(bits(means), bits(expected_means))
        assert torch.equal(counts, expected_counts)


def bits(x):
    """The bits, so that even the sign of a zero counts."""
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width", "segments"), [(1, 1, 1), (5, 3, 2), (100, 17, 9), (64, 31, 200), (70, 130, 3)])
def test_any_shape(n, width, segments, dtype):
    x, labels = (torch.randn(n, width) * 10).to(dtype), torch.randint(-1, segments, (n,))
    check(x, labels, segments)
    check(x, labels, segments, offset=1, spare=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "width", "segments"), [(1, 8, 1), (60, 24, 7), (90, 1040, 2)])
def test_sixteen_byte_loads(n, width, segments, dtype):
    x, labels = (torch.randn(n, width) * 10).to(dtype), torch.randint(-1, segments, (n,))
    check(x, labels, segments, aligned=True)
    check(x, labels, segments, aligned=True, offset=8, spare=8)


@pytest.mark.parametrize("n", [31, 32, 33, 600])
@pytest.mark.parametrize(("at_once", "sort_threads"), [(4, 32), (2, 96), (3, 1024)])
def test_sort(n, at_once, sort_threads):
    """One column that tells the rows apart: powers of two whose order of addition shows in the sum."""
    x = torch.randn(n, 1) * 2.0 ** torch.randint(-20, 20, (n, 1))
    for labels in (torch.zeros(n, dtype=torch.int64), torch.randint(-1, 4, (n,)), torch.arange(n) % 3):
        check(x, labels, 4, at_once=at_once, sort_threads=sort_threads)


@pytest.mark.parametrize("sort_threads", [32, 96, 1024])
def test_more_segments_than_threads(sort_threads):
    check(torch.randn(150, 2), torch.randint(-1, 1100, (150,)), 1100, at_once=1100, sort_threads=sort_threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("width", "threads"), [(8, 128), (24, 160), (1048, 128)])
@pytest.mark.parametrize("slots", [1, 2])
def test_segments_of_many_rows(slots, width, threads, dtype):
    """64 rows are few, 65 and 500 are many: more than the stages hold; a third one shares a slot."""
    labels = torch.repeat_interleave(torch.arange(6), torch.tensor([500, 3, 65, 64, 1, 90]))[torch.randperm(723)]
    x = (torch.randn(723, width) * 2.0 ** torch.randint(-6, 7, (723, 1))).to(dtype)
    check(x, labels, 7, aligned=True, threads=threads, slots=slots)
    check(x, labels, 7, threads=threads, slots=slots)


def test_labels_out_of_range_belong_nowhere():
    labels = torch.tensor([0, 3, -1, 2**40, -5, 2, -(2**63), 2**32 + 1])
    check(torch.randn(8, 5), labels, 3)


def test_no_members_at_all():
    check(torch.randn(8, 5), torch.full((8,), -1), 3)


def test_rounding_between_half_values():
    for dtype in (torch.float16, torch.bfloat16):
        values = torch.arange(0, 2**15 - 1, 97, dtype=torch.int32).to(torch.int16).view(dtype)
        values = values[values.isfinite()]
        above = (values.view(torch.int16) + 1).view(dtype)
        rows = torch.stack([values, above])
        check(rows, torch.zeros(2, dtype=torch.int64), 1)


def test_nan_stays_in_its_segment():
    x = torch.randn(6, 4)
    x[2, 1] = float("nan")
    means, _ = segment_mean(x, torch.tensor([0, 0, 1, 1, 2, 2]), 3)
    assert means.isnan().nonzero().tolist() == [[1, 1]]
