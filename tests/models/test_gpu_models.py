"""Models on a card: every family and every method, held to the CPU and to the full-length model that only masks.

What a method keeps may hang on rounding, which differs between devices. So inputs are taken on which it does not, and
logits are held to what the stock model computes with the tokens that were kept on the card.
"""

from __future__ import annotations

import copy
import dataclasses

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch
from certificate import check_clustering

import pact_ext
from bench.method_cases import methods_at
from models import tiny
from models.cards import STEPS, beyond_doubt, build, card_of, chosen, host, reduced
from models.replay import groups_of, replayed_logits
from pact_ext import PactConfig, methods, ops, reference
from pact_ext.methods import Method, Selection

PACT = "pact:layer=3;dc=0.6"


@pytest.fixture(params=["pretended", "cuda"])
def card(request, monkeypatch):
    with card_of(request.param, monkeypatch) as found:
        yield found


def check_on_card(card, variant: str, method: str, **options) -> None:
    model = build(variant)
    inputs, expected = beyond_doubt(card, model, method, **options)
    logits, tokens, found = reduced(card.put(model), card.put(inputs), method, **options)
    assert chosen(found) == expected
    sites = methods.coerce(method).sites(len(tiny.decoder(model).layers))
    calls = [(groups_of(inputs, options.get("per_image", False)), found)]
    masked = replayed_logits(model, inputs, sites, calls, tokens)
    assert (logits - masked).abs().max() < (card.tolerance if model.dtype == torch.float64 else 1e-3)
    assert torch.equal(tokens, masked.argmax(-1)) or model.dtype == torch.float32


# --- Every family, every method ---------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", tiny.VARIANTS)
def test_every_family(card, variant):
    check_on_card(card, variant, PACT)


@pytest.mark.parametrize("variant", ["qwen2_vl", "qwen3_vl", "aya_vision"])
def test_attention_where_positions_and_heads_differ(card, variant):
    check_on_card(card, variant, "fastv:layer=4;keep=0.4")


METHODS = methods_at(0.3, layer=3, later=(1, 3, 5))
METHODS |= {"pact, published": PACT, "trim, outliers": "trim", "divprune, isolated": "divprune:start=isolated"}
METHODS |= {"prumerge, outliers": "prumerge", "fastv, prefix": "fastv:rows=prefix", "tome, by number": "tome:r=3"}
METHODS |= {"entropyprune, rollout": "entropyprune:layer=2;rollout=1;clusters=6;core=3;per_cluster=2"}
METHODS["entropyprune"] = "entropyprune:clusters=6;core=3;per_cluster=2"
METHODS["dbscan"] = "dbscan:eps=0.4;min_samples=2;layer=3"
TRAINED = {"llama-vid", "dyrate"}


def test_no_method_is_missing():
    assert {methods.parse(method).name for method in METHODS.values()} == {*methods.names()} - TRAINED


@pytest.mark.parametrize("name", METHODS)
def test_every_method(card, name):
    check_on_card(card, "llava", METHODS[name])


@pytest.mark.parametrize("name", ["downsample", "prumerge", "prumerge+", "hired", "visionzip", "llava-onevision-7b"])
def test_methods_over_tiles(card, name):
    check_on_card(card, "llava_next", METHODS.get(name, name))


def test_llama_vid(card):
    model = build("llava")
    torch.manual_seed(0)
    module, inputs = methods.ContextAttention.for_model(model).double(), tiny.inputs(model, 2)
    expected, tokens, _ = reduced(model, inputs, methods.LlamaVID(keep=5, weights=module))
    on_card = methods.LlamaVID(keep=5, weights=card.put(module))
    logits, same, _ = reduced(card.put(model), card.put(inputs), on_card)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < card.tolerance


def test_dyrate(card):
    model = build("llava")
    torch.manual_seed(0)
    module, inputs = methods.RateClassifier(rates=5), tiny.inputs(model, 2)
    module.net[-1].bias.data[:] = torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0])  # without a doubt
    with pact_ext.apply(model, methods.DyRate(weights=copy.deepcopy(module))):
        expected, tokens = tiny.generate(model, inputs, STEPS)
    moved = card.put(model)
    with pact_ext.apply(moved, methods.DyRate(weights=card.put(module))):
        logits, same = (x.cpu() for x in tiny.generate(moved, card.put(inputs), STEPS))
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < 1e-5
    assert (expected - reduced(model, inputs, "random:keep=1.0")[0]).abs().max() > 1e-4, "nothing was evicted"


# --- The dtypes that models have --------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "internvl"])
def test_float32_is_the_cpu_s(card, variant):
    model = build(variant, dtype=torch.float32)
    inputs, expected = beyond_doubt(card, model, PACT)
    wanted, tokens, _ = reduced(model, inputs, PACT)
    logits, same, found = reduced(card.put(model), card.put(inputs), PACT)
    assert chosen(found) == expected
    assert torch.equal(same, tokens)
    assert (logits - wanted).abs().max() < 1e-3


@dataclasses.dataclass(frozen=True)
class Again(Method):
    """Merges as it was merged elsewhere, whatever the hidden states are here."""

    selections: tuple

    def sites(self, layers):
        return (3,)

    def select(self, view):
        one = self.selections[view.row]
        hidden, _ = reference.segment_mean(view.hidden, one.labels, len(one.kept))
        return Selection(one.kept, one.labels, hidden, one.sizes)

    needs = frozenset({"row"})


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_bfloat16_is_proven_and_no_less_precise_than_the_stock_model(card, variant):
    model, config = build(variant, dtype=torch.bfloat16), PactConfig(layer=3, dc=0.6)
    exact = copy.deepcopy(model).float()
    inputs = tiny.inputs(model, 2)
    moved, there = card.put(model), card.put(inputs)
    logits, _, found = reduced(moved, there, methods.Pact(config), steps=1)
    for _, view, one in found:
        scores = ops.euti_scores(view.hidden, view.keys, view.queries)
        kept, _ = (x.cpu() for x in reference.split(scores, config.prune_ratio))
        local = torch.searchsorted(kept, one.kept)
        assert torch.equal(kept[local], one.kept)
        keys = host(view.turned_keys)[kept]
        check_clustering(keys, config.dc, config.dn, config.gaussian, local, one.labels[kept])
    stock = tiny.generate(moved, there, 1)[0].cpu()
    inputs = {**inputs, "pixel_values": inputs["pixel_values"].float()}
    error_of_stock = (stock - tiny.generate(exact, inputs, 1)[0]).abs().max()
    again, _, _ = reduced(exact, inputs, Again(tuple(one for _, _, one in found)), steps=1)
    assert (logits - again).abs().max() < 3 * error_of_stock
    assert (again - tiny.generate(exact, inputs, 1)[0]).abs().max() > 3 * error_of_stock, "nothing was merged"
