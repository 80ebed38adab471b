"""pact::reduce: the pipeline against the reference, against its own parts, and what a Reduction promises."""

import math

import pytest
import torch
from certificate import check_clustering, reduction_of_parts
from data import DTYPES, awkward_strides, with_margins
from data import reduction_inputs as inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 2, 3, 50, 193, 400])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.45, 1.0])
def test_equals_its_parts_bit_for_bit(backend, dtype, n, prune_ratio):
    tensors = inputs(n, dtype=dtype, device=backend.device)
    config = {**CONFIG, "prune_ratio": prune_ratio}
    for ours, expected in zip(ops.reduce(*tensors, **config), reduction_of_parts(*tensors, **config), strict=True):
        assert ours.dtype == expected.dtype
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("n", [1, 200, 390])
@pytest.mark.parametrize("prune_ratio", [0.0, 0.3, 0.6])
def test_equals_the_reference_where_the_answer_is_beyond_doubt(backend, n, prune_ratio):
    hidden, keys, queries, _ = inputs(n)
    cluster_keys, scores = with_margins(n), torch.randperm(n).float() + 1
    config = {**CONFIG, "prune_ratio": prune_ratio, "gaussian": False, "scores": scores}
    expected = reference.reduce(hidden, keys, queries, cluster_keys.double(), **config)
    config["scores"] = scores.to(backend.device)
    moved = (t.to(backend.device) for t in (hidden, keys, queries, cluster_keys))
    for ours, other in zip(ops.reduce(*moved, **config), expected, strict=True):
        assert torch.equal(ours.cpu(), other)


def test_llava_onevision_shapes():
    """On the best instruction set alone: the certificate costs more than the operator."""
    n = 2880
    tensors = inputs(n, 3584, 4, 28, 128, torch.bfloat16)
    hidden, _, _, cluster_keys = tensors
    merged, sizes, centers, labels = ops.reduce(*tensors, **CONFIG)
    kept, dropped = reference.split(ops.euti_scores(*tensors[:3]), 0.45)
    assert kept.shape[0] == n - math.ceil(0.45 * (n - 1))
    local = torch.searchsorted(kept, centers)
    assert torch.equal(kept[local], centers)
    check_clustering(cluster_keys[kept], 0.21, 2.0, True, local, labels[kept])

    assert sizes.sum() == (labels >= 0).sum()
    distance = reference.pairwise_distance(cluster_keys.cpu().double())[:, centers.cpu()].min(dim=1).values
    recovered = (labels[dropped] >= 0).cpu()
    assert (distance[dropped.cpu()][recovered] < 1.5 * 0.21 + 2e-6).all()
    assert (distance[dropped.cpu()][~recovered] >= 1.5 * 0.21 - 2e-6).all()
    assert torch.equal(merged, ops.segment_mean(hidden, labels, centers.shape[0])[0])


@given(
    st.integers(1, 90),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.2, 1.0, 2.0]),
    st.floats(0, 3),
    st.sampled_from(DTYPES),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_any_parameters(n, prune_ratio, dc, alpha, dtype, seed):
    torch.manual_seed(seed)
    tensors = inputs(n, dtype=dtype)
    config = {"prune_ratio": prune_ratio, "dc": dc, "dn": 0.7, "alpha": alpha, "gaussian": False}
    for ours, expected in zip(ops.reduce(*tensors, **config), reduction_of_parts(*tensors, **config), strict=True):
        assert torch.equal(ours, expected)


def test_scores_replace_euti(backend):
    tensors = inputs(60, device=backend.device)
    scores = torch.arange(60.0).to(backend.device)
    _, _, centers, labels = ops.reduce(*tensors, **{**CONFIG, "alpha": 0.0}, scores=scores)
    assert (labels[: math.ceil(0.45 * 59)] == -1).all()
    assert (centers >= math.ceil(0.45 * 59)).all()


def test_tied_scores_keep_the_lower_index(backend):
    tensors = inputs(60, device=backend.device)
    labels = ops.reduce(*tensors, 0.5, 0.21, 2.0, 0.0, scores=torch.ones(60).to(backend.device))[3]
    m = 60 - math.ceil(0.5 * 59)
    assert (labels[:m] >= 0).all()
    assert (labels[m:] == -1).all()


def test_scale_reaches_the_scores(backend):
    tensors = inputs(200, device=backend.device)
    ours = ops.reduce(*tensors, **CONFIG, scale=3.0)
    given = ops.reduce(*tensors, **CONFIG, scores=ops.euti_scores(*tensors[:3], 3.0))
    assert torch.equal(ours[3], given[3])
    assert not torch.equal(ours[3], ops.reduce(*tensors, **CONFIG)[3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    # Three rows of tiles for the threads to share; elsewhere two.
    tensors = inputs(400 if backend.sees_data else 200, dtype=dtype, device=backend.device)
    expected = ops.reduce(*tensors, **CONFIG)
    runs = [(count, tensors) for count in backend.thread_counts]
    for count, views in [*runs, *((2, views) for views in zip(*map(awkward_strides, tensors), strict=True))]:
        threads(count)
        for ours, other in zip(ops.reduce(*views, **CONFIG), expected, strict=True):
            assert torch.equal(ours, other)


H, K, Q, U = inputs(8)
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.full((8,), NAN)}, "pact::reduce: scores must be finite"),
        ({"hidden": H * NAN}, "pact::reduce: hidden must be finite"),
        ({"keys": K * NAN, "scores": torch.ones(8)}, "pact::reduce: keys must be finite"),
        ({"queries": Q * NAN}, "pact::reduce: queries must be finite"),
        ({"cluster_keys": U * float("inf")}, "pact::reduce: cluster_keys must be finite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_nan_and_inf_raise(backend, change, message):
    arguments = {"hidden": H, "keys": K, "queries": Q, "cluster_keys": U, **CONFIG, **change}
    moved = {k: v.to(backend.device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    with pytest.raises(RuntimeError, match=message):
        ops.reduce(**moved)
