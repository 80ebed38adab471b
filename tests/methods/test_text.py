"""Methods on embeddings and text, held to references that are written as the papers read."""

import math

import pytest
import torch

from methods import references_text as references
from pact_ext import methods
from pact_ext.methods import CDPruner, Dart, DivPrune, EntropyPrune, SparseVLM, Trim, View
from pact_ext.methods.lloyd import spread

DTYPES = [torch.float32, torch.float64]
SIZES = [(1, 5), (2, 3), (7, 3), (23, 11), (41, 16)]


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def view(method, hidden, seed=0, *, text=6, tail=4, site=0, n_first=None, score=None, layers=0):
    """One that has whatever there is to need."""
    n, d = hidden.shape
    words, dtype = normal(text, d, seed=seed + 1, dtype=hidden.dtype), hidden.dtype
    parts = {
        "text": words,
        "tail": tail,
        "turned_keys": normal(n, 2, 3, seed=seed + 2, dtype=dtype),
        "text_keys": normal(text, 2, 3, seed=seed + 3, dtype=dtype),
        "embedded": (normal(n + 3, d, seed=seed + 4, dtype=dtype), words),
        "received": lambda: lambda rows: score if score is not None else scores(n, rows, seed),
        "earlier": lambda: [normal(n, d, seed=seed + 5 + i, dtype=dtype) for i in range(layers)],
    }
    return View(hidden, needs=method.needs, site=site, n_first=n_first, **parts)


def scores(n, rows, seed):
    """As attention of some text rows would be: of every row something else."""
    return normal(50, n, seed=seed + 20, dtype=torch.float32)[rows].softmax(1).mean(0)


def everything(method, n, d=6, **arguments):
    """Every token must come back unchanged."""
    hidden = normal(n, d, dtype=torch.float32)
    found = method.select(view(method, hidden, **arguments))
    assert found.kept.tolist() == list(range(n))
    assert found.hidden is None or torch.equal(found.hidden, hidden)
    assert found.sizes is None
    assert found.labels is None or found.labels.tolist() == list(range(n))


METHODS = {
    "divprune": DivPrune(keep=1.0),
    "divprune, isolated": DivPrune(keep=1.0, start="isolated"),
    "cdpruner": CDPruner(keep=1.0),
    "cdpruner, by number": CDPruner(keep=99),
    "trim": Trim(keep=1.0),
    "dart": Dart(keep=1.0),
    "sparsevlm": SparseVLM(keep=(1.0,), layers=(2,)),
    "entropyprune, naive": EntropyPrune(naive=True, keep=1.0),
    "entropyprune": EntropyPrune(clusters=99, core=99, per_cluster=1),
}


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("name", METHODS)
def test_everything(name, n):
    everything(METHODS[name], n)
    assert METHODS[name].count(n) in (n, None)


# --- DivPrune -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["farthest", "isolated"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_divprune(n, d, dtype, start):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for keep in {1, min(n, 2), (n + 1) // 2}:
        method = DivPrune(keep=keep, start=start)
        assert method.select(view(method, hidden)).kept.tolist() == references.divprune(hidden, keep, start)


@pytest.mark.parametrize("start", ["farthest", "isolated"])
def test_divprune_ties(start):
    hidden = torch.eye(4, dtype=torch.float32)[[0, 1, 0, 2, 1, 2, 3]]
    hidden[5] = 0
    for keep in range(1, 8):
        method = DivPrune(keep=keep, start=start)
        assert method.select(view(method, hidden)).kept.tolist() == references.divprune(hidden, keep, start)


def test_divprune_starts_differ():
    """Two opposite pairs of near tokens, and one by itself."""
    angles = torch.tensor([0.0, 0.01, math.pi, math.pi + 0.01, math.pi / 2])
    hidden = torch.stack([angles.cos(), angles.sin()], 1)
    assert DivPrune(keep=1, start="isolated").select(View(hidden)).kept.tolist() == [4]
    assert DivPrune(keep=1).select(View(hidden)).kept.tolist() == [0]


