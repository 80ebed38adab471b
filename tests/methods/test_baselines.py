"""Random tokens, a smaller picture, and the methods that go by the decoder's attention or by nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from methods import references_baselines as references
from pact_ext import ops
from pact_ext.methods import VTW, Downsample, FastV, Grid, PyramidDrop, Random, View, budget, parse

# --- Random ---------------------------------------------------------------------------------------------------------


def drawn(method, n, row=0, device="cpu"):
    return method.select(View(torch.zeros(n, 2, device=device), needs=method.needs, row=row)).kept


@pytest.mark.parametrize("n", [1, 2, 17, 300])
@pytest.mark.parametrize("keep", [0.01, 0.35, 1, 40, 1.0])
def test_random_draws_so_many_tokens_without_replacement(n, keep):
    kept = drawn(Random(keep=keep), n)
    assert len(kept) == Random(keep=keep).count(n) == budget(n, keep)
    assert kept.diff().gt(0).all(), "ascending, none of them twice"
    assert kept[0] >= 0
    assert kept[-1] < n


def test_random_draws_the_same_from_any_state_and_on_any_device():
    method = Random(keep=0.3)
    expected = drawn(method, 50)
    state = torch.get_rng_state()
    torch.rand(7)
    assert torch.equal(drawn(method, 50), expected)
    torch.set_rng_state(state)
    drawn(method, 50)
    assert torch.equal(torch.get_rng_state(), state), "the user's own generator was drawn from"
    elsewhere = drawn(method, 50, device="meta")
    assert elsewhere.device.type == "meta", "indices are where the tokens are"
    with torch.device("meta"):  # where a draw on the default device would be
        assert torch.equal(drawn(method, 50, device="cpu"), expected)


def test_random_draws_apart_for_rows_and_seeds():
    draws = [drawn(Random(keep=20, seed=seed), 200, row) for seed, row in itertools.product(range(3), range(3))]
    assert len({tuple(kept.tolist()) for kept in draws}) == 9


def test_random_draws_every_token_as_often():
    counts = torch.zeros(20)
    for row in range(600):
        counts[drawn(Random(keep=5), 20, row)] += 1
    assert (counts / 600 - 0.25).abs().max() < 0.08  # 4.5 standard deviations


# --- Downsample -----------------------------------------------------------------------------------------------------

GRIDS = [(1, 1), (1, 7), (3, 5), (5, 5), (6, 4), (9, 2), (24, 24)]


def grid_view(shapes, dtype=torch.float32):
    """Pictures one after another, with tokens of the last in reverse, as no family has them."""
    n, first, grids = sum(rows * columns for rows, columns in shapes), 0, []
    for rows, columns in shapes:
        grids.append(Grid(torch.arange(first, first + rows * columns), rows, columns))
        first += rows * columns
    grids[-1] = grids[-1]._replace(places=grids[-1].places.flip(0))
    hidden = torch.randn(n, 6, generator=torch.Generator().manual_seed(n), dtype=torch.float64).to(dtype)
    return View(hidden, needs=Downsample.needs, grids=grids)


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("keep", [0.05, 0.25, 0.5, 0.8, 1.0, 1, 7])
@pytest.mark.parametrize("shapes", [*([shape] for shape in GRIDS), [(3, 5), (6, 4)]], ids=str)
def test_downsample_is_the_reference(shapes, keep, pool):
    view, n = grid_view(shapes), sum(rows * columns for rows, columns in shapes)
    found = Downsample(keep=keep, pool=pool).select(view)
    expected = {}
    for grid in view.grids:
        wanted = budget(n, keep) * grid.rows * grid.columns / n
        for cell, middle in zip(*references.downsample(grid.rows, grid.columns, wanted), strict=True):
            expected[int(grid.places[middle])] = grid.places[torch.tensor(cell)]
    kept = sorted(expected)
    assert found.kept.tolist() == kept
    if not pool:
        assert found.hidden is found.labels is found.sizes is None
        return
    for place, token in enumerate(kept):
        assert torch.equal((found.labels == place).nonzero().flatten(), expected[token].sort().values)
        assert found.sizes[place] == len(expected[token])
        assert (found.hidden[place] - view.hidden[expected[token]].double().mean(0)).abs().max() < 1e-6


def test_downsample_by_hand():
    """A quarter of 4 x 6 is 2 x 3; of 5 x 5 it is 2 x 3 too, in rows of 3 and 2, and columns of 2, 2 and 1."""
    for shape, kept in (((4, 6), [0, 2, 4, 12, 14, 16]), ((5, 5), [5, 7, 9, 15, 17, 19])):
        grid = Grid(torch.arange(shape[0] * shape[1]), *shape)
        view = View(torch.zeros(len(grid.places), 2), needs=Downsample.needs, grids=[grid])
        assert Downsample(keep=0.25, pool=False).select(view).kept.tolist() == kept


def test_an_end_stays_with_its_row_of_cells():
    """Four rows of two tokens and an end: two cells of two rows, whose ends are two of their own."""
    places = torch.arange(12).view(4, 3)
    grid = Grid(places[:, :2].flatten(), 4, 2, places[:, 2])
    hidden = torch.randn(12, 5)
    view = View(hidden, needs=Downsample.needs, grids=[grid])
    found = Downsample(keep=0.25).select(view)
    assert found.kept.tolist() == Downsample(keep=0.25, pool=False).select(view).kept.tolist() == [0, 2, 6, 8]
    assert found.labels.tolist() == [0, 0, 1, 0, 0, 1, 2, 2, 3, 2, 2, 3]
    assert found.sizes.tolist() == [4, 2, 4, 2]
    assert (found.hidden[1] - hidden[[2, 5]].mean(0)).abs().max() < 1e-6


def test_downsample_in_half_precision_sums_in_float32():
    view = grid_view([(24, 24)], torch.bfloat16)
    found = Downsample(keep=4).select(view)
    means = torch.stack([view.hidden[found.labels == place].float().mean(0) for place in range(4)])
    assert found.hidden.dtype == torch.bfloat16
    assert (found.hidden.float() - means).abs().max() <= torch.finfo(torch.bfloat16).eps * means.abs().max()


# --- FastV, PyramidDrop, VTW ----------------------------------------------------------------------------------------


def sequence(before: int, n: int, after: int, seed: int = 0):
    """Queries ``[N, 4, 6]`` and keys ``[N, 2, 6]`` of text, n visual tokens, and text."""
    generator = torch.Generator().manual_seed(1000 * n + seed)
    total = before + n + after
    return torch.randn(total, 4, 6, generator=generator), torch.randn(total, 2, 6, generator=generator)


def received(queries, keys, visual):
    """`View.received`, by the operator that an engine has."""
    total, end = len(queries), visual[-1] + 1

    def of(rows):
        begin, stop = {"last": (total - 1, total), "all": (0, total), "prefix": (0, end)}[rows]
        return ops.received_attention(queries[begin:stop], keys, first=begin)[torch.tensor(visual)]

    return of


@pytest.mark.parametrize("rows", ["last", "all", "prefix"])
@pytest.mark.parametrize("keep", [0.5, 1, 4, 1.0])
@pytest.mark.parametrize(("before", "n", "after"), [(0, 1, 1), (3, 12, 4), (5, 40, 0), (1, 9, 30)])
def test_fastv_is_the_reference(before, n, after, keep, rows):
    queries, keys = sequence(before, n, after)
    visual, method = list(range(before, before + n)), FastV(keep=keep, rows=rows)
    parts = {"needs": method.needs, "received": lambda: received(queries, keys, visual)}
    found = method.select(View(torch.zeros(n, 2), **parts))
    weights = references.attention(queries, keys)
    assert found.kept.tolist() == references.fastv(weights, visual, method.count(n), rows)
    assert len(found.kept) == budget(n, keep)
    assert found.labels is found.hidden is found.sizes is None


@pytest.mark.parametrize("method", [FastV(keep=3), PyramidDrop(keep=0.25)], ids=str)
def test_ties_go_to_the_lower_index(method):
    score = torch.tensor([0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.0, 0.0, 0.0, 0.0])
    view = View(torch.zeros(12, 2), needs=method.needs, received=lambda: lambda rows: score)
    assert method.select(view).kept.tolist() == [1, 3, 5]


@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("share", [0.5, 0.3, 0.85, 1.0])
@pytest.mark.parametrize(("before", "n", "after"), [(0, 1, 1), (3, 31, 4)])
def test_pyramiddrop_is_the_reference(before, n, after, share, stages):
    """Every stage over the columns that the stage before has left, as inside a model."""
    method, visual = PyramidDrop(keep=share, stages=stages), list(range(before, before + n))
    inputs = [sequence(before, n, after, seed) for seed in range(stages - 1)]
    weights = [references.attention(queries, keys) for queries, keys in inputs]
    left = torch.tensor(visual)
    for site, expected in enumerate(references.pyramiddrop(weights, visual, share)):
        queries, keys = inputs[site]
        columns = torch.cat([torch.arange(before), left, torch.arange(before + n, before + n + after)])
        at = list(range(before, before + len(left)))
        parts = {"needs": method.needs, "site": site, "n_first": n}
        parts["received"] = lambda queries=queries, keys=keys, columns=columns, at=at: received(
            queries[columns], keys[columns], at
        )
        left = left[method.select(View(torch.zeros(len(left), 2), **parts)).kept]
        assert left.tolist() == expected
        assert len(left) == method.count(n, site)


def test_where_stages_end():
    """Quarters of the decoder: its layers 8, 16 and 24 of 32."""
    assert PyramidDrop().sites(32) == (8, 16, 24)
    assert PyramidDrop(stages=2).sites(7) == (3,)
    assert PyramidDrop(stages=3).sites(28) == (9, 18)


@pytest.mark.parametrize("n", [1, 9])
def test_vtw_leaves_nothing_behind_half_of_the_layers(n):
    found = VTW().select(View(torch.zeros(n, 2)))
    assert found.kept.tolist() == []
    assert found.kept.dtype == torch.int64
    assert VTW().count(n) == 0
    assert [VTW().sites(layers) for layers in (32, 28, 7)] == [(16,), (14,), (3,)]
    assert VTW(layer=5).sites(32) == (5,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("random:keep=0", "Random: keep must be a share"),
        ("random:layer=-1", "Random: layer must be an integer >= 0, got -1"),
        ("random:seed=0.5", "Random: seed must be an integer >= 0, got 0.5"),
        ("downsample:keep=1.5", "Downsample: keep must be a share"),
        ("downsample:pool=1", "Downsample: pool must be True or False, got 1"),
        ("downsample:layer=a", "Downsample: layer must be an integer >= 0, got 'a'"),
        ("pyramiddrop:keep=64", "PyramidDrop: keep must be a share in .0, 1., got 64"),
        ("pyramiddrop:stages=1", "PyramidDrop: stages must be an integer >= 2, got 1"),
        ("vtw:layer=-1", "VTW: layer must be an integer >= 0, got -1"),
    ],
)
def test_bad_arguments(text, message):
    with pytest.raises(ValueError, match=message):
        parse(text)
