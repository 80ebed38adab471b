"""Methods on embeddings and text inside models: what their views show, and the full-length model that only masks."""

from __future__ import annotations

import pytest
import torch

import pact_ext
from models import tiny
from models.replay import Recorder, groups_of, replayed_logits
from models.test_methods import STEPS, build, sites_of
from pact_ext import methods
from pact_ext.methods import Method, Selection

METHODS = {
    "trim": methods.Trim(),
    "divprune": methods.DivPrune(keep=0.3),
    "cdpruner": methods.CDPruner(keep=0.3),
    "dart": methods.Dart(layer=3, keep=0.5),
    "sparsevlm": methods.SparseVLM(keep=(0.5, 0.3, 0.2)),
    "entropyprune": methods.EntropyPrune(clusters=8, core=4, layer=4, rollout=2),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_only_masks(name):
    model = build("llava")
    inputs, recorder = tiny.inputs(model, 3, text_only_row=True), Recorder(METHODS[name])
    with pact_ext.apply(model, recorder) as handle:
        logits, tokens = tiny.generate(model, inputs, STEPS)
        assert handle.last[2] is None
    calls = [(groups_of(inputs), recorder.found)]
    expected = replayed_logits(model, inputs, sites_of(recorder, model), calls, tokens)
    assert (logits - expected).abs().max() < 1e-9
    stock, _ = tiny.generate(model, inputs, STEPS)
    assert (logits[:2, 0] - stock[:2, 0]).abs().max() > 1e-4, "nothing was reduced"
    for site, view, selection in recorder.found:
        count = recorder.method.count(view.n_first, site)
        assert len(selection.kept) == (count or len(selection.kept)) < len(view)


class Looker(Method):
    """Halves the tokens at two sites, after it has noted all that it sees of the text."""

    needs = frozenset({"received", "text", "text_keys", "tail", "embedded"})

    def __init__(self, rows):
        self.rows, self.seen = rows, []

    def sites(self, layers):
        return (2, 4)

    def select(self, view):
        at = torch.tensor(self.rows) + len(view.text) - view.tail
        self.seen.append((view.text, view.text_keys, view.tail, view.embedded, view.received(at)))
        return Selection(torch.arange(0, len(view), 2))


@pytest.mark.parametrize("rows", [[0], [2, 0, 1]])
@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "internvl_qwen3"])
def test_views_of_text(variant, rows):
    """At the first site what the model itself has; at the second the same text, over fewer columns."""
    model = build(variant, attn_implementation="eager", dtype=torch.float32)
    inputs, looker = tiny.inputs(model, 2), Looker(rows)
    with torch.no_grad():
        out = model(**inputs, output_attentions=True, output_hidden_states=True, use_cache=True)
    with pact_ext.apply(model, looker):
        model(**inputs)
    assert len(looker.seen) == 4
    for number, (text, keys, tail, (visual, words), received) in enumerate(looker.seen):
        row, site = number % 2, number // 2
        present = inputs["attention_mask"][row].bool()
        is_visual = torch.isin(inputs["input_ids"][row], torch.tensor([tiny.IMAGE, tiny.VIDEO])) & present
        places, others = is_visual.nonzero().flatten(), (present & ~is_visual).nonzero().flatten()
        assert tail == len(present) - 1 - int(places[-1])
        assert torch.equal(visual, out.hidden_states[0][row, places])
        assert torch.equal(words, out.hidden_states[0][row, others])
        assert len(text) == len(others)
        if site == 0:
            assert (text - out.hidden_states[2][row, others]).abs().max() < 1e-5
            cached = out.past_key_values.layers[2].keys[row].transpose(0, 1)[others]
            assert (keys - cached).abs().max() < 1e-4
            asked = others[len(others) - tail + torch.tensor(rows)]
            expected = out.attentions[1][row][:, asked].double().mean(dim=(0, 1))[places]
            assert (received - expected).abs().max() < 1e-5
        else:
            assert len(received) == (len(places) + 1) // 2


def test_text_before_an_image_sees_none_of_it():
    model = build("llava")
    inputs = tiny.inputs(model, 1)

    class Before(Looker):
        def select(self, view):
            assert view.received(torch.tensor([0, 1])).abs().max() == 0
            assert view.received(torch.tensor([len(view.text) - 1])).min() > 0
            self.seen.append(view)
            return Selection(torch.arange(0, len(view), 2))

    looker = Before([])
    with pact_ext.apply(model, looker):
        model(**inputs)
    assert len(looker.seen) == 2


@pytest.mark.parametrize("variant", ["llava", "qwen3_vl"])
def test_earlier_layers(variant):
    """The same tokens at the inputs of the layers before, to which Qwen3-VL adds features of its own."""
    model = build(variant, dtype=torch.float32)
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.EntropyPrune(layer=4, rollout=1))
    states = {}
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, number=number: states.update({number: args[0].clone()}))
        for number, layer in enumerate(tiny.decoder(model).layers)
    ]
    model(**inputs)
    for hook in hooks:
        hook.remove()
    with pact_ext.apply(model, recorder):
        model(**inputs)
    for row, ((places,), (_, view, _)) in enumerate(zip(groups_of(inputs), recorder.found, strict=True)):
        assert len(view.earlier) == 3
        for layer, found in zip((1, 2, 3), view.earlier, strict=True):
            assert torch.equal(found, states[layer][row, places])


def test_a_second_turn_with_an_image():
    """Text of the turn before is in the cache, and does not rate."""
    model = build("llava")
    inputs, recorder = tiny.inputs(model, 2), Recorder(METHODS["sparsevlm"])
    with pact_ext.apply(model, recorder):
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
        first, recorder.found = recorder.found, []
        whole, turn = tiny.more(model, inputs, out.sequences[:, -3:], image=True)
        logits = model(**turn, past_key_values=out.past_key_values).logits[:, -1:]
    past = whole["input_ids"].shape[1] - turn["input_ids"].shape[1]
    groups = [[places[places < past] for places in row] for row in groups_of(whole)]
    added = [[places[places >= past] for places in row] for row in groups_of(whole)]
    calls = [(groups, first), (added, recorder.found)]
    expected = replayed_logits(model, whole, sites_of(recorder, model), calls, torch.zeros(2, 1, dtype=torch.int64))
    assert (logits - expected).abs().max() < 1e-9