# --- CDPruner -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [None, 0.5])
@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 5), (7, 9), (23, 19)])
def test_cdpruner(n, d, dtype, negate, theta):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for keep in {1, min(n, 2), (n + 1) // 3 or 1}:
        method = CDPruner(keep=keep, negate=negate, theta=theta)
        seen = view(method, hidden)
        expected = references.cdpruner_relevance(hidden, seen.text, negate, theta)
        assert (method.relevance(hidden, seen.text).double() - expected).abs().max() < 1e-5
        assert method.select(seen).kept.tolist() == references.cdpruner(hidden, seen.text, keep, negate, theta)


def test_cdpruner_without_relevance_is_about_diversity_alone():
    hidden = torch.eye(5)[[0, 0, 1, 2, 2]]
    method = CDPruner(keep=3)
    seen = View(hidden, needs=method.needs, text=torch.ones(2, 5))
    assert torch.equal(method.relevance(hidden, seen.text), torch.ones(5))
    assert method.select(seen).kept.tolist() == [0, 2, 3]
    zero = View(torch.zeros(3, 5), needs=method.needs, text=torch.ones(2, 5))
    assert CDPruner(keep=1).select(zero).kept.tolist() == [0]


# --- TRIM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_trim(n, d, dtype, negate):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for keep in {1, (n + 1) // 2, n - 1 or 1, None}:
        method = Trim(keep=keep, negate=negate)
        seen = view(method, hidden, seed=n)
        kept, labels, states = references.trim(hidden, seen.text, keep, negate)
        found = method.select(seen)
        assert found.kept.tolist() == kept
        assert found.sizes is None
        assert len(kept) == (method.count(n) or len(kept))
        if found.hidden is not None:
            assert found.labels.tolist() == labels
            assert found.hidden.dtype == dtype
            assert (found.hidden.double() - states).abs().max() < 1e-5


def test_trim_outliers():
    """Two of 20 tokens point along the text, which tells which are outliers."""
    hidden = normal(20, 8, seed=3)
    text = normal(3, 8, seed=4)
    hidden -= 0.9 * (hidden @ text[-1])[:, None] * text[-1] / text[-1].square().sum()
    hidden[[4, 11]] += 9 * text[-1]
    found = Trim().select(View(hidden, needs=Trim.needs, text=text))
    assert found.kept.tolist() == references.trim(hidden, text, None, False)[0] == [4, 11, 19]
    turned = Trim(negate=True).select(View(hidden, needs=Trim.needs, text=text))
    assert turned.kept.tolist() == references.trim(hidden, text, None, True)[0]


def test_trim_without_outliers_leaves_the_mean():
    hidden = torch.eye(4, dtype=torch.float64)[torch.arange(20) % 4]
    found = Trim().select(View(hidden, needs=Trim.needs, text=torch.ones(1, 4, dtype=torch.float64)))
    assert found.kept.tolist() == [19]
    assert found.labels.tolist() == 20 * [0]
    assert (found.hidden[0] - hidden.mean(0)).abs().max() < 1e-12


def test_trim_ties_and_zeros():
    hidden = torch.ones(6, 3)
    hidden[2] = 0
    found = Trim(keep=2).select(View(hidden, needs=Trim.needs, text=torch.ones(1, 3)))
    assert found.kept.tolist() == [0, 1, 5]
    assert found.labels.tolist() == [0, 1, 2, 2, 2, 2]
    assert torch.allclose(found.hidden[2], torch.full((3,), 0.75))


def test_half_precision_is_computed_in_float32():
    hidden = normal(23, 16, seed=1).bfloat16()
    for method in (Trim(keep=5), SparseVLM(keep=(8,), layers=(1,)), DivPrune(keep=5), Dart(keep=9), EntropyPrune()):
        half = method.select(view(method, hidden))
        if half.hidden is not None:
            assert half.hidden.dtype == torch.bfloat16
        whole = view(method, hidden)
        whole.hidden = hidden.float()
        single = method.select(whole)
        assert torch.equal(half.kept, single.kept)
        if half.hidden is not None:
            assert torch.equal(half.hidden, single.hidden.bfloat16())


# --- DART -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tail", "pivots", "text_pivots"), [(4, 4, 4), (0, 2, 3), (2, 1, 5), (3, 3, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_dart(n, d, dtype, tail, pivots, text_pivots):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for keep in {1, min(n, 3), (n + 1) // 2, max(1, n - 1)}:
        method = Dart(keep=keep, pivots=pivots, text_pivots=text_pivots)
        seen = view(method, hidden, tail=tail)
        arguments = (hidden, seen.turned_keys, seen.text, seen.text_keys, tail, keep, pivots, text_pivots)
        found = method.select(seen)
        assert found.kept.tolist() == references.dart(*arguments)
        assert found.hidden is None
        assert len(found.kept) == method.count(n)


def test_dart_ties_and_zeros():
    hidden = torch.eye(4)[[0, 0, 1, 1, 2, 2, 0, 3]]
    hidden[7] = 0
    method = Dart(keep=4, pivots=1, text_pivots=1)
    parts = {"turned_keys": torch.ones(8, 1, 2), "text_keys": torch.ones(2, 1, 2), "tail": 2, "text": torch.eye(4)[:2]}
    # Token 0 is the pivot, and takes 2 and 3; the text's first token, along the same axis, takes 4.
    assert method.select(View(hidden, needs=method.needs, **parts)).kept.tolist() == [0, 2, 3, 4]


def test_dart_measures_keys_by_their_sum():
    """A key of many small parts against one of a larger Euclidean norm."""
    keys = torch.tensor([[[3.0, 0, 0, 0]], [[1.0, 1, 1, 1]]])
    method = Dart(keep=1, pivots=1, text_pivots=0)
    parts = {"turned_keys": keys, "text_keys": keys, "tail": 0, "text": torch.ones(2, 3)}
    assert method.select(View(torch.ones(2, 3), needs=method.needs, **parts)).kept.tolist() == [1]


# --- SparseVLM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recycle", [0.3, 0.9])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(2, 3), (7, 3), (23, 11), (61, 16)])
def test_sparsevlm(n, d, dtype, recycle):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for keep in {1, (n + 1) // 3, n - 1}:
        method = SparseVLM(keep=(keep,), layers=(2,), recycle=recycle)
        seen = view(method, hidden)
        score = scores(n, references.raters(*seen.embedded, 4), 0)
        kept, labels, states = references.sparsevlm(hidden, score, keep, recycle, 0.1)
        found = method.select(seen)
        assert found.kept.tolist() == kept
        assert found.labels.tolist() == labels
        assert found.sizes is None
        assert found.hidden.dtype == dtype
        assert (found.hidden.double() - states).abs().max() < 1e-5
        assert len(kept) == method.count(n)


def test_sparsevlm_counts_of_the_public_code():
    """`score.py` keeps 300, 200 and 110 of what comes; 30 % of the rest and one become a tenth of that and one."""
    left, expected = 576, []
    for keep in (300, 200, 110):
        recycled = int((left - keep) * 0.3) + 1
        left = keep + int(recycled / 10) + 1
        expected.append(left)
    method = SparseVLM()
    assert [method.count(576, site) for site in range(3)] == expected == [309, 204, 113]
    assert method.sites(32) == (3, 7, 16)
    assert method.sites(28) == (3, 6, 14)
    assert method.sites(4) == (1, 2, 3)


def test_sparsevlm_goes_through_its_sites():
    """Budgets are of the tokens before the first site; merged tokens count among those that a site finds."""
    method, n = SparseVLM(), 60
    hidden = normal(n, 8)
    for site in range(3):
        found = method.select(view(method, hidden, site=site, n_first=n))
        assert len(found.kept) == method.count(n, site)
        hidden = found.hidden


@pytest.mark.parametrize("text", [2, 6, 15])
def test_raters(text):
    visual, words = normal(9, 8, seed=text), normal(text, 8, seed=text + 1)
    for tail in {1, 2, text}:
        found = methods.sparsevlm.raters(visual, words, tail)
        assert found.tolist() == references.raters(visual, words, tail)
    assert methods.sparsevlm.raters(visual, words[[0, 0, 0]], 2).tolist() == [1, 2]


def test_sparsevlm_ties_and_duplicates():
    hidden = torch.ones(12, 4)
    method = SparseVLM(keep=(3,), layers=(2,), recycle=1.0, clusters=0.2)
    found = method.select(view(method, hidden, score=torch.ones(12)))
    # 9 alike are recycled into int(9 * 0.2) + 1 = 2, the first two of them; the others join the first.
    assert found.kept.tolist() == [0, 1, 2, 3, 4]
    assert found.labels.tolist() == [0, 1, 2, 3, 4] + 7 * [3]
    assert torch.equal(found.hidden, torch.ones(5, 4))
    nothing = SparseVLM(keep=(3,), layers=(2,), recycle=0)
    found = nothing.select(view(nothing, hidden, score=torch.arange(12.0)))
    assert found.kept.tolist() == [9, 10, 11]
    assert nothing.count(12) == 3


# --- k-means, EntropyPrune ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "count"), [(1, 1), (9, 3), (40, 7), (25, 25)])
def test_tokens_far_from_each_other(n, count, dtype):
    points = normal(n, 5, seed=n, dtype=dtype)
    assert spread(points, count).tolist() == references.spread(points, count)


def test_of_duplicates_the_lower_is_taken():
    points = torch.tensor([[0.0], [4.0], [4.0], [0.0]])
    assert spread(points, 4).tolist() == references.spread(points, 4) == [0, 1, 0, 0]


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(1, 5), (7, 3), (31, 11), (50, 16)])
def test_entropyprune(n, d, dtype, layers):
    hidden = normal(n, d, seed=n, dtype=dtype)
    for clusters, core, per_cluster in ((1, 1, 3), (5, 2, 2), (12, 7, 1)):
        method = EntropyPrune(clusters=clusters, core=core, per_cluster=per_cluster)
        seen = view(method, hidden, layers=layers)
        found = method.select(seen)
        expected = references.entropyprune([*seen.earlier, hidden], min(n, clusters), core, per_cluster)
        assert found.kept.tolist() == expected
        assert len(expected) <= core * per_cluster


