"""The oracle against values worked out by hand, and the certificate against wrong answers."""

import math

import pytest
import torch
from certificate import check_clustering, check_dpp_select, check_farthest_points
from data import clustered

from pact_ext import reference as ref


def test_euti_by_hand():
    hidden = torch.tensor([[3.0, 4.0], [0.0, 2.0]], dtype=torch.float64)  # norms 5 and 2
    keys = torch.tensor([[[1.0]], [[0.0]]], dtype=torch.float64)
    queries = torch.tensor([[[1.0], [4.0]], [[3.0], [0.0]]], dtype=torch.float64)  # means 2 and 2, two heads
    weight = math.exp(2) / (math.exp(2) + 1)
    expected = torch.tensor([5 * weight, 2 * (1 - weight)], dtype=torch.float64)
    torch.testing.assert_close(ref.euti_scores(hidden, keys, queries, scale=1.0), expected)


def test_euti_default_scale_is_one_over_sqrt_head_size():
    hidden, keys, queries = torch.randn(9, 5), torch.randn(9, 2, 16), torch.randn(9, 4, 16)
    torch.testing.assert_close(
        ref.euti_scores(hidden, keys, queries), ref.euti_scores(hidden, keys, queries, scale=0.25)
    )


def test_received_attention_by_hand():
    """Logits log 1, log 2, log 3 in every row: shares 1; 1/3, 2/3; 1/6, 2/6, 3/6. A second head sees all keys alike."""
    keys = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).log()[:, None, None]
    queries = torch.ones(3, 1, 1, dtype=torch.float64)
    received = ref.received_attention(queries, keys, scale=1.0)
    assert received.tolist() == pytest.approx([(1 + 1 / 3 + 1 / 6) / 3, (2 / 3 + 1 / 3) / 3, 1 / 2 / 3])
    heads = torch.cat([queries, 0 * queries], dim=1)
    received = ref.received_attention(heads, keys, rows=torch.tensor([2, 2]), scale=1.0)
    assert received.tolist() == pytest.approx([(1 / 6 + 1 / 3) / 2, 1 / 3, (1 / 2 + 1 / 3) / 2])
    received = ref.received_attention(queries[:1], keys, first=1, scale=1.0)
    assert received.tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    received = ref.received_attention(queries[:1], keys, first=0, causal=False, scale=2.0)
    assert received.tolist() == pytest.approx([1 / 14, 4 / 14, 9 / 14])


@pytest.mark.parametrize("prune_ratio", [0.0, 0.1, 0.45, 0.5, 0.999, 1.0])
def test_split_is_the_quantile_of_eq_3(prune_ratio):
    scores = torch.rand(57, dtype=torch.float64)
    kept, dropped = ref.split(scores, prune_ratio)
    threshold = torch.quantile(scores, prune_ratio, interpolation="linear")
    assert torch.equal(kept, (scores >= threshold - 1e-12).nonzero().flatten())
    assert torch.equal(torch.cat([kept, dropped]).sort().values, torch.arange(57))


def test_split_breaks_ties_by_lower_index():
    kept, dropped = ref.split(torch.tensor([1.0, 2.0, 1.0, 1.0]), 0.5)
    assert kept.tolist() == [0, 1]
    assert dropped.tolist() == [2, 3]


def test_distance_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    d = ref.pairwise_distance(keys)
    assert d[0].tolist() == pytest.approx([0, 1, 2, 1 - math.sqrt(0.5), 1, 1])
    assert (d.diagonal() == 0).all()
    assert d[4, 5] == 1  # a zero vector is near nothing but itself


def test_density_by_hand():
    d = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert ref.density_from_distance(d, 2.0).tolist() == pytest.approx([1 + math.exp(-0.5)] * 2)
    assert ref.density_from_distance(d, 2.0, gaussian=True).tolist() == pytest.approx([1 + math.exp(-0.25)] * 2)


def test_greedy_by_hand():
    """A chain 0 - 1 - 2 within dc of its neighbours only: the densest first, and its neighbours are covered."""
    distance = torch.tensor([[0.0, 0.25, 0.6], [0.25, 0.0, 0.5], [0.6, 0.5, 0.0]])
    rho = torch.tensor([1.0, 2.0, 3.0])
    assert ref.select_centers(distance, rho, dc=0.55).tolist() == [0, 2]
    assert ref.nearest_center(distance, torch.tensor([0, 2]))[0].tolist() == [0, 0, 1]
    assert ref.select_centers(distance, rho, dc=0.5).tolist() == [0, 2]  # exactly dc apart is within dc
    assert ref.select_centers(distance, rho, dc=0.4).tolist() == [1, 2]  # 1 comes before 0, and covers it
    assert ref.select_centers(distance, torch.ones(3), dc=0.4).tolist() == [0, 2]  # ties: the lower index first


def test_reduce_by_hand():
    """Two directions; the weakest token is dropped, and joins the cluster it points along, or none."""
    hidden = torch.tensor([[2.0, 0.0], [4.0, 0.0], [0.0, 6.0], [0.0, 1.0]])
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.0, 1.0]])
    scores = torch.tensor([3.0, 2.0, 4.0, 1.0])
    merged, sizes, centers, labels = ref.reduce(hidden, keys, keys, keys, 0.33, 0.1, 2.0, 1.5, scores=scores)
    assert centers.tolist() == [0, 2] or centers.tolist() == [1, 2]
    assert labels.tolist() == [0, 0, 1, 1]
    assert sizes.tolist() == [2, 2]
    assert merged.tolist() == [[3.0, 0.0], [0.0, 3.5]]
    _, _, _, labels = ref.reduce(hidden, keys, keys, keys, 0.33, 0.1, 2.0, 0.0, scores=scores)
    assert labels.tolist() == [0, 0, 1, -1]


