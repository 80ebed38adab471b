"""The packed operators: each sequence with the bits it has alone, whatever stands beside it."""

import pytest
import torch
from data import DTYPES, awkward_strides
from data import reduction_inputs as inputs

from pact_ext import ops

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}
# Empty at both ends and in the middle; one token; one tile of 128 and a token; several that are alike; one much longer
# than all others, which the CPU's threads then share.
LENGTHS = [(0, 1, 40, 0, 0, 129, 40, 7, 0), (230,), (11, 11, 11), (300, 2, 5, 9), (0, 0), ()]


def packed(lengths, dtype=torch.float32, device="cpu"):
    """hidden, keys, queries, cluster_keys, and where each sequence begins."""
    parts = list(zip(*(inputs(n, dtype=dtype) for n in lengths if n), strict=True))
    parts = parts or [[x[:0]] for x in inputs(1, dtype=dtype)]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return [torch.cat(list(part)).to(device) for part in parts], bounds


def budgets(lengths):
    """Below what the clustering finds, above it, and beyond all there are."""
    return torch.tensor([[3, 17, 1000][b % 3] for b in range(len(lengths))], dtype=torch.int32)


def one_by_one(run, tensors, bounds):
    """What run(tensors of sequence b, b) gives, numbered through: ``(rows that go with c..., centers, labels)``."""
    parts, first, count = [], bounds.tolist(), [0]
    for b, (begin, end) in enumerate(zip(first, first[1:], strict=False)):
        if begin == end:
            count.append(count[-1])
            continue
        *rows, centers, labels = run([x[begin:end] for x in tensors], b)
        parts.append((*rows, centers + begin, torch.where(labels < 0, -1, labels + count[-1])))
        count.append(count[-1] + len(centers))
    return parts, torch.tensor(count, dtype=torch.int32)


def check_same(found, parts, count):
    *found, cu_centers = found
    assert torch.equal(cu_centers, count)
    assert cu_centers.device.type == "cpu"
    for i, ours in enumerate(found):
        expected = torch.cat([part[i] for part in parts]) if parts else ours[:0]
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected), f"result {i}"


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_reduce(backend, lengths, scored):
    tensors, bounds = packed(lengths, device=backend.device)
    scores = torch.rand(len(tensors[0])).to(backend.device)
    chosen = {"scores": scores} if scored else {}
    found = ops.reduce_packed(*tensors, bounds, **CONFIG, **chosen)

    def alone(own, b):
        given = {"scores": own[4]} if scored else {}
        return ops.reduce(*own[:4], **CONFIG, **given)

    check_same(found, *one_by_one(alone, [*tensors, scores], bounds))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_reduce_to(backend, lengths):
    tensors, bounds = packed(lengths, device=backend.device)
    counts = budgets(lengths)
    found = ops.reduce_to_packed(*tensors, bounds, counts, **CONFIG)
    check_same(
        found, *one_by_one(lambda own, b: ops.reduce_to(*own, int(counts[b]), **CONFIG), tensors, bounds)
    )


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_dbdpc(backend, lengths):
    (*_, keys), bounds = packed(lengths, device=backend.device)
    found = ops.dbdpc_packed(keys, bounds, 0.21, 2.0)
    check_same(found, *one_by_one(lambda own, b: ops.dbdpc(*own, 0.21, 2.0), [keys], bounds))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_euti_scores(backend, lengths):
    tensors, bounds = packed(lengths, device=backend.device)
    found = ops.euti_scores_packed(*tensors[:3], bounds, 0.5)
    first = bounds.tolist()
    parts = [
        ops.euti_scores(*(x[begin:end] for x in tensors[:3]), 0.5)
        for begin, end in zip(first, first[1:], strict=False)
        if begin < end
    ]
    assert torch.equal(found, torch.cat(parts) if parts else found[:0])
    assert found.shape == (len(tensors[0]),)


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    tensors, bounds = packed((90, 3, 150, 0, 33), dtype, backend.device)
    counts = torch.tensor([11, 2, 60, 1, 7], dtype=torch.int32)
    calls = {
        "reduce": lambda views, at: ops.reduce_packed(*views, at, **CONFIG),
        "reduce_to": lambda views, at: ops.reduce_to_packed(*views, at, counts, **CONFIG),
    }
    every_other = bounds.repeat_interleave(2)[::2]
    for name, call in calls.items():
        expected = call(tensors, bounds)
        runs = [(number, tensors) for number in backend.thread_counts]
        for number, views in [*runs, *((2, views) for views in zip(*map(awkward_strides, tensors), strict=True))]:
            threads(number)
            for ours, other in zip(call(views, every_other), expected, strict=True):
                assert torch.equal(ours, other), name


def test_many_short_sequences(backend):
    """More bounds than the arguments of a kernel hold, and most of them of sequences without rows."""
    lengths = [b % 40 // 38 for b in range(1000)]
    tensors, bounds = packed(lengths, device=backend.device)
    counts = torch.ones(len(lengths), dtype=torch.int32)
    *_, centers, labels, cu_centers = ops.reduce_to_packed(*tensors, bounds, counts, **CONFIG)
    assert torch.equal(cu_centers.diff(), torch.tensor(lengths, dtype=torch.int32).clamp(max=1))
    assert labels[centers].tolist() == list(range(len(centers)))


@pytest.mark.only_in_data
@pytest.mark.parametrize("name", ["hidden", "keys", "queries", "cluster_keys"])
def test_nan_of_one_sequence_raises(backend, name):
    tensors, bounds = packed((5, 8, 3))
    arguments = dict(zip(("hidden", "keys", "queries", "cluster_keys"), tensors, strict=True))
    arguments[name][9] = float("nan")
    with pytest.raises(RuntimeError, match=f"pact::reduce_packed: {name} must be finite"):
        ops.reduce_packed(**arguments, cu_seqlens=bounds, **CONFIG)
