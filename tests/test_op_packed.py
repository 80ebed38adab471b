"""The packed operators: each sequence with the bits it has alone, whatever stands beside it."""

import pytest
import torch
from data import DTYPES, awkward_strides, packed

from pact_ext import ops, reference

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}
NAMES = ("hidden", "keys", "queries", "cluster_keys")
# Empty at both ends and in the middle, one token, a tile of 128 and one more; one alone; several that are alike; one
# longer than all others together, which keeps all the CPU's threads busy; nothing but empty ones; not even those.
LENGTHS = [(0, 1, 40, 0, 0, 129, 40, 7, 0), (230,), (11, 11, 11), (300, 2, 5, 9), (0, 0), ()]
sequences = pytest.mark.parametrize("lengths", LENGTHS, ids=str)


def check_same(found, alone, cu_seqlens, *before):
    """`alone(b, rows)`: what the operator gives for one sequence."""
    expected = reference.number_through(cu_seqlens, alone, *before)
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), f"result {i}"
        assert torch.equal(ours.cpu(), theirs.cpu()), f"result {i}"
    assert found[-1].device.type == "cpu"


@pytest.mark.parametrize("scored", [False, True])
@sequences
def test_reduce(backend, lengths, scored):
    tensors, bounds = packed(lengths, device=backend.device)
    scores = torch.rand(len(tensors[0])).to(backend.device) if scored else None
    found = ops.reduce_packed(*tensors, bounds, **CONFIG, scores=scores)

    def alone(b, rows):
        return ops.reduce(*(x[rows] for x in tensors), **CONFIG, scores=scores[rows] if scored else None)

    check_same(found, alone, bounds, tensors[0][:0], found[1][:0])


@pytest.mark.parametrize("scored", [False, True])
@sequences
def test_reduce_to(backend, lengths, scored):
    """Budgets below what the clustering finds, above it, and beyond all there are."""
    tensors, bounds = packed(lengths, device=backend.device)
    scores = torch.rand(len(tensors[0])).to(backend.device) if scored else None
    counts = torch.tensor([[3, 17, 1000][b % 3] for b in range(len(lengths))], dtype=torch.int32)
    found = ops.reduce_to_packed(*tensors, bounds, counts, **CONFIG, scores=scores)

    def alone(b, rows):
        own = scores[rows] if scored else None
        return ops.reduce_to(*(x[rows] for x in tensors), int(counts[b]), **CONFIG, scores=own)

    check_same(found, alone, bounds, tensors[0][:0], found[1][:0])


@sequences
def test_dbdpc(backend, lengths):
    (*_, keys), bounds = packed(lengths, device=backend.device)
    found = ops.dbdpc_packed(keys, bounds, 0.21, 2.0)
    check_same(found, lambda b, rows: ops.dbdpc(keys[rows], 0.21, 2.0), bounds)


@sequences
def test_euti_scores(backend, lengths):
    tensors, bounds = packed(lengths, device=backend.device)
    found = ops.euti_scores_packed(*tensors[:3], bounds, 0.5)
    assert found.shape == (len(tensors[0]),)
    for begin, length in zip(bounds.tolist(), lengths, strict=False):
        if length:
            own = (x[begin : begin + length] for x in tensors[:3])
            assert torch.equal(found[begin : begin + length], ops.euti_scores(*own, 0.5))