@pytest.mark.parametrize("layers", [0, 2])
@pytest.mark.parametrize(("n", "d"), [(1, 5), (7, 3), (37, 11)])
def test_entropyprune_naive(n, d, layers):
    hidden = normal(n, d, seed=n)
    method = EntropyPrune(naive=True, keep=0.4)
    seen = view(method, hidden, layers=layers)
    expected = references.combined([references.drops(x) for x in (*seen.earlier, hidden)])
    assert method.select(seen).kept.tolist() == sorted(references.top(expected, method.count(n)))


def test_a_token_of_its_own_carries_more_entropy_than_a_double():
    hidden = torch.tensor([[1.0, 0, 0], [1.0, 0, 0], [1.0, 0, 0], [0, 0, 0], [0, 1.0, 0]])
    method = EntropyPrune(naive=True, keep=1)
    assert method.select(view(method, hidden)).kept.tolist() == [4]
    drops = methods.entropyprune.entropy_drops(hidden)
    assert (drops - torch.tensor(references.drops(hidden), dtype=torch.float64)).abs().max() < 1e-12
    assert drops[3] == 0  # a zero vector has no part


def test_entropyprune_of_duplicates():
    """Every cluster has a token, doubles too, while a near pair makes the drops of two others negative. Which of two
    alike tokens stays is for the eigenvalues' rounding to say, so the processor's: what stays is told by its drops."""
    hidden = torch.tensor([[1.0, 0], [1.0, 0], [1.0, 0.1], [0, 1.0], [0, 1.0]])
    drops = torch.tensor(references.drops(hidden), dtype=torch.float64)
    largest = drops.sort(descending=True).values
    for core in (1, 3, 5):
        method = EntropyPrune(clusters=5, core=core, per_cluster=1)
        kept = method.select(view(method, hidden)).kept
        assert len(kept.unique()) == core
        assert (drops[kept].sort(descending=True).values - largest[:core]).abs().max() < 1e-12


