"""reduce_padded: each sequence as `reduce` leaves it, or as `reduce_to` where that is too much, in rows of its own."""

import pytest
import torch
from data import DTYPES, awkward_strides, packed

from pact_ext import ops, reference

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}
# Empty at both ends, one token, fewer tokens than there are rows, a tile and one more; one alone; nothing at all.
LENGTHS = [(0, 1, 40, 129, 7, 0), (230,), (0, 0), ()]


def check(found, tensors, bounds, capacity, alone, **numbers):
    """What each sequence has is what `alone(capacity, ...)` gives for it, and there is nothing behind it."""
    merged, sizes, centers, labels, counts = found
    places = (len(bounds) - 1, capacity)
    assert [tuple(x.shape) for x in found] == [(*places, tensors[0].shape[1]), places, places, labels.shape, places[:1]]
    assert [x.dtype for x in found] == [tensors[0].dtype, *[torch.int64] * 3, torch.int32]
    assert all(x.device == tensors[0].device for x in found)
    for b, (begin, end) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        c = int(counts[b])
        assert not merged[b, c:].any()
        assert not sizes[b, c:].any()
        assert (centers[b, c:] == -1).all()
        if begin == end:
            assert c == 0
            continue
        own = alone(*(x[begin:end] for x in tensors), **{**numbers, "scores": numbers["scores"][begin:end]})
        own_labels = torch.where(labels[begin:end] < 0, -1, labels[begin:end] - b * capacity)
        ours = (merged[b, :c], sizes[b, :c], centers[b, :c] - begin, own_labels)
        for i, (one, other) in enumerate(zip(ours, own, strict=True)):
            assert torch.equal(one, other), f"sequence {b}, result {i}"


@pytest.mark.parametrize("slack", [-7, -1, 0, 1, 300])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_as_each_alone(backend, lengths, slack):
    """At, above and below the largest number of clusters: below, the largest sequence has the ones of `reduce_to`."""
    tensors, bounds = packed(lengths, device=backend.device)
    scores = torch.rand(len(tensors[0])).to(backend.device)
    most = max(ops.reduce_packed(*tensors, bounds, **CONFIG, scores=scores)[-1].diff().tolist(), default=1)
    capacity = max(1, most + slack)
    found = ops.reduce_padded(*tensors, bounds, capacity, **CONFIG, scores=scores)

    def alone(*own, **numbers):
        reduced = ops.reduce(*own, **CONFIG, **numbers)
        return reduced if len(reduced[0]) <= capacity else ops.reduce_to(*own, capacity, **CONFIG, **numbers)

    check(found, tensors, bounds, capacity, alone, scores=scores)
    assert not slack or not lengths or (int(found[-1].max()) < most) == (capacity < most)


@pytest.mark.parametrize("capacity", [9, 60])
def test_reference(capacity):
    """In float64, and with numbers that leave no doubt."""
    tensors, bounds = packed((0, 1, 40, 0, 70))
    found = ops.reduce_padded(*tensors, bounds, capacity, **CONFIG)
    expected = reference.reduce_padded(*(x.double() for x in tensors), bounds, capacity, **CONFIG)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    tensors, bounds = packed((90, 3, 150, 0, 33), dtype, backend.device)
    expected = None
    runs = [(number, tensors) for number in backend.thread_counts]
    for number, views in [*runs, *((2, views) for views in zip(*map(awkward_strides, tensors), strict=True))]:
        threads(number)
        found = ops.reduce_padded(*views, bounds, 30, **CONFIG)
        expected = expected or found
        for ours, other in zip(found, expected, strict=True):
            assert torch.equal(ours, other)


@pytest.mark.parametrize("name", ["hidden", "keys", "queries", "cluster_keys"])
def test_nan_raises_on_the_cpu(name):
    tensors, bounds = packed((5, 8, 3))
    arguments = dict(zip(("hidden", "keys", "queries", "cluster_keys"), tensors, strict=True))
    arguments[name][9] = float("nan")
    with pytest.raises(RuntimeError, match=f"pact::reduce_padded: {name} must be finite"):
        ops.reduce_padded(**arguments, cu_seqlens=bounds, capacity=3, **CONFIG)
