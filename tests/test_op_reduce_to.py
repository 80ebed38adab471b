"""pact::reduce_to: `reduce` where the budget is what the clustering finds; below and above, the choice of centres by
the other operators' bits, and labels within a margin of float64."""

import math

import pytest
import torch
from certificate import DISTANCE_MARGIN, check_budget, own_distances
from data import DTYPES, adversarial, awkward_strides, with_margins
from data import reduction_inputs as inputs

from pact_ext import ops, reference
from pact_ext.reference import budget

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}
NAN = float("nan")


def moved(backend, tensors):
    return tuple(t.to(backend.device) for t in tensors)


def equal(ours, expected):
    return all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(ours, expected, strict=True))


def check(tensors, count, config, scores):
    """The invariants, for any data. Returns how many centres the plain clustering has."""
    hidden, _, _, cluster_keys = tensors
    merged, sizes, centers, labels = ops.reduce_to(*tensors, count, **config, scores=scores)
    n = len(hidden)
    count = min(n, count)
    assert merged.shape == (count, hidden.shape[1])
    assert merged.dtype == hidden.dtype
    assert sizes.shape == centers.shape == (count,)
    assert (centers.diff() > 0).all()
    assert torch.equal(labels[centers].cpu(), torch.arange(count)), "a centre is not in its own cluster"
    assert equal(ops.segment_mean(hidden, labels, count), (merged, sizes))

    m = max(reference.kept_count(n, config["prune_ratio"]), count)
    order = scores.sort(descending=True, stable=True).indices
    kept, dropped = order[:m].sort().values, order[m:].sort().values.cpu()
    chosen = torch.searchsorted(kept, centers)
    assert torch.equal(kept[chosen], centers), "a dropped token is a centre"
    found = check_budget(cluster_keys[kept], config["dc"], config["dn"], config["gaussian"], chosen)

    distance = reference.pairwise_distance(cluster_keys.cpu().double())[:, centers.cpu()]
    nearest, labels, limit = distance.min(dim=1).values, labels.cpu(), config["alpha"] * config["dc"]
    carried = distance.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    assert (labels[kept.cpu()] >= 0).all()
    joined = labels >= 0
    assert (carried[joined] <= nearest[joined] + DISTANCE_MARGIN).all(), "a nearer centre exists"
    assert (nearest[dropped][joined[dropped]] < limit + DISTANCE_MARGIN).all()
    assert (nearest[dropped][~joined[dropped]] >= limit - DISTANCE_MARGIN).all()
    return found


