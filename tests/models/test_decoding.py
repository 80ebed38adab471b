"""Methods that evict visual tokens while the answer is generated, held to the full-length model that only masks."""

from __future__ import annotations

import copy

import pytest
import torch

import pact_ext
from models import tiny
from models.oracle import _own_positions
from models.replay import groups_of
from models.test_methods import build
from pact_ext import methods
from pact_ext.methods import Method, Selection

STEPS = 5


class Fewer(Method):
    """Evicts the least attended tokens: with two rows of pictures, four of the first one and one of the second."""

    decodes = True

    def __init__(self, first=0):
        self.name, self.first, self.found = "fewer", first, []

    def sites(self, layers):
        return (self.first,)

    def select(self, view):
        return Selection(torch.arange(len(view)))

    def evict(self, step):
        n = len(step.received)
        kept = (
            step.received.sort(descending=True, stable=True)
            .indices[: n - (4 if len(self.found) % 2 == 0 else 1)]
            .sort()
            .values
        )
        self.found.append((step, kept))
        return kept


class _Masking:
    """Pre-hooks that hide from each token what had been evicted before it."""

    def __init__(self, model, layer):
        self.layers, self.bias = list(tiny.decoder(model).layers)[layer:], None

    def __enter__(self):
        self.handles = [one.register_forward_pre_hook(self.before, with_kwargs=True) for one in self.layers]

    def __exit__(self, *exception):
        for handle in self.handles:
            handle.remove()

    def before(self, layer, args, kwargs):
        return args, {**kwargs, "attention_mask": self.bias}


@torch.no_grad()
def masked_logits(model, inputs, evicted, tokens, layer):
    """Logits ``[B, steps, V]``. `evicted`: step by step, of each row the places that go after it."""
    masking, (rows, steps), prompt = _Masking(model, layer), tokens.shape, inputs["input_ids"].shape[1]
    ids = torch.cat([inputs["input_ids"], tokens[:, :-1]], dim=1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(tokens[:, :-1])], dim=1)
    n = ids.shape[1]
    hidden = mask[:, None, :].bool().logical_not().expand(rows, n, n) | torch.ones(n, n, dtype=torch.bool).triu(1)
    hidden = hidden & ~torch.eye(n, dtype=torch.bool)
    for step, places in enumerate(evicted):
        for row, gone in enumerate(places):
            hidden[row, prompt + step :, gone] = True
    masking.bias = torch.zeros(rows, 1, n, n, dtype=model.dtype).masked_fill(hidden[:, None], -torch.inf)
    whole = {**inputs, "input_ids": ids, "attention_mask": mask}
    if "mm_token_type_ids" in inputs:
        whole["mm_token_type_ids"] = torch.nn.functional.pad(inputs["mm_token_type_ids"], (0, steps - 1))
    if not tiny.has_grids(inputs):
        whole["position_ids"] = tiny.positions(model, whole)
    with masking, _own_positions(model):
        return model(**whole, use_cache=False).logits[:, prompt - 1 :]


def places_evicted(found, groups, steps):
    """What went after each step, of each row, from what a `Fewer` found."""
    left, found, evicted = [torch.cat(row) if row else torch.zeros(0).long() for row in groups], iter(found), []
    for _ in range(steps):
        evicted.append([])
        for row, places in enumerate(left):
            kept = next(found)[1] if len(places) else torch.zeros(0).long()
            evicted[-1].append(places[~torch.isin(torch.arange(len(places)), kept)])
            left[row] = places[kept]
    return evicted, left


@pytest.mark.parametrize(
    ("variant", "first"), [("llava", 0), ("llava", 3), ("qwen2_vl", 0), ("qwen3_vl", 3), ("internvl_qwen3", 0)]
)
@pytest.mark.parametrize("rows", [{"batch": 3, "text_only_row": True}, {"batch": 2, "counts": [1, 1]}], ids=["3", "2"])
def test_an_evicted_token_is_masked_from_then_on(variant, first, rows):
    """In two rows of about one length the first becomes the shorter one, which is then padded."""
    model, method = build(variant), Fewer(first)
    inputs = tiny.inputs(model, **rows)
    with pact_ext.apply(model, method) as handle:
        logits, tokens = tiny.generate(model, inputs, STEPS)
        columns = handle.columns
    evicted, left = places_evicted(method.found, groups_of(inputs), STEPS)
    expected = masked_logits(model, inputs, evicted[:-1], tokens, method.first)
    assert (logits - expected).abs().max() < 1e-9
    stock, _ = tiny.generate(model, inputs, STEPS)
    assert torch.equal(stock[:, 0], logits[:, 0])
    assert (logits[:2, 1] - stock[:2, 1]).abs().max() > 1e-5, "nothing was evicted"
    for row, places in enumerate(left[:2]):
        there = columns[row][columns[row] >= 0]
        gone = torch.cat([step[row] for step in evicted])
        assert torch.isin(places, there).all()
        assert not torch.isin(gone, there).any()
        assert len(there) == int(inputs["attention_mask"][row].sum()) + STEPS - 1 - len(gone)


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_a_step_shows_what_the_model_attends_to(variant):
    model = build(variant, attn_implementation="eager", dtype=torch.float32)
    inputs, method = tiny.inputs(model, 2), Fewer()
    with pact_ext.apply(model, method):
        out = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, output_attentions=True, return_dict_in_generate=True
        )
    groups = groups_of(inputs)
    prompt = inputs["input_ids"].shape[1]
    evicted, _ = places_evicted(method.found, groups, 3)
    left = [torch.arange(prompt)[row.bool()] for row in inputs["attention_mask"]]
    for number, (step, _) in enumerate(method.found):
        time, row = divmod(number, 2)
        visual = groups[row][0]
        places = torch.cat([left[row], torch.arange(prompt, prompt + time)])
        weights = torch.stack([layer[row, :, -1].double().mean(dim=0) for layer in out.attentions[time]])
        weights = weights[:, -len(places) :]
        is_visual = torch.isin(places, visual)
        assert (step.received - weights[:, is_visual].mean(dim=0)).abs().max() < 1e-5
        parts = [places < visual[0], is_visual, (places > visual[0]) & ~is_visual & (places < prompt), places >= prompt]
        shares = torch.stack([weights[:, part].sum(dim=1) for part in parts], dim=1)
        assert (step.shares - shares).abs().max() < 1e-5
        assert step.n_first == len(visual)
        left[row] = left[row][~torch.isin(left[row], evicted[time][row])]


