"""The methods that cluster keys and merge: held to references written from the papers."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import pact_ext
from methods import references_clustering as references
from pact_ext import reference
from pact_ext.methods import DBSCAN, DPC, Agglomerative, KMeans, Pact, ToMe, View, facts, parse
from pact_ext.methods.agglomerative import joined

KEEPING = [KMeans, DPC, Agglomerative]
LINKAGES = ("single", "average", "complete")


def tokens(n: int, seed: int = 0, *, clumps: int = 5, spread: float = 0.4, dtype=torch.float32, heads: int = 2):
    """Hidden states ``[n, 10]``, and keys ``[n, heads, 6]`` in clumps of which some are tight."""
    generator = torch.Generator().manual_seed(1000 * n + seed)
    centers = torch.randn(clumps, heads, 6, generator=generator, dtype=torch.float64)
    at = torch.randint(clumps, (n,), generator=generator)
    noise = torch.randn(n, heads, 6, generator=generator, dtype=torch.float64)
    scale = 1 + torch.rand(n, 1, 1, generator=generator, dtype=torch.float64)
    keys = scale * (centers[at] + spread * (1 + at % 3)[:, None, None] / 2 * noise)
    hidden = torch.randn(n, 10, generator=generator, dtype=torch.float64)
    return hidden.to(dtype), keys.to(dtype)


def view_of(hidden, keys, **parts) -> View:
    return View(hidden, needs=frozenset({"turned_keys", "layers"}), turned_keys=keys, **{"layers": 28, **parts})


def expected_clusters(method, keys, n_first=None, layer=0):
    n = len(keys)
    if isinstance(method, DBSCAN):
        return references.dbscan(keys, method.eps, method.min_samples)
    if isinstance(method, ToMe):
        return references.tome(keys, method.merges(n, n_first or n, layer, 28), method.heads == "joined")
    count = method.count(n)
    if isinstance(method, Agglomerative):
        return references.agglomerative(keys, count, method.linkage)
    if isinstance(method, DPC):
        return references.dpc(keys, count, method.dn, method.gaussian)
    start = torch.randperm(n, generator=torch.Generator().manual_seed(method.seed))[:count].tolist()
    return references.kmeans(keys, count, start, method.iterations)


def check(method, hidden, keys, *, sizes=None, tolerance=1e-5, **expected):
    selection = method.select(view_of(hidden, keys, sizes=sizes))
    own = [1] * len(hidden) if sizes is None else sizes.tolist()
    kept, labels, means, totals = references.mean_of(expected_clusters(method, keys, **expected), hidden, own)
    assert selection.kept.tolist() == kept
    if selection.labels is None:  # nothing was merged
        assert labels == list(range(len(hidden)))
        return selection
    assert selection.labels.tolist() == labels
    assert selection.sizes.tolist() == totals
    assert selection.hidden.dtype == hidden.dtype
    assert (selection.hidden.double() - means).abs().max() <= tolerance
    return selection


METHODS = [
    KMeans(keep=0.4),
    KMeans(keep=3, seed=5),
    KMeans(keep=0.2, iterations=1),
    DPC(keep=0.4),
    DPC(keep=5, dn=0.3, gaussian=False),
    DBSCAN(eps=0.1, min_samples=3),
    DBSCAN(eps=0.3),
    DBSCAN(eps=0.02, min_samples=1),
    *(Agglomerative(keep=0.3, linkage=linkage) for linkage in LINKAGES),
    ToMe(r=4),
    ToMe(r=7, heads="joined"),
    ToMe(r=1000),
    ToMe(keep=0.25),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_the_paper_says_the_same(method, dtype):
    for n in (1, 2, 3, 17, 29):
        check(method, *tokens(n, dtype=dtype))
    check(method, *tokens(25, seed=1, clumps=3, spread=1.0, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_half_precision_is_computed_in_single(method, dtype):
    hidden, keys = tokens(31, seed=2, dtype=dtype)
    check(method, hidden, keys, tolerance=4 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("method", [cls(keep=1) for cls in KEEPING], ids=str)
def test_a_single_token_is_the_mean_of_all(method):
    hidden, keys = tokens(19)
    selection = check(method, hidden, keys)
    assert selection.sizes.tolist() == [19]
    assert (selection.hidden[0] - hidden.mean(0)).abs().max() < 1e-6


@pytest.mark.parametrize("keep", [1.0, 13, 50])
@pytest.mark.parametrize("cls", KEEPING)
def test_keeping_everything_changes_nothing(cls, keep):
    hidden, keys = tokens(13)
    keys[4] = keys[2]
    selection = cls(keep=keep).select(view_of(hidden, keys))
    assert selection.kept.tolist() == list(range(13))
    assert selection.hidden is selection.labels is selection.sizes is None


@pytest.mark.parametrize("method", [ToMe(keep=1.0), ToMe(r=0), DBSCAN(eps=0.0), DBSCAN(min_samples=99)], ids=str)
def test_what_merges_nothing_changes_no_bit(method):
    hidden, keys = tokens(13)
    selection = method.select(view_of(hidden, keys, sizes=torch.arange(1, 14)))
    assert selection.kept.tolist() == list(range(13))
    assert selection.hidden is None or torch.equal(selection.hidden, hidden)
    assert selection.sizes is None or selection.sizes.tolist() == list(range(1, 14))


# --- Ties, duplicates, zero vectors: on keys whose products and norms are exact ---------------------------------------


def exact(*rows):
    """Keys ``[n, 1, 4]`` of small whole numbers, and hidden states to match."""
    keys = torch.tensor(rows, dtype=torch.float32)[:, None]
    return torch.arange(3.0 * len(rows)).view(-1, 3), keys


X, Y, Z, O = (4, 0, 0, 0), (0, 4, 0, 0), (0, 0, 4, 0), (0, 0, 0, 0)  # noqa: E741

TIED = {
    "duplicates": exact(X, Y, X, Y, Z, Z, X),
    "all the same": exact(*[X] * 6),
    "zero vectors": exact(O, X, O, Y, X, O),
    "all at the same distance": exact(Z, X, Y, O),
    "only zero vectors": exact(*[O] * 5),
}


@pytest.mark.parametrize("case", TIED)
@pytest.mark.parametrize("method", [*METHODS, *(cls(keep=2) for cls in KEEPING)], ids=str)
def test_ties_go_to_the_lower_index(method, case):
    check(method, *TIED[case])


def test_ties_by_hand():
    hidden, keys = TIED["duplicates"]
    view = view_of(hidden, keys)
    assert DBSCAN(min_samples=2).select(view).labels.tolist() == [0, 1, 0, 1, 2, 2, 0]
    for linkage in LINKAGES:
        found = Agglomerative(keep=3, linkage=linkage).select(view)
        assert (found.kept.tolist(), found.labels.tolist()) == ([0, 1, 4], [0, 1, 0, 1, 2, 2, 0])
    found = DPC(keep=3).select(view)
    assert (found.kept.tolist(), found.labels.tolist()) == ([0, 1, 4], [0, 1, 0, 1, 2, 2, 0])
    # A: X X Z X; B: Y Y Z. Z lies on Z, the others are as far from either Y: the first of them goes to the first Y.
    found = ToMe(r=2).select(view)
    assert (found.kept.tolist(), found.labels.tolist()) == ([1, 2, 3, 5, 6], [0, 0, 1, 2, 3, 3, 4])


@pytest.mark.parametrize("linkage", LINKAGES)
def test_ties_between_clusters_go_to_the_lower_tokens(linkage):
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        distance = torch.randint(1, 5, (8, 8), generator=generator).double().triu(1)
        distance = distance + distance.T
        for count in range(1, 8):
            labels = joined(distance.clone(), count, linkage).tolist()
            assert references.groups(labels) == references.joined(distance, count, linkage)


def test_tokens_near_two_clusters_join_the_first():
    angles = torch.tensor([50, 0, 2, 4, 6, 100, 98, 96, 94, 12, 88]).deg2rad()
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    method = DBSCAN(eps=1 - float(torch.tensor(45.0).deg2rad().cos()), min_samples=6)
    found = check(method, torch.randn(11, 3), keys)
    assert len(found.kept) == 2
    # 50 degrees, which is first but no core, sees cores of both; those about 0 degrees begin with token 1.
    assert found.labels.tolist() == [found.labels[1], 0, 0, 0, 0, 1, 1, 1, 1, 0, 1]


def test_dbscan_follows_long_chains_in_any_order():
    for seed in range(3):
        order = torch.randperm(90, generator=torch.Generator().manual_seed(seed))
        angles = order.float().deg2rad()
        keys = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
        method = DBSCAN(eps=1 - float(torch.tensor(1.5).deg2rad().cos()), min_samples=3)
        assert len(check(method, torch.randn(90, 3), keys).kept) == 1


def test_dpc_follows_long_chains():
    """Denser and denser along an arc: every token leads to its neighbour, up to the densest."""
    angles = (torch.arange(40.0) ** 1.5).deg2rad() / 3
    keys = torch.stack([angles.cos(), angles.sin()], dim=1)[:, None]
    found = check(DPC(keep=1, dn=0.01), torch.randn(40, 3), keys)
    assert found.labels.tolist() == [0] * 40


def test_kmeans_fills_empty_clusters_with_what_is_farthest():
    hidden, keys = exact(*[X] * 7, Y)
    found = check(KMeans(keep=4), hidden, keys)
    assert sorted(found.sizes.tolist()) == [1, 1, 1, 5]


def test_kmeans_sees_through_a_large_common_offset():
    hidden, keys = tokens(40, clumps=4, spread=0.05, dtype=torch.float64)
    shifted = (keys + 30000).float()
    near = KMeans(keep=4).select(view_of(hidden, keys))
    far = KMeans(keep=4).select(view_of(hidden.float(), shifted))
    assert near.labels.tolist() == far.labels.tolist()


# --- ToMe -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heads", ["mean", "joined"])
def test_tome_layer_after_layer(heads):
    method = ToMe(r=5, heads=heads)
    hidden, keys = tokens(41)
    sizes = torch.ones(41, dtype=torch.int64)
    for site in range(5):
        found = check(method, hidden, keys, sizes=sizes)
        assert len(found.kept) == method.count(41, site)
        assert int(found.sizes.sum()) == 41
        hidden, sizes, keys = found.hidden, found.sizes, keys[found.kept]


def test_tome_of_sizes_keeps_the_bits_of_what_is_alone():
    hidden, keys = tokens(21)
    sizes = torch.arange(1, 22)
    found = check(ToMe(r=3), hidden, keys, sizes=sizes)
    alone = torch.bincount(found.labels) == 1
    assert alone.sum() > 10
    assert torch.equal(found.hidden[alone], hidden[found.kept[alone]])


@pytest.mark.parametrize(("keep", "layers"), [(0.353, 28), (0.6, 32), (0.8, 28)])
def test_the_schedule_leaves_as_many_as_one_reduction_at_layer_4(keep, layers):
    method, n_first = ToMe(keep=keep), 7290
    n, total, steps = n_first, 0, []
    for layer in range(layers):
        steps.append(method.merges(n, n_first, layer, layers))
        n -= steps[-1]
        total += n
    wanted = n_first * (4 + keep * (layers - 4))
    assert abs(total / wanted - 1) < 0.01
    r0 = 6 * layers * (1 - keep) * (layers - 4) / layers / (layers + 1) / (2 * layers + 1) * n_first
    assert steps == [int(r0 * (layers - layer) / layers) + 1 for layer in range(layers)]
    assert method.count(n_first) is None


def test_the_schedule_stops_before_half():
    assert [ToMe(keep=0.01).merges(n, 500, 0, 28) for n in (1, 2, 4, 5, 6, 7, 8, 20)] == [0, 0, 0, 0, 1, 1, 2, 8]


def test_the_schedule_goes_by_the_layer():
    hidden, keys = tokens(40)
    for site, first in ((0, 0), (3, 0), (3, 5)):
        parts = {"needs": ToMe.needs, "turned_keys": keys, "layers": 28, "site": site, "n_first": 400}
        found = ToMe(keep=0.5, first=first).select(View(hidden, **parts))
        r = int(6 * 28 * 0.5 * 24 / 28 / 29 / 57 * 400 * (28 - first - site) / 28) + 1
        assert len(found.kept) == 40 - min(r, 18)


# --- PACT behind other scores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [None, 6])
@pytest.mark.parametrize("rows", ["last", "all", "prefix"])
def test_received_attention_in_front_of_dbdpc(rows, keep):
    hidden, keys = tokens(30)
    queries = keys.repeat_interleave(2, dim=1).flip(0)
    scores = torch.rand(3, 30, generator=torch.Generator().manual_seed(3))
    asked = {"last": scores[0], "all": scores[1], "prefix": scores[2]}
    method = Pact(pact_ext.PactConfig(dc=0.1, layer=3), keep, f"received-{rows}")
    parts = {"keys": keys, "queries": queries, "turned_keys": keys, "received": lambda: asked.__getitem__}
    found = method.select(View(hidden, needs=method.needs, **parts))
    count, reduce = ((), reference.reduce) if keep is None else ((keep,), reference.reduce_to)
    merged, sizes, centers, labels = reduce(
        hidden, keys, queries, keys, *count, 0.45, 0.1, 2.0, 1.5, scores=asked[rows], gaussian=True
    )
    assert found.kept.tolist() == centers.tolist()
    assert found.labels.tolist() == labels.tolist()
    assert found.sizes.tolist() == sizes.tolist()
    assert (found.hidden - merged).abs().max() < 1e-5


def test_pact_asks_for_attention_only_where_it_is_wanted():
    assert Pact().needs == {"keys", "queries", "turned_keys"}
    assert Pact(scores="received-all").needs == {"keys", "queries", "turned_keys", "received"}
    method = parse("pact:dc=0.1,keep=0.25,scores=received-last")
    assert method == Pact(pact_ext.PactConfig(dc=0.1), 0.25, "received-last")
    assert parse(str(method)) == method


# --- Arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *(
            (f"{name}:keep=0", f"{cls.__name__}: keep must be a share")
            for name, cls in (("kmeans", KMeans), ("dpc", DPC), ("agglomerative", Agglomerative))
        ),
        *(
            (f"{name}:layer=-1", "layer must be an integer >= 0, got -1")
            for name in ("kmeans", "dpc", "agglomerative", "dbscan")
        ),
        ("kmeans:iterations=0", "KMeans: iterations must be an integer >= 1, got 0"),
        ("kmeans:seed=0.5", "KMeans: seed must be an integer >= 0, got 0.5"),
        ("dpc:dn=0", "DPC: dn must be a number > 0 and finite, got 0"),
        ("dpc:gaussian=1", "DPC: gaussian must be True or False, got 1"),
        ("dbscan:eps=3", "DBSCAN: eps must be a cosine distance in .0, 2., got 3"),
        ("dbscan:min_samples=0", "DBSCAN: min_samples must be an integer >= 1, got 0"),
        ("dbscan:keep=0.5", "dbscan: arguments must be name=value, of eps, min_samples, layer, got 'keep=0.5'"),
        ("agglomerative:linkage=ward", "Agglomerative: linkage must be 'single', 'average' or 'complete', got 'ward'"),
        ("tome:r=-1", "ToMe: r must be an integer >= 0, got -1"),
        ("tome:keep=64", "ToMe: keep must be a share in .0, 1., or None, got 64"),
        ("tome:first=a", "ToMe: first must be an integer >= 0, got 'a'"),
        ("tome:like=-2", "ToMe: like must be an integer >= 0, got -2"),
        ("tome:heads=max", "ToMe: heads must be 'mean' or 'joined', got 'max'"),
        ("pact:scores=fastv", "Pact: scores must be one of received-last, received-all, received-prefix, or None"),
        ("pact:scores=received-all,layer=0", "Pact: config.layer must be an integer >= 1 for scores=received-all"),
    ],
)
def test_bad_arguments(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)


def test_how_they_are_listed():
    found = {fact.name: fact for fact in facts()}
    assert (found["tome"].where, found["tome"].needs, found["tome"].budget) == ("every layer", "turned_keys", "known")
    assert [found[name].budget for name in ("kmeans", "dpc", "agglomerative")] == ["known"] * 3
    assert (found["dbscan"].where, found["dbscan"].budget) == ("layer 4", "by the data")
    for method in METHODS:
        assert parse(str(method)) == method == dataclasses.replace(method)
