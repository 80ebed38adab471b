"""The oracle itself: that it is the stock model where nothing is reduced, and right where something is."""

from __future__ import annotations

import itertools
from functools import cache

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig

LAYER = 3
KEEP = PactConfig(cluster=False, prune_ratio=0.0)
REDUCE = PactConfig(prune_ratio=0.4, dc=0.3)
EXACT = {"rtol": 0, "atol": 1e-9}
TOLERANCE = {torch.float64: EXACT, torch.float32: {"rtol": 0, "atol": 1e-4}}
MARGIN = 1e-3  # what a wrong model must be off by, on logits with a standard deviation of about 1

VARIANTS = pytest.mark.parametrize("variant", tiny.VARIANTS)
KINDS = pytest.mark.parametrize("variant", tiny.KINDS)
SWITCHES = pytest.mark.parametrize(
    "switches",
    [{}, {"prune": False}, {"cluster": False}, {"recover": False}, {"merge": False}, {"gaussian": False, "dn": 0.3}],
    ids=lambda switches: next(iter(switches), "all"),
)


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the models are too small to share


@cache
def model(variant):
    return tiny.build(variant)


def first_logits(stock, inputs, config=REDUCE, **options):
    return oracle.masked_logits(stock, inputs, LAYER, config, 1, **options)[0][:, 0]


def run_to_layer(stock, inputs, use_cache=False):
    """What reaches the layer in a forward of the stock model, (hidden, cos, sin), and the forward's output."""
    seen = []
    hook = (
        tiny.decoder(stock)
        .layers[LAYER]
        .register_forward_pre_hook(
            lambda module, args, kwargs: seen.append((args[0], *kwargs["position_embeddings"])), with_kwargs=True
        )
    )
    output = stock(**inputs, use_cache=use_cache)
    hook.remove()
    return seen[0], output