def test_a_second_turn_with_an_image():
    """Its text is instruction, though it comes before its image; what was evicted counts."""
    model, method = build("llava"), Fewer()
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, method):
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        whole, turn = tiny.more(model, inputs, out.sequences[:, -3:], image=True)
        first, method.found = method.found, []
        again = model(**turn, past_key_values=out.past_key_values)
        stages = copy.deepcopy(again.past_key_values.stages)
        more = torch.nn.functional.pad(whole["attention_mask"], (0, 3), value=1)
        model(input_ids=torch.full((2, 3), 5), attention_mask=more, past_key_values=again.past_key_values)
        assert (again.past_key_values.stages[0].kinds[:, -3:] == 2).all(), "several tokens are no answer"
        del method.found[2:]
    past = whole["input_ids"].shape[1] - turn["input_ids"].shape[1]
    evicted, _ = places_evicted(first, groups_of(inputs), 3)
    gone = [torch.cat([step[row] for step in evicted]) for row in range(2)]
    for row, (step, kept) in enumerate(method.found):
        (places,) = groups_of(whole)[row]
        assert step.n_first == len(places)
        assert len(step.received) == len(places) - len(gone[row])
        assert int(stages[0].evicted[row]) == len(gone[row]) + len(step.received) - len(kept)
        assert step.shares[:, 3].min() > 0
        kinds = stages[0].kinds[row][stages[0].places[row] >= 0]
        text = int(whole["attention_mask"][row].sum()) - len(places)
        before = int(places[0]) - int((whole["attention_mask"][row] == 0).sum())
        assert [int((kinds == kind).sum()) for kind in (0, 2, 3)] == [before, text - before - 2, 2]
    masking = _Masking(model, 0)
    n, rows = whole["input_ids"].shape[1], 2
    hidden = ~whole["attention_mask"].bool()[:, None, :].expand(rows, n, n) | torch.ones(n, n).triu(1).bool()
    hidden = hidden & ~torch.eye(n, dtype=torch.bool)
    for time, places in enumerate(evicted):
        for row, one in enumerate(places):
            hidden[row, past - 2 + time :, one] = True
    masking.bias = torch.zeros(rows, 1, n, n, dtype=model.dtype).masked_fill(hidden[:, None], -torch.inf)
    with masking:
        expected = model(**whole, position_ids=tiny.positions(model, whole), use_cache=False).logits[:, -1]
    assert (again.logits[:, -1] - expected).abs().max() < 1e-9


def test_a_cache_that_is_reordered_goes_on_with_its_rows():
    model, method = build("llava"), Fewer()
    inputs = tiny.inputs(model, 2, counts=[1, 1])
    found = []
    with pact_ext.apply(model, method):
        for order in ([0, 1], [1, 0]):
            method.found = []
            cache = model(**inputs, use_cache=True).past_key_values
            cache.reorder_cache(torch.tensor(order))
            step = {"input_ids": torch.tensor([[7], [8]])[order], "past_key_values": cache}
            step["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)[order]
            logits = model(**step).logits
            seen = [(one.received, one.shares, one.n_first) for one, _ in method.found[2:]]
            found.append((logits[order], [seen[row] for row in order]))
    (logits, seen), (swapped, seen_swapped) = found
    assert (logits - swapped).abs().max() < 1e-10
    for one, other in zip(seen, seen_swapped, strict=True):
        assert (one[0] - other[0]).abs().max() < 1e-6
        assert (one[1] - other[1]).abs().max() < 1e-6
        assert one[2] == other[2]


def test_generation_of_other_kinds():
    """Beams evict each for itself; assisted decoding goes on from what is left; without a cache there is nothing to
    evict."""
    # Of its own: up to transformers 4, a refused static cache stays with the model, half made, for its next call.
    model, method = tiny.build("llava"), Fewer()
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, method):
        beams = model.generate(**inputs, num_beams=3, max_new_tokens=4)
        assert torch.equal(model.generate(**inputs, num_beams=3, max_new_tokens=4), beams)
        method.found.clear()
        logits = model(**inputs, use_cache=False).logits
        assert not method.found
        model.generate(
            **tiny.inputs(model, 1, counts=[2]), prompt_lookup_num_tokens=2, max_new_tokens=6, eos_token_id=tiny.BOS
        )
        assert method.found
        with pytest.raises(
            RuntimeError, match="for fewer: past_key_values must be a cache that can shrink, got Static"
        ):
            model.generate(**inputs, max_new_tokens=4, cache_implementation="static")
    assert (model(**inputs, use_cache=False).logits - logits)[:, -1].abs().max() < 1e-10