# n: one token; a tile of 128 kept tokens and one more; an odd size over two tiles of 192.
@pytest.mark.parametrize(
    ("n", "prune_ratio", "dtype"),
    [
        (1, 0.0, torch.float32),
        (129, 0.0, torch.float16),
        *((232, 0.45, dtype) for dtype in DTYPES),
        (257, 1.0, torch.bfloat16),
    ],
)
def test_invariants(backend, n, prune_ratio, dtype):
    tensors = inputs(n, dtype=dtype, device=backend.device)
    scores = torch.randperm(n).float().to(backend.device)
    config = {**CONFIG, "prune_ratio": prune_ratio}
    plain = len(ops.reduce(*tensors, **config, scores=scores)[2])
    for count in {1, (plain + 1) // 2, (plain + n) // 2, n - 1}:
        if count > 0:
            check(tensors, count, config, scores)


@pytest.mark.parametrize("prune_ratio", [0.0, 0.45])
def test_is_reduce_at_its_own_count(backend, prune_ratio):
    tensors = inputs(230, device=backend.device)
    config = {**CONFIG, "prune_ratio": prune_ratio}
    expected = ops.reduce(*tensors, **config)
    assert 1 < len(expected[2]) < reference.kept_count(230, prune_ratio)
    assert equal(ops.reduce_to(*tensors, len(expected[2]), **config), expected)


@pytest.mark.parametrize("count", [1, 5, 11, 12, 13, 50, 109, 110, 111, 199, 200, 1000])
def test_equals_the_reference_where_the_answer_is_beyond_doubt(backend, count):
    """12 centres of 110 kept tokens; clusters turned a little towards each other: the next nearest is clear, too."""
    hidden, keys, queries, _ = inputs(200)
    cluster_keys = with_margins(200) @ (torch.eye(64) + 0.03 * torch.randn(64, 64))
    config = {**CONFIG, "gaussian": False, "prune_ratio": 0.45}
    scores = torch.randperm(200).float()
    expected = reference.reduce_to(hidden, keys, queries, cluster_keys.double(), count, **config, scores=scores)
    ours = ops.reduce_to(
        *moved(backend, (hidden, keys, queries, cluster_keys)), count, **config, scores=scores.to(backend.device)
    )
    assert equal(ours, expected)


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_replay(backend, name):
    """Duplicates, zero vectors, ties in size, density and distance: by the operators' own bits, lower indices first."""
    cluster_keys = adversarial()[name].to(backend.device)
    n = len(cluster_keys)
    hidden, config = torch.randn(n, 3).to(backend.device), {**CONFIG, "prune_ratio": 0.0, "dc": 0.3}
    distance = own_distances(cluster_keys).cpu()
    rho = ops.density(cluster_keys, 2.0, gaussian=True).cpu()
    plain = reference.select_centers(distance, rho, 0.3)
    for count in {1, 2, max(1, len(plain) - 1), len(plain) + 1, n - 1, n}:
        _, _, centers, labels = ops.reduce_to(hidden, hidden, hidden, cluster_keys, max(1, count), **config)
        expected = budget.exact_centers(distance, rho, plain, min(n, max(1, count)))
        assert torch.equal(centers.cpu(), expected)
        expected_labels, _ = reference.nearest_center(distance, expected)
        expected_labels[expected] = torch.arange(len(expected))
        assert torch.equal(labels.cpu(), expected_labels)


def test_equal_tokens_that_are_centres_label_themselves(backend):
    """A token at distance 0 from a lower centre is a centre all the same, and what equals both joins the lower."""
    cluster_keys = torch.eye(2).repeat_interleave(4, dim=0).to(backend.device)
    hidden = torch.arange(8.0)[:, None].to(backend.device)
    _, sizes, centers, labels = ops.reduce_to(hidden, hidden, hidden, cluster_keys, 4, 0.0, 0.2, 2.0, 1.5)
    assert centers.tolist() == [0, 1, 2, 4]
    assert labels.tolist() == [0, 1, 2, 0, 3, 3, 3, 3]
    assert sizes.tolist() == [2, 1, 1, 4]


def test_dropped_tokens_join_within_alpha_dc_strictly(backend):
    """Kept tokens join at any distance, dropped ones only nearer than alpha * dc; here one lies at exactly that."""
    axes = torch.eye(3)
    cluster_keys = torch.stack([axes[0], axes[0], axes[1], axes[0], axes[1], axes[2]]).to(backend.device)
    hidden, scores = torch.ones(6, 1).to(backend.device), -torch.arange(6.0).to(backend.device)
    for alpha, last in [(2.0, [0, -1, -1]), (math.nextafter(2, 3), [0, 0, 0]), (0.0, [-1, -1, -1])]:
        result = ops.reduce_to(hidden, hidden, hidden, cluster_keys, 1, 0.6, 0.5, 2.0, alpha, scores=scores)
        assert result[2].tolist() == [0]
        assert result[3].tolist() == [0, 0, 0, *last]


@pytest.mark.parametrize("count", [40, 41])
def test_everything_comes_back_when_the_budget_allows(backend, count):
    tensors = inputs(40, device=backend.device)
    merged, sizes, centers, labels = ops.reduce_to(*tensors, count, **CONFIG)
    assert torch.equal(merged, tensors[0])
    assert sizes.tolist() == [1] * 40
    assert centers.tolist() == labels.tolist() == list(range(40))


def test_importance_splits_as_in_reduce(backend):
    """Without scores; and with a prune_ratio that would keep fewer than the budget."""
    tensors = inputs(150, device=backend.device)
    scores = ops.euti_scores(*tensors[:3], 3.0)
    for prune_ratio, count in [(0.45, 20), (1.0, 20)]:
        config = {**CONFIG, "prune_ratio": prune_ratio}
        ours = ops.reduce_to(*tensors, count, **config, scale=3.0)
        assert equal(ours, ops.reduce_to(*tensors, count, **config, scores=scores))
    assert ours[2].tolist() == scores.topk(20).indices.sort().values.tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_thread_count_and_stride(backend, threads, dtype):
    tensors = inputs(200, dtype=dtype, device=backend.device)
    for count in (15, 70):  # fewer and more than are found
        expected = ops.reduce_to(*tensors, count, **CONFIG)
        runs = [(number, tensors) for number in backend.thread_counts]
        for number, views in [*runs, *((2, views) for views in zip(*map(awkward_strides, tensors), strict=True))]:
            threads(number)
            assert equal(ops.reduce_to(*views, count, **CONFIG), expected)


@pytest.mark.only_in_data
@pytest.mark.parametrize("count", [2, 8])
@pytest.mark.parametrize("name", ["hidden", "keys", "queries", "cluster_keys", "scores"])
def test_nan_raises(backend, name, count):
    """Also where everything comes back, and the inputs would choose nothing."""
    arguments = dict(zip(("hidden", "keys", "queries", "cluster_keys"), inputs(8), strict=True))
    if name == "scores":
        arguments["scores"] = torch.ones(8)
    arguments[name] = arguments[name] * NAN
    with pytest.raises(RuntimeError, match=f"pact::reduce_to: {name} must be finite"):
        ops.reduce_to(**arguments, count=count, **CONFIG)


@pytest.mark.parametrize("where", ["one key", "all keys", "scores"])
def test_exactly_as_many_whatever_the_data(backend, where):
    """Without a look at the data: NaN ends in as many centres, and labels among them."""
    if backend.sees_data:
        pytest.skip("the CPU raises")
    hidden, keys, queries, cluster_keys = inputs(140, device=backend.device)
    scores = torch.randn(140).to(backend.device)
    {"one key": cluster_keys[17], "all keys": cluster_keys, "scores": scores}[where].fill_(NAN)
    for count in (3, 60, 139):
        _, sizes, centers, labels = ops.reduce_to(
            hidden, keys, queries, cluster_keys, count, 0.0, 0.21, 2.0, 1.5, scores=scores
        )
        assert (centers.diff() > 0).all()
        assert (centers >= 0).all()
        assert (centers < 140).all()
        assert torch.equal(labels[centers].cpu(), torch.arange(count))
        assert ((labels >= -1) & (labels < count)).all()
        assert sizes.sum() == (labels >= 0).sum()
