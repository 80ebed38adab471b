"""Where the columns that are left come from, and which of their logits a call keeps."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import tiny
from pact_ext import PactConfig

LAYER = 3
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)
KEEP = PactConfig(cluster=False, prune_ratio=0.0, layer=LAYER)
PRUNE = PactConfig(cluster=False, prune_ratio=0.6, layer=LAYER)

build = functools.cache(tiny.build)


def alike(a, b):
    """A head rounds by the number of its rows."""
    return a.shape == b.shape and (a - b).abs().max() < 1e-12


def expected_columns(inputs, reductions):
    """Row by row: present tokens but for the visual ones that are gone, padded on the left."""
    rows = []
    for ids, mask, reduction in zip(inputs["input_ids"], inputs["attention_mask"], reductions, strict=True):
        keep = mask.bool()
        if reduction is not None:
            visual = (ids == tiny.IMAGE).nonzero().flatten()
            keep[visual] = False
            keep[visual[reduction.centers]] = True
        rows.append(keep.nonzero().flatten())
    longest = max(map(len, rows))
    return torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=-1) for row in rows])


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl"])
def test_columns_of_a_conversation(variant):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    length = inputs["input_ids"].shape[1]
    with pact_ext.apply(model, CONFIG, per_image=True) as handle:
        assert handle.columns is None
        out = model(**inputs, use_cache=True, output_hidden_states=True)
        first = expected_columns(inputs, handle.last)
        assert (first < 0).any()
        assert torch.equal(handle.columns, first)
        assert out.logits.shape[:2] == out.hidden_states[-1].shape[:2] == first.shape
        out = model.generate(**inputs, max_new_tokens=4, return_dict_in_generate=True)
        new = torch.arange(length, length + 3).expand(2, -1)
        assert torch.equal(handle.columns, torch.cat([first, new], dim=1))
        assert handle.columns.shape[1] == out.past_key_values.layers[-1].keys.shape[2]
        whole, turn = tiny.more(model, inputs, out.sequences[:, -4:], image=True)
        logits = model(**turn, past_key_values=out.past_key_values).logits
        earlier = handle.columns[:, : -logits.shape[1]]
        assert torch.equal(earlier, torch.cat([first, new], dim=1))
        here = handle.columns[:, -logits.shape[1] :]
        for row, reduction in enumerate(handle.last):
            visual = (turn["input_ids"][row] == tiny.IMAGE).nonzero().flatten()
            gone = visual[~torch.isin(torch.arange(len(visual)), reduction.centers)] + length + 3
            left = torch.arange(length + 3, whole["input_ids"].shape[1])
            assert torch.equal(here[row][here[row] >= 0], left[~torch.isin(left, gone)])
        model(**tiny.inputs(model, 1, text_only=True))
        assert handle.columns is None


def test_columns_say_whose_the_attention_weights_are():
    model = build("llava", attn_implementation="eager", dtype=torch.float32)
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG) as handle:
        out = model(**inputs, output_attentions=True)
    weights = out.attentions[-1]
    assert weights.shape[-2:] == 2 * handle.columns.shape[1:]
    assert torch.equal((weights[:, :, -1] > 0).all(1), handle.columns >= 0)


def test_columns_follow_beams_and_crops():
    model = build("qwen2_vl")
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, CONFIG) as handle:
        model(**inputs)
        first = handle.columns
        ids = model.generate(**inputs, num_beams=2, max_new_tokens=4)
        assert ids.shape[0] == 2
        assert torch.equal(handle.columns[:, : first.shape[1]], first.repeat_interleave(2, dim=0))
        cache = model(**inputs, use_cache=True).past_key_values
        cache.crop(-2) if tiny.VERSION >= (5, 0) else cache.crop(int(cache.get_seq_length()) - 2)
        model(input_ids=torch.tensor([[5, 6, 7], [7, 6, 5]]), past_key_values=cache)
        end = inputs["input_ids"].shape[1] + 1
        assert torch.equal(handle.columns, torch.cat([first[:, :-2], torch.arange(end - 3, end).expand(2, -1)], dim=1))


# --- Which logits -------------------------------------------------------------------------------------------


def test_kept_logits_are_those_of_the_tokens_asked_for():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    length = inputs["input_ids"].shape[1]
    with pact_ext.apply(model, PRUNE) as handle:
        logits = model(**inputs).logits
        columns = handle.columns[0].tolist()
        center = int((inputs["input_ids"] == tiny.IMAGE).nonzero()[handle.last[0].centers[0], 1])
        gone = next(place for place in range(length) if place not in columns)
        places = [length - 1, 2, center, length - 5, -length]
        wanted = torch.tensor(places)
        kept = model(**inputs, logits_to_keep=wanted).logits
        assert alike(kept, logits[:, [columns.index(place % length) for place in places]])
        assert wanted.tolist() == places  # rewritten in a copy
        for count in (0, 1, 8, length, length + 9):  # 8 words come after the last image
            assert alike(model(**inputs, logits_to_keep=count).logits, logits[:, -count:])
        for lost in (torch.tensor([1, gone]), length - gone):
            with pytest.raises(RuntimeError, match=f"the token at {gone}, which is pruned or merged in row 0"):
                model(**inputs, logits_to_keep=lost)
        with pytest.raises(RuntimeError, match=f"must be in -{length} to {length - 1}, got "):
            model(**inputs, logits_to_keep=torch.tensor([length]))
        for odd in (torch.ones(length, dtype=torch.bool), torch.tensor(3), torch.ones(2, 3, dtype=torch.int64)):
            with pytest.raises(RuntimeError, match="must be a number, or hold indices for all rows or for each, got"):
                model(**inputs, logits_to_keep=odd)
        cache = model(**inputs, use_cache=True).past_key_values
        turn = {"input_ids": torch.tensor([[5, 6, 7]]), "past_key_values": cache}
        assert model(**turn, logits_to_keep=torch.tensor([0, 2])).logits.shape[1] == 2  # nothing to rewrite
        cache = model(**inputs, use_cache=True).past_key_values
    with pact_ext.apply(model, KEEP):
        assert alike(model(**inputs, logits_to_keep=40).logits, model(**inputs).logits[:, -40:])


def test_kept_logits_of_several_rows():
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    length = inputs["input_ids"].shape[1]
    with pact_ext.apply(model, CONFIG) as handle:
        logits = model(**inputs).logits
        columns = handle.columns.tolist()
        kept = model(**inputs, logits_to_keep=torch.tensor([length - 4, 2])).logits  # 2 is padding in the second row
        assert alike(kept[:, 0], logits[:, -4])
        assert alike(kept[0, 1], logits[0, columns[0].index(2)])
        between = [int((row != tiny.IMAGE).nonzero()[-9]) for row in inputs["input_ids"]]
        with pytest.raises(RuntimeError, match="in different columns of the rows"):
            model(**inputs, logits_to_keep=torch.tensor([max(between)]))
        if tiny.VERSION >= (5, 0):  # indices for every row
            each = torch.tensor([[length - 1, 2], [length - 2, max(between)]])
            kept = model(**inputs, logits_to_keep=each).logits
            for row, places in enumerate(each.tolist()):
                assert alike(kept[row], logits[row, [columns[row].index(place) for place in places]])


def test_a_head_that_the_handle_was_not_given():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    length = inputs["input_ids"].shape[1]
    with pact_ext.apply(model.model, CONFIG):
        logits = model(**inputs).logits
        with pytest.raises(RuntimeError, match="labels were given"):
            model(**inputs, labels=inputs["input_ids"])
        with pytest.raises(RuntimeError, match="give pact_ext.apply the whole model, not its core"):
            model(**inputs, logits_to_keep=torch.tensor([0]))
        with pytest.raises(RuntimeError, match="which is pruned or merged in row 0"):
            model(**inputs, logits_to_keep=length - 10)
        assert alike(model(**inputs, logits_to_keep=3).logits, logits[:, -3:])
        assert model.model(**inputs).last_hidden_state.shape[1] == logits.shape[1]