def classifier(rate, rates=4, layers=1):
    """One that always says the same."""
    found = methods.RateClassifier(rates=rates, layers=layers)
    with torch.no_grad():
        found.net[-1].weight.zero_()
        found.net[-1].bias.copy_(torch.arange(rates) == rate)
    return found


def test_dyrate_leaves_what_its_classifier_says():
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    stock, tokens = tiny.generate(model, inputs, STEPS)
    for rate in (0, 1, 3):
        with pact_ext.apply(model, methods.DyRate(weights=classifier(rate, layers=6))) as handle:
            logits, same = tiny.generate(model, inputs, STEPS)
            evicted = [r.n_in - round(r.n_in * (4 - rate) / 4 + 1e-9) for r in handle.last]
            cache = model(**inputs, use_cache=True).past_key_values
        assert cache.stages[0].evicted.tolist() == evicted
        assert cache.layers[2].keys.shape[2] == handle.columns.shape[1]
        assert int(cache.get_seq_length()) == inputs["input_ids"].shape[1]
        if rate == 0:
            assert torch.equal(logits, stock)
            assert torch.equal(same, tokens)
        else:
            assert (logits[:, 1] - stock[:, 1]).abs().max() > 1e-5


def test_dyrate_without_weights():
    model = build("llava")
    with pact_ext.apply(model, "dyrate"), pytest.raises(ValueError, match="dyrate needs trained weights: weights must"):
        model(**tiny.inputs(model, 1))


def test_a_classifier_learns_through_the_mask():
    """The first of the next token's losses falls as the rates move, through a stock model that only sees a bias."""
    model = build("llava", attn_implementation="eager", dtype=torch.float32)
    inputs = tiny.inputs(model, 2)
    visual = torch.stack([places[:10] for (places,) in groups_of(inputs)])
    torch.manual_seed(3)
    own = methods.RateClassifier(rates=5)
    target = model(**inputs).logits[:, -1].detach()
    shares = torch.full((2, 6, 4), 0.25)
    optimizer = torch.optim.Adam(own.parameters(), lr=0.05)
    generator, losses = torch.Generator().manual_seed(0), []
    positions, tokens = tiny.positions(model, inputs), inputs["input_ids"].shape[1]
    plain = {name: value for name, value in inputs.items() if name != "attention_mask"}
    for _ in range(12):
        mask = methods.training_mask(own(shares), torch.arange(20.0).view(2, 10), generator=generator)
        bias = methods.training_bias(mask, visual, tokens)
        padding = (inputs["attention_mask"] == 0)[:, None, None, :] & ~torch.eye(tokens, dtype=torch.bool)
        bias = bias.masked_fill(padding, torch.finfo(torch.float32).min)
        logits = model(**plain, attention_mask=bias, position_ids=positions).logits[:, -1]
        loss = (logits - target).square().mean() + 0.01 * mask.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(p.grad.abs().max() > 0 for p in own.parameters())
    assert sum(losses[-3:]) < sum(losses[:3])


def test_llama_vid_trains_through_the_model():
    """Its gradient is the slope that a small step finds; the model's own flow past it."""
    model = build("llava")
    words = model.get_input_embeddings().weight.requires_grad_()
    inputs = tiny.inputs(model, 2)
    torch.manual_seed(0)
    module = methods.ContextAttention.for_model(model).double()
    direction = torch.randn_like(module.key.weight)

    def value():
        return model(**inputs).logits[:, -1].logsumexp(dim=-1).sum()

    with pact_ext.apply(model, methods.LlamaVID(keep=5, weights=module), per_image=True) as handle:
        value().backward()
        assert not handle.last[0].merged.requires_grad
        slopes = []
        for sign in (1, -1):
            with torch.no_grad():
                module.key.weight.add_(3e-3 * sign * direction)
                slopes.append(value())
                module.key.weight.sub_(3e-3 * sign * direction)
    found = float((module.key.weight.grad * direction).sum())
    assert words.grad.abs().max() > 0
    words.grad = words.requires_grad_(False).grad = None
    assert found == pytest.approx(float(slopes[0] - slopes[1]) / 6e-3, rel=5e-3)  # norms are in float32
    assert abs(found) > 1e-6
    assert handle.columns.shape[1] < inputs["input_ids"].shape[1]
