"""Methods on the vision tower's attention: against references, and inside models."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from methods import references_encoder as references
from pact_ext import methods
from pact_ext.methods import Encoder, Selection, Tile, View

WEIGHT = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def project(features):
    return torch.tanh(features @ WEIGHT.to(features.dtype))


def view_of(n, dtype=torch.float64, *, seed=0, kind="random", tiles=None):
    """A view with a projector of its own, and what it was made of. Few tokens have large attention."""
    generator = torch.Generator().manual_seed(100 * n + seed)
    features = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    keys = torch.randn(n, 3, 4, generator=generator, dtype=torch.float64)
    logits = 2 * torch.randn(4, n, generator=generator, dtype=torch.float64)
    if kind == "duplicates":
        features, keys, logits = (
            x[: (n + 1) // 2].repeat(2, *(x.ndim - 1) * [1])[:n] for x in (features, keys, logits.T)
        )
        logits = logits.T
    if kind == "twins":  # in all but attention
        features, keys = (x[: (n + 1) // 2].repeat(2, *(x.ndim - 1) * [1])[:n] for x in (features, keys))
    if kind == "zeros":
        features[::3] = 0
        keys[::2] = 0
    if kind == "ties":
        logits[:] = 0
    received = {
        (layer, joined): x
        for x, (layer, joined) in zip(
            logits.softmax(dim=1).float(), [(0, False), (-2, False), (-2, True), (-1, True)], strict=True
        )
    }
    encoder = Encoder(
        attention=lambda layer, joined=False: received[layer, joined],
        keys=lambda layer: keys.to(dtype) if layer == -2 else -keys.to(dtype),
        tiles=tiles or [Tile(torch.arange(n))],
        features=features.to(dtype),
        project=project,
    )
    hidden = project(features.to(dtype))
    return View(hidden, needs=frozenset({"encoder"}), encoder=encoder), encoder


def agrees(selection: Selection, places, hidden):
    assert selection.kept.tolist() == list(places)
    assert selection.hidden.dtype == hidden.dtype
    assert (selection.hidden.double() - hidden.double()).abs().max() < 1e-5


# --- PruMerge -------------------------------------------------------------------------------------------------------


PRUMERGE = [
    {},
    {"neighbors": 3},
    {"near": "all", "neighbors": 5},
    {"rest": "mean"},
    {"rest": "none", "keep": 0.4},
    {"keep": 0.3, "neighbors": 4},
    {"keep": 2},
    {"tower_layer": -1, "near": "all"},
]


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("random", torch.float32), ("random", torch.float64), ("zeros", torch.float32), ("ties", torch.float64),
     ("twins", torch.float32)],
)  # fmt: skip
@pytest.mark.parametrize("name", ["prumerge", "prumerge+"])
@pytest.mark.parametrize("n", [3, 35])
@pytest.mark.parametrize("arguments", PRUMERGE, ids=str)
def test_prumerge_is_the_reference(arguments, n, name, kind, dtype):
    method = methods.METHODS[name](**arguments)
    view, encoder = view_of(n, dtype, kind=kind)
    attention, keys = encoder.attention(method.tower_layer, joined=True), encoder.keys(method.tower_layer).flatten(1)
    plus = name == "prumerge+"
    if method.keep is None:
        kept = references.outliers(attention)
        kept = references.spaced(n, kept) if plus else kept
    else:
        count = method.count(n)
        centers = count if count in (1, n) or method.rest == "none" else count - 1
        kept = references.spaced_budget(attention, centers) if plus else references.by_attention(attention, centers)
    selection = method.select(view)
    if len(kept) == n:
        assert selection.kept.tolist() == list(range(n))
        assert selection.hidden is None
        return
    rest = "none" if method.keep is not None and method.count(n) == 1 else method.rest
    places, features = references.merged(
        encoder.features.double(), keys.double(), attention.double(), kept, method.neighbors, method.near, rest
    )
    agrees(selection, places, project(features).to(dtype))
    if method.keep is not None:
        assert len(selection.kept) == method.count(n)


def test_prumerge_works_by_hand():
    attention = torch.tensor([0.01, 0.02, 0.5, 0.02, 0.01])
    features = torch.eye(5, dtype=torch.float64)
    keys = torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [1, 0], [-1, 0]], dtype=torch.float64)[:, None]
    encoder = Encoder(lambda *_, **__: attention, lambda _: keys, [Tile(torch.arange(5))], features, lambda x: x)
    view = View(features, needs=frozenset({"encoder"}), encoder=encoder)
    found = methods.PruMerge(neighbors=2).select(view)
    assert found.kept.tolist() == [1, 2]  # the rest stands where most attention was dropped, the first of a tie
    expected = torch.tensor([[0.01, 0.02, 0, 0.02, 0.01], [0.01, 0, 1, 0.02, 0]], dtype=torch.float64)
    assert (found.hidden - expected).abs().max() < 1e-7


# --- VisionZip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["random", "zeros", "ties", "twins", "duplicates"])
@pytest.mark.parametrize("n", [2, 17, 101])
@pytest.mark.parametrize(("dominant", "contextual"), [(0.3, 0.2), (1, 1), (10, 6), (3, 0), (54, 10)])
def test_visionzip_is_the_reference(dominant, contextual, n, kind, dtype):
    method, (view, encoder) = methods.VisionZip(dominant, contextual), view_of(n, dtype, kind=kind)
    selection, first = method.select(view), methods.budget(n, dominant)
    assert len(selection.kept) == method.count(n)
    if selection.hidden is None:
        places = range(n) if method.count(n) == n else references.by_attention(encoder.attention(-2), first)
        assert selection.kept.tolist() == sorted(places)
        return
    chosen, found, members = references.visionzip(
        encoder.features.double(), encoder.keys(-2).double(), encoder.attention(-2), first, method.count(n) - first
    )
    expected = {i: view.hidden[i] for i in chosen} | {i: project(x).to(dtype) for i, x in found.items()}
    agrees(selection, sorted(expected), torch.stack([expected[i] for i in sorted(expected)]))
    goes_to = {i: i for i in expected} | {i: target for target, own in members.items() for i in own}
    assert selection.kept[selection.labels].tolist() == [goes_to[i] for i in range(n)]


@pytest.mark.parametrize(("keep", "dominant", "contextual"), [(64, 54, 10), (0.25, 22, 3), (1.0, 85, 16), (1, 1, 0)])
def test_visionzip_by_its_budget(keep, dominant, contextual):
    view, _ = view_of(101, torch.float32)
    found, expected = (
        method.select(view) for method in (methods.VisionZip(keep=keep), methods.VisionZip(dominant, contextual))
    )
    assert torch.equal(found.kept, expected.kept)
    assert len(found.kept) == dominant + contextual


# --- HiRED ----------------------------------------------------------------------------------------------------------


def two_pictures():
    """One of a whole view and four parts, some cut by unpadding, in no tidy order; and one whole view."""
    order = torch.randperm(61, generator=torch.Generator().manual_seed(5))
    pieces = order.split([16, 9, 12, 8, 6, 10])
    quarters = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    whole, *parts = (piece.sort().values for piece in pieces)
    tiles = [Tile(whole), *(Tile(p, 0, whole[q]) for p, q in zip(parts, quarters, strict=False)), Tile(parts[-1], 1)]
    return tiles


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", ["random", "duplicates", "ties"])
@pytest.mark.parametrize(("keep", "alpha"), [(0.2, 0.5), (0.6, 0.2), (1, 0.5), (30, 1.0), (0.9, 0.5), (7, 0.0)])
def test_hired_is_the_reference(keep, alpha, kind, seed):
    tiles, method = two_pictures(), methods.HiRED(keep, alpha)
    view, encoder = view_of(61, torch.float32, seed=seed, kind=kind, tiles=tiles)
    kept = method.select(view).kept
    total, expected = method.count(61), []
    wanted = [total * 51 // 61, total - total * 51 // 61]
    for picture, count in enumerate(wanted):
        own = [(t.places.tolist(), t.region if t.region is None else t.region.tolist())
               for t in tiles if t.picture == picture]  # fmt: skip
        expected += references.hired(encoder.attention(0).double(), encoder.attention(-2), own, count, alpha)
    assert kept.tolist() == sorted(expected)
    assert len(kept) == total


def test_hired_by_hand_where_one_token_has_most_of_the_attention():
    """The budget of a part goes by the first layer over the whole view, whatever one of its tokens gets in the last but
    one: here all but a tenth of it, in a part that shows nothing that the first layer looks at."""
    tiles = [Tile(torch.arange(4)), Tile(torch.arange(4, 8), 0, torch.tensor([0, 1])),
             Tile(torch.arange(8, 12), 0, torch.tensor([2, 3]))]  # fmt: skip
    attention = {
        0: torch.tensor([0.4, 0.5, 0.05, 0.05] + 8 * [0.0]),
        -2: torch.tensor([0.1, 0.2, 0.05, 0.15, 0.04, 0.03, 0.02, 0.01, 0.02, 0.9, 0.04, 0.04]),
    }
    hidden = torch.zeros(12, 2)
    encoder = Encoder(lambda layer, joined=False: attention[layer], None, tiles, hidden, None)
    view = View(hidden, needs=methods.HiRED.needs, encoder=encoder)
    # Of 6 the whole gets 3, and the parts 2.7 and 0.3 of the other 3: 2 and none. What is left over goes to the 0.9.
    assert methods.HiRED(keep=6).select(view).kept.tolist() == [0, 1, 3, 4, 5, 9]
    # Of 7 the whole gets 3, the parts 3.6 and 0.4 of 4; of 5: 2, then 2.7 and 0.3 of 3, and one is left over.
    assert methods.HiRED(keep=7).select(view).kept.tolist() == [0, 1, 3, 4, 5, 6, 9]
    assert methods.HiRED(keep=5).select(view).kept.tolist() == [1, 3, 4, 5, 9]
    # Nothing is left over where shares come out even.
    attention[0] = torch.tensor([0.5, 0.5, 0.0, 0.0] + 8 * [0.0])
    assert methods.HiRED(keep=6).select(view).kept.tolist() == [0, 1, 3, 4, 5, 6]


# --- Tokens that are no patches -------------------------------------------------------------------------------------

AMONG = [methods.PruMerge(), methods.PruMerge(keep=7), methods.PruMergePlus(keep=7), methods.HiRED(7),
         methods.VisionZip(5, 3), methods.VisionZip(5, 0)]  # fmt: skip


def with_others(view, n):
    """The same patches among n tokens."""
    places = torch.randperm(n, generator=torch.Generator().manual_seed(n))[: len(view)].sort().values
    hidden = torch.randn(n, view.hidden.shape[1], dtype=view.hidden.dtype)
    hidden[places] = view.hidden
    encoder = dataclasses.replace(view.encoder, places=places)
    return View(hidden, needs=frozenset({"encoder"}), encoder=encoder), places


@pytest.mark.parametrize("method", AMONG, ids=str)
def test_other_tokens_go_first(method):
    view, _ = view_of(31)
    larger, places = with_others(view, 40)
    alone, found = method.select(view), method.select(larger)
    assert torch.equal(found.kept, places[alone.kept])
    assert found.sizes is alone.sizes is None
    if alone.hidden is None:
        assert found.hidden is None
    else:
        assert torch.equal(found.hidden, alone.hidden)
    if alone.labels is None:
        assert found.labels is None
    else:
        assert torch.equal(found.labels[places], alone.labels)
        assert (found.labels == -1).sum() == 40 - 31 + (alone.labels == -1).sum()


def test_shares_are_of_all_tokens():
    larger, places = with_others(view_of(31)[0], 40)
    found = methods.VisionZip(0.3, 0.2).select(larger)
    dominant = places[references.by_attention(larger.encoder.attention(-2), 12)]
    assert len(found.kept) == 12 + 8
    assert torch.isin(dominant, found.kept).all()
    assert torch.equal(found.hidden[torch.isin(found.kept, dominant)], larger.hidden[dominant.sort().values])
    assert len(methods.HiRED(0.5).select(larger).kept) == 20


@pytest.mark.parametrize("method", [methods.VisionZip(25, 8), methods.HiRED(33), methods.PruMerge(keep=33)], ids=str)
def test_what_a_budget_leaves_is_for_other_tokens(method):
    larger, places = with_others(view_of(31)[0], 40)
    found = method.select(larger)
    others = [i for i in range(40) if i not in places]
    assert found.kept.tolist() == sorted([*places.tolist(), *others[:2]])
    assert found.hidden is None


# --- All ------------------------------------------------------------------------------------------------------------

EVERY = [methods.PruMerge, methods.PruMergePlus, methods.HiRED, functools.partial(methods.VisionZip, contextual=0)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 23])
@pytest.mark.parametrize("method", EVERY, ids=str)
def test_keeping_everything_or_one(method, n, dtype):
    view, encoder = view_of(n, dtype)
    for keep in (1.0, n, n + 5):
        found = method(keep).select(view)
        assert found.kept.tolist() == list(range(n))
        assert found.hidden is None
    one = method(1).select(view)
    layer = encoder.attention(-2, joined=method in EVERY[:2])
    assert one.kept.tolist() == references.by_attention(layer, 1)
    assert one.sizes is None
    assert one.hidden is None or one.hidden.dtype == dtype


def test_half_precision_sums_in_float32():
    method, (view, encoder) = methods.PruMerge(keep=5), view_of(57, torch.bfloat16)
    exact = View(
        view.hidden.double(), needs=method.needs,
        encoder=Encoder(encoder.attention, lambda layer: encoder.keys(layer).double(), encoder.tiles,
                        encoder.features.double(), lambda x: project(x.bfloat16()).double()),
    )  # fmt: skip
    assert torch.equal(method.select(view).hidden.double(), method.select(exact).hidden)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prumerge:keep=0", "PruMerge: keep must be a share"),
        ("prumerge+:keep=1.5", "PruMergePlus: keep must be a share"),
        ("prumerge:neighbors=-1", "PruMerge: neighbors must be an integer >= 0, got -1"),
        ("prumerge:near=kept", "PruMerge: near must be 'dropped' or 'all', got 'kept'"),
        ("prumerge:rest=0", "PruMerge: rest must be 'sum', 'mean' or 'none', got 0"),
        ("prumerge:tower_layer=1.5", "PruMerge: tower_layer must be an integer, got 1.5"),
        ("visionzip:dominant=0", "VisionZip: dominant must be a share"),
        ("visionzip:contextual=-1", "VisionZip: contextual must be a share"),
        ("visionzip:contextual=False", "VisionZip: contextual must be a share"),
        ("hired:keep=0", "HiRED: keep must be a share"),
        ("hired:alpha=1.5", "HiRED: alpha must be a share in .0, 1., got 1.5"),
    ],
)
def test_bad_arguments(text, message):
    with pytest.raises(ValueError, match=message):
        methods.parse(text)