def test_positions_and_log_sizes():
    centers = torch.tensor([1, 3])
    assert ref.merged_position_ids(torch.arange(10, 14), centers).tolist() == [11, 13]
    assert ref.merged_position_ids(torch.arange(12).view(3, 4), centers).tolist() == [[1, 3], [5, 7], [9, 11]]
    assert ref.log_sizes(torch.tensor([1, 2])).tolist() == pytest.approx([0, math.log(2)])


def test_farthest_points_by_hand():
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])  # at 0, 90, 180 and 45 degrees
    assert ref.farthest_points(keys, 4).tolist() == [0, 2, 1, 3]
    assert ref.farthest_points(keys, 4, first=3).tolist() == [3, 2, 0, 1]  # 0 and 1 are equally far: the lower first
    assert ref.farthest_points(torch.ones(3, 2), 3).tolist() == [0, 1, 2]


def test_dpp_select_by_hand():
    keys = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]], dtype=torch.float64)
    # 1 is more relevant than 2, but after 0 it gains 0.81 * (1 - 1 / 1.01) only.
    assert ref.dpp_select(keys, torch.tensor([1.0, 0.9, 0.5]), 3).tolist() == [0, 2, 1]
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    # Two directions: by magnitude. Then no gain is left: by relevance, with its sign.
    assert ref.dpp_select(keys, torch.tensor([1.0, -2.0, -0.5, 0.25]), 4).tolist() == [1, 0, 3, 2]
    assert ref.dpp_select(keys, torch.zeros(4), 4).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("spoil", ["extra center", "missing center", "wrong label", "wrong order"])
def test_certificate_rejects_wrong_answers(spoil):
    keys, dc, dn = clustered(80, 16), 0.3, 0.5
    centers, labels = ref.dbdpc(keys.double(), dc, dn)
    check_clustering(keys, dc, dn, False, centers, labels)
    distance = ref.pairwise_distance(keys.double())
    if spoil == "extra center":
        other = next(i for i in range(80) if i not in centers.tolist())
        centers = torch.cat([centers, torch.tensor([other])]).sort().values
        labels = ref.nearest_center(distance, centers)[0]
    elif spoil == "missing center":
        centers = centers[1:]
        labels = ref.nearest_center(distance, centers)[0]
    elif spoil == "wrong label":
        labels = labels.clone()
        labels[next(i for i in range(80) if i not in centers.tolist())] += 1
        labels %= centers.shape[0]
    else:
        centers = ref.select_centers(distance, -ref.density(keys.double(), dn), dc)
        labels = ref.nearest_center(distance, centers)[0]
    with pytest.raises(AssertionError):
        check_clustering(keys, dc, dn, False, centers, labels)


@pytest.mark.parametrize("spoil", [[1, 0, 2, 3, 4, 5], [0, 1, 2, 4, 3, 5], [0, 1, 2, 3, 5, 4], [0, 1, 2, 3, 4, 4]])
def test_certificates_reject_wrong_selections(spoil):
    keys = torch.randn(50, 4)
    chosen = ref.farthest_points(keys.double(), 6)
    check_farthest_points(keys, 6, None, chosen)
    with pytest.raises(AssertionError):
        check_farthest_points(keys, 6, None, chosen[spoil])
    # Four directions by their gain; of the others, beyond doubt none is left.
    keys, relevance = torch.eye(4).repeat(9, 1), torch.tensor([1.0, 0.9, 0.8, 0.7, *torch.rand(32) / 4])
    chosen = ref.dpp_select(keys.double(), relevance, 6)
    check_dpp_select(keys, relevance, 6, chosen)
    with pytest.raises(AssertionError):
        check_dpp_select(keys, relevance, 6, chosen[spoil])


def test_nearest_denser_by_hand():
    """Angles 0, 90, 30 and 180 degrees; tokens 0 and 2 are equally dense, so 0 is the first of all."""
    half = math.sqrt(0.75)
    keys = torch.tensor([[1, 0], [0, 1], [half, 0.5], [-1, 0]], dtype=torch.float64)
    distances, indices = ref.nearest_denser(keys, torch.tensor([2.0, -1.0, 2.0, 0.0]))
    assert indices.tolist() == [-1, 2, 0, 2]
    assert distances.tolist() == pytest.approx([2, 0.5, 1 - half, 1 + half])


@pytest.mark.parametrize(
    ("count", "centers", "labels"),
    [
        (1, [1], [0, 0, 0, 0, 0, -1]),  # the larger cluster stays; what was dropped is too far
        (2, [1, 3], [0, 0, 0, 1, 1, 1]),  # as found
        (3, [0, 1, 3], [0, 1, 1, 2, 2, 2]),  # token 0 is farthest from its centre
        (4, [0, 1, 2, 3], [0, 1, 2, 3, 3, 3]),  # then token 2; token 4 equals its centre
        (6, [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]),
    ],
)
def test_reduce_to_by_hand(count, centers, labels):
    """Two clusters: 0, 20 and 35 degrees around token 1; 90 degrees twice, and once more as a token that is dropped."""
    degrees = torch.tensor([0, 20, 35, 90, 90, 90], dtype=torch.float64).deg2rad()
    keys = torch.stack([degrees.cos(), degrees.sin()], dim=1)
    hidden = torch.arange(6, dtype=torch.float64)[:, None]
    scores = -torch.arange(6.0)
    result = ref.reduce_to(hidden, keys, keys, keys, count, 0.2, 0.2, 0.05, 1.5, scores=scores)
    assert result[2].tolist() == centers
    assert result[3].tolist() == labels
    assert result[1].tolist() == [labels.count(c) for c in range(count)]