def test_entropyprune_says_what_it_looks_at():
    assert EntropyPrune(layer=5, rollout=2).looks(8) == (2, 3, 4)
    assert EntropyPrune(layer=5).looks(8) == ()


# --- Parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divprune:keep=0", "DivPrune: keep must be a share"),
        ("divprune:start=first", "DivPrune: start must be 'farthest' or 'isolated', got 'first'"),
        ("cdpruner:keep=2.0", "CDPruner: keep must be a share"),
        ("cdpruner:theta=1.0", "CDPruner: theta must be None or a number in"),
        ("cdpruner:negate=2", "CDPruner: negate must be True or False"),
        ("trim:keep=-1", "Trim: keep must be a share"),
        ("trim:negate=no", "Trim: negate must be True or False"),
        ("dart:layer=-1", "Dart: layer must be an integer >= 0"),
        ("dart:pivots=0", "Dart: pivots must be an integer >= 1"),
        ("dart:text_pivots=-2", "Dart: text_pivots must be an integer >= 0"),
        ("sparsevlm:keep=0.5", "SparseVLM: keep must be a tuple"),
        ("sparsevlm:keep=(0.5,0.2)", "SparseVLM: keep must be three"),
        ("sparsevlm:layers=(2,1,5)", "SparseVLM: layers must be as many as keep has, ascending integers >= 1"),
        ("sparsevlm:recycle=2", "SparseVLM: recycle must be a share in"),
        ("entropyprune:clusters=0", "EntropyPrune: clusters must be an integer >= 1"),
        ("entropyprune:rollout=3", "EntropyPrune: rollout must be at most layer, 0, got 3"),
        ("entropyprune:naive=1", "EntropyPrune: naive must be True or False"),
    ],
)
def test_bad_parameters(text, message):
    with pytest.raises(ValueError, match=message):
        methods.parse(text)


def test_tuples_by_name():
    method = methods.parse("sparsevlm:keep=(0.5;20),layers=(2,5)")
    assert method == SparseVLM(keep=(0.5, 20), layers=(2, 5))
    assert methods.parse(str(method)) == method


@pytest.mark.parametrize("method", [CDPruner(), Trim(), SparseVLM()], ids=str)
def test_text_is_wanted(method):
    with pytest.raises(ValueError, match=f"{type(method).__name__}: .*text"):
        method.select(view(method, normal(20, 4), text=0, tail=0))