# --- Nothing reduced: the stock model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "batch", "rows"),
    [
        *itertools.product(tiny.KINDS, [2], [{}, {"text_only_row": True}, {"text_only": True}]),
        *itertools.product(tiny.KINDS, [1], [{}]),
        *itertools.product(tiny.OTHERS, [2], [{}]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_that_keeps_everything_generates_as_the_stock_model(variant, batch, rows):
    stock = model(variant)
    inputs = tiny.inputs(stock, batch, **rows)
    wanted_logits, wanted_tokens = tiny.generate(stock, inputs, 4)

    logits, tokens, kept = oracle.masked_logits(stock, inputs, LAYER, KEEP, 4)

    torch.testing.assert_close(logits, wanted_logits, **TOLERANCE[stock.dtype])
    assert torch.equal(tokens, wanted_tokens)
    assert all(len(row.removed) == 0 for row in kept)


@KINDS
def test_clusters_of_distance_zero_keep_everything(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    logits, _, kept = oracle.masked_logits(stock, inputs, LAYER, PactConfig(prune=False, dc=0.0), 1)

    torch.testing.assert_close(logits[:, 0], first_logits(stock, inputs, KEEP), **EXACT)
    assert all(len(row.removed) == 0 for row in kept)


@KINDS
def test_leaves_the_model_as_it_was(variant):
    stock = tiny.build(variant)
    inputs = tiny.inputs(stock, 2)
    before = stock(**inputs).logits
    offset = getattr(stock.model, "rope_deltas", None)

    oracle.masked_logits(stock, tiny.inputs(stock, 1, seed=5), LAYER, REDUCE, 2)

    assert getattr(stock.model, "rope_deltas", None) is offset
    torch.testing.assert_close(stock(**inputs).logits, before, rtol=0, atol=0)


@KINDS
@pytest.mark.parametrize("image", [False, True], ids=["text", "image"])
def test_the_next_turn_of_a_conversation(variant, image):
    stock = model(variant)
    prompt = tiny.inputs(stock, 2)
    first = stock.generate(**prompt, max_new_tokens=3, return_dict_in_generate=True)
    generated = first.sequences[:, -3:]

    whole, turn = tiny.more(stock, prompt, generated, image=image)
    logits = stock(**turn, past_key_values=first.past_key_values).logits[:, -1]

    assert ((whole["input_ids"] == tiny.IMAGE).sum(1) > (prompt["input_ids"] == tiny.IMAGE).sum(1)).all() == image
    torch.testing.assert_close(logits, first_logits(stock, whole, KEEP), **EXACT)


# --- What is reduced ----------------------------------------------------------------------------------------


@VARIANTS
def test_keys_and_queries_are_those_of_the_layer(variant):
    """Before rotary embedding what its modules give, after it what the stock model puts in its cache."""
    stock = model(variant)
    layer = tiny.decoder(stock).layers[LAYER]
    modules = [getattr(layer.self_attn, name, None) for name in ("k_norm", "q_norm")]
    if None in modules:
        modules = [layer.self_attn.k_proj, layer.self_attn.q_proj]
    given = []
    hooks = [m.register_forward_hook(lambda module, args, output: given.append((module, output))) for m in modules]
    (hidden, cos, sin), output = run_to_layer(stock, tiny.inputs(stock, 2), use_cache=True)
    for hook in hooks:
        hook.remove()
    given = dict(given)

    keys, queries, rotated = oracle.keys_and_queries(layer, hidden, cos, sin)

    for found, module in zip((keys, queries), modules, strict=True):
        torch.testing.assert_close(found, given[module].reshape(found.shape), **TOLERANCE[stock.dtype])
    cached = output.past_key_values.layers[LAYER].keys
    torch.testing.assert_close(rotated.transpose(1, 2), cached, **TOLERANCE[stock.dtype])


@SWITCHES
def test_reduces_as_the_operators(switches):
    stock = model("llava_onevision")
    inputs = tiny.inputs(stock, 1)
    config = PactConfig(prune_ratio=0.4, dc=0.3, **switches)
    _, _, (row,) = oracle.masked_logits(stock, inputs, LAYER, config, 1)

    layer_input, _ = run_to_layer(stock, inputs)
    keys, queries, rotated = oracle.keys_and_queries(tiny.decoder(stock).layers[LAYER], *layer_input)
    tokens = (x[0, row.visual].float() for x in (layer_input[0], keys, queries))
    reduction = pact_ext.reduce(*tokens, cluster_keys=rotated[0, row.visual].float(), config=config)

    assert torch.equal(row.centers, row.visual[reduction.centers])
    assert torch.equal(row.labels, reduction.labels)
    assert torch.equal(row.sizes, reduction.sizes)


@VARIANTS
def test_tokens_merge_and_go(variant):
    """The inputs are worth testing with: clusters, single tokens and discarded ones, in every row."""
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    _, _, kept = oracle.masked_logits(stock, inputs, LAYER, REDUCE, 1)

    assert len(kept[0].visual) != len(kept[1].visual)
    for ids, row in zip(inputs["input_ids"], kept, strict=True):
        assert torch.equal(row.visual, (ids == tiny.IMAGE).nonzero().flatten())
        assert torch.equal(torch.cat([row.centers, row.removed]).sort().values, row.visual)
        assert torch.equal(torch.bincount(row.labels[row.labels >= 0]), row.sizes)
        assert row.sizes.max() > 2
        assert len(row.centers) > 4
        assert row.sizes.min() == 1
    assert any((row.labels < 0).any() for row in kept)


@VARIANTS
def test_each_image_by_itself(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    counts = tiny.image_tokens(inputs["input_ids"])
    _, _, (two, one) = oracle.masked_logits(stock, inputs, LAYER, REDUCE, 1)
    _, _, (apart, alone) = oracle.masked_logits(stock, inputs, LAYER, REDUCE, 1, apart=counts)

    assert torch.equal(one.labels, alone.labels)
    assert not torch.equal(two.labels, apart.labels)
    first = apart.visual[: counts[0][0]]
    joined = apart.labels >= 0
    centers = apart.centers[apart.labels]
    assert torch.equal(torch.isin(apart.visual, first)[joined], torch.isin(centers, first)[joined])
    assert torch.equal(apart.sizes, torch.bincount(apart.labels[joined]))


# --- The reduced model --------------------------------------------------------------------------------------


def shortened(stock, inputs, row, config):
    """The last logits of one prompt without padding, with the removed tokens really taken out."""
    decoder = tiny.decoder(stock)
    (before, cos, sin), _ = run_to_layer(stock, inputs)
    hidden, log_size = before.clone(), torch.zeros(before.shape[1], dtype=torch.float64)
    for place, (center, size) in enumerate(zip(row.centers.tolist(), row.sizes.tolist(), strict=True)):
        if config.cluster and config.merge:
            hidden[0, center] = before[0, row.visual[row.labels == place]].mean(0)
        log_size[center] = torch.tensor(float(size), dtype=torch.float64).log()
    stays = torch.ones(hidden.shape[1], dtype=torch.bool)
    stays[row.removed] = False
    hidden, embeddings = hidden[:, stays], (cos[..., stays, :], sin[..., stays, :])
    n = hidden.shape[1]
    mask = log_size[stays].expand(1, 1, n, n).masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    for layer in decoder.layers[LAYER:]:
        output = layer(hidden, attention_mask=mask, position_embeddings=embeddings)
        hidden = output[0] if isinstance(output, tuple) else output
    return stock.lm_head(decoder.norm(hidden[:, -1]))


@KINDS
@SWITCHES
def test_masking_is_leaving_out(variant, switches):
    stock = model(variant)
    inputs = tiny.inputs(stock, 1)
    config = PactConfig(prune_ratio=0.4, dc=0.3, **switches)

    logits, _, (row,) = oracle.masked_logits(stock, inputs, LAYER, config, 1)

    assert len(row.removed)
    torch.testing.assert_close(logits[:, 0], shortened(stock, inputs, row, config), **EXACT)


@KINDS
def test_rows_do_not_touch_each_other(variant):
    stock = model(variant)
    both, tokens, _ = oracle.masked_logits(stock, tiny.inputs(stock, 2), LAYER, REDUCE, 3)
    alone, _, _ = oracle.masked_logits(stock, tiny.inputs(stock, 1), LAYER, REDUCE, 3)

    torch.testing.assert_close(both[:1], alone, **EXACT)
    assert both.isfinite().all()
    forced, same, _ = oracle.masked_logits(stock, tiny.inputs(stock, 1), LAYER, REDUCE, 3, forced=tokens[:1])
    torch.testing.assert_close(forced, alone, **EXACT)
    assert torch.equal(same, tokens[:1])


@KINDS
def test_a_row_of_text_is_not_reduced(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2, text_only_row=True)
    logits, _, kept = oracle.masked_logits(stock, inputs, LAYER, REDUCE, 2)
    untouched, _, _ = oracle.masked_logits(stock, inputs, LAYER, KEEP, 2)

    assert len(kept[0].removed)
    assert len(kept[1].visual) == 0
    torch.testing.assert_close(logits[1], untouched[1], **EXACT)


@KINDS
def test_a_later_turn_does_not_change_the_reduction(variant):
    stock = model(variant)
    prompt = tiny.inputs(stock, 2)
    _, tokens, kept = oracle.masked_logits(stock, prompt, LAYER, REDUCE, 3)
    whole, _ = tiny.more(stock, prompt, tokens)
    _, _, later = oracle.masked_logits(stock, whole, LAYER, REDUCE, 1)

    assert all(torch.equal(a.labels, b.labels) for a, b in zip(kept, later, strict=True))


# --- Wrong models -------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "mistake", [{"log_sizes": False}, {"renumber": True}, {"extra": 1}], ids=["log sizes", "positions", "extra"]
)
def test_a_mistake_shows(variant, mistake):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    off = (first_logits(stock, inputs, **mistake) - first_logits(stock, inputs)).abs().amax(1)
    assert (off > MARGIN).all()


@KINDS
def test_a_reduction_shows(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    off = (first_logits(stock, inputs, KEEP) - first_logits(stock, inputs)).abs().amax(1)
    assert (off > MARGIN).all()
