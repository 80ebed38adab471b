"""The engine on a card: nothing to reduce, caches, pictures apart, the report's time, and what is waited for."""

from __future__ import annotations

import dataclasses
import time

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch

import pact_ext
from models import tiny
from models.cards import STEPS, beyond_doubt, build, card_of, chosen, reduced
from models.replay import groups_of, replayed_logits
from pact_ext import methods
from pact_ext.methods import Method, Selection

PACT = "pact:layer=3;dc=0.6"


@pytest.fixture(params=["pretended", "cuda"])
def card(request, monkeypatch):
    with card_of(request.param, monkeypatch) as found:
        yield found


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        *((variant, torch.float32) for variant in tiny.KINDS),
        *((each, torch.bfloat16) for each in ("llava", "qwen2_vl")),
    ],
    ids=str,
)
def test_keeping_everything_is_the_stock_model(card, variant, dtype):
    model = card.put(build(variant, dtype=dtype))
    for batch in (1, 2):  # the second is padded, where sdpa gets another mask
        inputs = card.put(tiny.inputs(model, batch))
        expected, tokens = tiny.generate(model, inputs, STEPS)
        with pact_ext.apply(model, pact_ext.PactConfig(cluster=False, prune_ratio=0.0, layer=3)) as handle:
            logits, same = tiny.generate(model, inputs, STEPS)
            assert [r.n_out for r in handle.last] == [r.n_in for r in handle.last]
        if batch == 1:
            assert torch.equal(logits, expected)
            assert torch.equal(same, tokens)
        elif dtype == torch.float32:
            assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("attention", ["fused", "dense"])
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_static_caches(card, variant, attention):
    model = build(variant)
    inputs, _ = beyond_doubt(card, model, PACT)
    expected, tokens, _ = reduced(model, inputs, PACT)
    moved, inputs = card.put(model), card.put(inputs)
    with pact_ext.apply(moved, PACT, attention=attention):
        for cache in ("dynamic", "static"):
            logits, same = tiny.generate(moved, inputs, STEPS, cache_implementation=cache, disable_compile=True)
            assert torch.equal(same.cpu(), tokens)
            assert (logits.cpu() - expected).abs().max() < card.tolerance


@pytest.mark.parametrize("method", [PACT, "fastv:layer=4;keep=0.4"])
@pytest.mark.parametrize("variant", ["llava_next", "internvl", "qwen3_vl", "idefics3"])
def test_pictures_apart(card, variant, method):
    model = build(variant)
    inputs, expected = beyond_doubt(card, model, method, per_image=True)
    logits, tokens, found = reduced(card.put(model), card.put(inputs), method, per_image=True)
    assert chosen(found) == expected
    assert len(found) == 3, "two pictures, one, none"
    calls, site = [(groups_of(inputs, True), found)], methods.coerce(method).sites(6)
    assert (logits - replayed_logits(model, inputs, site, calls, tokens)).abs().max() < card.tolerance


def test_beams_and_a_second_turn(card):
    model = build("llava")
    inputs, _ = beyond_doubt(card, model, PACT, batch=2)
    found = []
    for place in (model, card.put(model)):
        own = inputs if place is model else card.put(inputs)
        with pact_ext.apply(place, PACT):
            beams = place.generate(**own, num_beams=3, max_new_tokens=4)
            out = place.generate(**own, max_new_tokens=3, return_dict_in_generate=True)
            _, turn = tiny.more(model, inputs, out.sequences[:, -3:].cpu(), image=True)
            turn = turn if place is model else card.put(turn)
            logits = place(**turn, past_key_values=out.past_key_values).logits[:, -1]
        found.append((beams.cpu(), logits.cpu()))
    assert torch.equal(found[0][0], found[1][0])
    assert (found[0][1] - found[1][1]).abs().max() < card.tolerance


# --- What the handle says ---------------------------------------------------------------------------------------


def test_the_handle(card):
    model, inputs = build("qwen2_vl"), tiny.inputs(build("qwen2_vl"), 3, text_only_row=True)
    moved = card.put(model)
    with pact_ext.apply(moved, "fastv:layer=2;keep=0.4") as handle:
        cache = moved(**card.put(inputs), use_cache=True).past_key_values
        report = handle.report(synchronize=True)
    with pact_ext.apply(model, "fastv:layer=2;keep=0.4") as expected:
        model(**inputs, use_cache=True)
    assert report.seconds > 0
    numbers = {**report.as_dict(), "seconds": None}
    assert numbers == {**expected.report().as_dict(), "seconds": None}
    assert report.cache_bytes == sum(x.keys.nbytes + x.values.nbytes for x in cache.layers)
    assert torch.equal(handle.columns.cpu(), expected.columns)
    for one, other in zip(handle.last, expected.last, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            on_card = (one.merged, one.sizes, one.log_sizes, one.centers, one.labels, one.position_ids)
            assert {x.device.type for x in on_card} == {"cuda"}


@dataclasses.dataclass(frozen=True)
class Sleepy(Method):
    """Keeps the card, and not the host, busy for a while."""

    cycles: int

    def sites(self, layers):
        return (3,)

    def select(self, view):
        torch.cuda._sleep(self.cycles)
        return Selection(torch.arange(0, len(view), 2, device=view.hidden.device))


def test_the_report_s_time_is_the_card_s(card):
    if not card.real:
        pytest.skip("only a card works on while the host goes on")
    model = card.put(build("llava", dtype=torch.float32))
    inputs = card.put(tiny.inputs(model, 1))
    with pact_ext.apply(model, Sleepy(1)) as handle:
        model(**inputs)  # warms up
        short = handle.report(synchronize=True).seconds
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    with pact_ext.apply(model, Sleepy(400_000_000)) as handle:
        torch.cuda.synchronize()
        begin = time.perf_counter()
        start.record()
        model(**inputs)
        end.record()
        assert handle.report().seconds is None, "it waited for the card"
        seconds = handle.report(synchronize=True).seconds
        torch.cuda.synchronize()
        wall = time.perf_counter() - begin
    assert 0.05 < seconds < start.elapsed_time(end) / 1e3 <= wall
    assert short < 0.02


# --- What is waited for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(
    "method",
    [
        *(
            "pact:keep=0.3;layer=3",
            "fastv:keep=0.3",
            "divprune:keep=0.3",
            "dpc:keep=0.3;layer=3",
            "random",
            "dart",
            "tome",
        ),
        *("trim:keep=0.3", "vtw", "cdpruner", "pyramiddrop", "pact:layer=3;cluster=False"),
    ],
)
def test_a_reduction_waits_for_the_ids_and_the_mask_alone(card, method, padded):
    """Whatever the number of rows; where the count is known beforehand."""
    model = card.put(build("llava", dtype=torch.float32))
    inputs = card.put(tiny.inputs(model, 3 if padded else 1))
    with torch.no_grad(), pact_ext.apply(model, method):
        out = model(**inputs, use_cache=True)  # warms up
        with card.waits() as waits:
            out = model(**inputs, use_cache=True)
        ids = out.logits[:, -1:].argmax(-1)
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        step = {"input_ids": ids, "attention_mask": mask, "past_key_values": out.past_key_values}
        with card.waits() as while_decoding:
            model(**step)
    files = [wait.partition(":")[0] for wait in waits]
    assert sorted(files) == ["forward.py", *(["masks.py"] if padded else [])], waits
    assert while_decoding == []