@pytest.mark.parametrize("op", ["dbdpc_packed", "euti_scores_packed", "reduce_packed", "reduce_to_packed"])
def test_reference(op):
    """The reference's own packing, in float64 and with numbers that leave no doubt."""
    (hidden, keys, queries, cluster_keys), bounds = packed((0, 1, 40, 0, 70))
    numbers = {"dc": 0.21, "dn": 2.0}
    tensors = {"hidden": hidden, "keys": keys, "queries": queries}
    if op == "dbdpc_packed":
        tensors = {"keys": cluster_keys}
    elif op == "euti_scores_packed":
        numbers = {}
    else:
        tensors["cluster_keys"], numbers = cluster_keys, {**CONFIG}
    numbers |= {"counts": torch.tensor([3, 3, 9, 3, 80], dtype=torch.int32)} if op == "reduce_to_packed" else {}
    found = getattr(ops, op)(**tensors, cu_seqlens=bounds, **numbers)
    expected = getattr(reference, op)(**{name: x.double() for name, x in tensors.items()}, cu_seqlens=bounds, **numbers)
    found, expected = ((x,) if isinstance(x, torch.Tensor) else x for x in (found, expected))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    tensors, bounds = packed((90, 3, 150, 0, 33), dtype, backend.device)
    counts = torch.tensor([11, 2, 60, 1, 7], dtype=torch.int32)
    expected = None
    runs = [(number, tensors, bounds, counts) for number in backend.thread_counts]
    apart = [x.repeat_interleave(2)[::2] for x in (bounds, counts)]
    for number, views, *numbers in [*runs, *((2, v, *apart) for v in zip(*map(awkward_strides, tensors), strict=True))]:
        threads(number)
        found = *ops.reduce_packed(*views, numbers[0], **CONFIG), *ops.reduce_to_packed(*views, *numbers, **CONFIG)
        expected = expected or found
        for ours, other in zip(found, expected, strict=True):
            assert torch.equal(ours, other)


def test_many_sequences(backend):
    """More bounds than the arguments of a kernel hold, and most of them of sequences without rows."""
    lengths = [b % 40 // 38 for b in range(1000)]
    tensors, bounds = packed(lengths, device=backend.device)
    counts = torch.ones(len(lengths), dtype=torch.int32)
    *_, centers, labels, cu_centers = ops.reduce_to_packed(*tensors, bounds, counts, **CONFIG)
    assert cu_centers.diff().tolist() == lengths
    assert centers.tolist() == labels.tolist() == list(range(sum(lengths)))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cu_seqlens", [1, 4], "must begin with 0, got 1"),
        ("cu_seqlens", [0, 3, 2, 4], "must not descend, as it does after 3, got 2"),
        ("cu_seqlens", [0, 3], "must end with the rows of hidden, 4, got 3"),
        ("cu_seqlens", [0], "must end with the rows of hidden, 4, got 0"),
        ("cu_seqlens", [0, -(2**31), 4], "must not descend, as it does after 0, got -2147483648"),
        ("counts", [1, 0], "must be at least 1 for every sequence, got 0"),
    ],
)
def test_numbers_that_are_no_sequences(backend, name, value, message):
    tensors, _ = packed((4,), device=backend.device)
    numbers = {"cu_seqlens": torch.tensor([0, 2, 4], dtype=torch.int32), "counts": torch.tensor([1, 1]).int()}
    numbers[name] = torch.tensor(value, dtype=torch.int32)
    numbers["counts"] = numbers["counts"] if name == "counts" else torch.ones(len(value) - 1, dtype=torch.int32)
    with pytest.raises(RuntimeError) as caught:
        ops.reduce_to_packed(*tensors, **numbers, **CONFIG)
    assert str(caught.value) == f"pact::reduce_to_packed: {name} {message}"


def test_nan_of_one_sequence_raises(backend):
    for op in ("reduce_packed", "dbdpc_packed"):  # `reduce_to_packed` does not wait for a card to look
        for name in NAMES if op == "reduce_packed" else ("keys",):
            tensors, bounds = packed((5, 8, 3), device=backend.device)
            arguments = dict(zip(NAMES, tensors, strict=True)) if op == "reduce_packed" else {"keys": tensors[3]}
            arguments[name][9] = float("nan")
            config = CONFIG if op == "reduce_packed" else {"dc": 0.2, "dn": 2.0}
            with pytest.raises(RuntimeError, match=f"pact::{op}: {name} must be finite"):
                getattr(ops, op)(**arguments, cu_seqlens=bounds, **config)
