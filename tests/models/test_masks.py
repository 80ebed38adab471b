"""What the tokens of a call see: the stock model's mask, whatever was given, or an error before the first token."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import tiny
from pact_ext import PactConfig
from pact_ext.models import masks

KEEP = PactConfig(layer=2, cluster=False, prune_ratio=0.0)
REDUCE = PactConfig(layer=2, prune_ratio=0.3, dc=0.25)
LOW = torch.finfo(torch.float32).min

build = functools.cache(tiny.build)


def causal(inputs) -> torch.Tensor:
    """``[B, 1, N, N]`` bool, of a padded prompt."""
    present = inputs["attention_mask"].bool()
    return present[:, None, None] & torch.ones(2 * present.shape[-1:], dtype=torch.bool).tril()


# --- The mask by itself -------------------------------------------------------------------------------------

PRESENT = torch.tensor([[False, True, True, True], [True, True, True, False]])  # the second row's last token is padding
FULL = PRESENT[:, None, None] & torch.ones(2, 4, dtype=torch.bool).tril(2)


@pytest.mark.parametrize(
    "mask",
    [PRESENT, PRESENT.long(), FULL, torch.where(FULL, 0.0, LOW), torch.nn.functional.pad(FULL, (0, 3))],
    ids=["2-D bool", "2-D integer", "4-D bool", "4-D float", "static cache"],
)
def test_padding(mask):
    """Two tokens that follow two others."""
    assert torch.equal(masks.padding(mask, 2, 2), PRESENT)


def test_padding_before_the_first_token_may_see_all():
    mask = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)[None, None]
    assert masks.padding(mask, 0, 3).tolist() == [[False, True, True]]


def changed(row: int | slice, column: int, value) -> torch.Tensor:
    mask = torch.where(torch.ones(1, 1, 4, 4, dtype=torch.bool).tril(), 0.0, LOW)
    mask[..., row, column] = value
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        *[changed(1, 2, 0.0), changed(3, 1, LOW), changed(2, 1, LOW), changed(3, 1, -1.0), changed(3, 1, torch.nan)],
        changed(slice(1, 4), 1, -1.0),
    ],
    ids=["sees ahead", "hidden from the last", "hidden from another", "a bias", "NaN", "a bias for all"],
)
def test_anything_but_causal_with_padding(mask):
    with pytest.raises(RuntimeError, match="attention_mask must be causal but for padding"):
        masks.padding(mask, 0, 4)


def test_heads_of_their_own():
    mask = changed(0, 0, 0.0).repeat(1, 2, 1, 1)
    assert masks.padding(mask, 0, 4).all()
    mask[:, 1, 2, 1] = LOW
    with pytest.raises(RuntimeError, match="causal but for padding"):
        masks.padding(mask, 0, 4)


def test_positions_that_flash_attention_takes_for_several_sequences():
    masks.check_not_packed(None)
    masks.check_not_packed(torch.tensor([[4, 5, 5, 8]]))
    masks.check_not_packed(torch.tensor([[1, 0], [0, 1]]))  # several rows are never packed
    with pytest.raises(RuntimeError, match="position_ids must not start again"):
        masks.check_not_packed(torch.tensor([[0, 1, 0, 1]]))


# --- In a call that brings images ---------------------------------------------------------------------------


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_mask_of_four_dimensions(implementation):
    model = build("llava", attn_implementation=implementation, dtype=torch.float32)
    inputs = tiny.inputs(model, 2)
    mask = causal(inputs)
    given = {**inputs, "attention_mask": torch.where(mask, 0.0, LOW) if implementation == "eager" else mask}
    stock = model(**given).logits
    with pact_ext.apply(model, KEEP) as handle:
        logits = model(**given).logits
        present = inputs["attention_mask"].bool()
        assert torch.equal(logits[present], stock[present])
        given["attention_mask"] = given["attention_mask"].clone()
        image = (inputs["input_ids"][0] == tiny.IMAGE).nonzero().flatten()
        given["attention_mask"][0, 0, image[0], image[1]] = given["attention_mask"][0, 0, -1, -1]  # sees ahead
        with pytest.raises(RuntimeError, match="attention_mask must be causal but for padding"):
            model(**given)
        assert len(handle.last) == 2


def test_packed_sequences():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    count = inputs["input_ids"].shape[1]
    ids = torch.arange(count)[None]
    given = {**inputs, "attention_mask": None, "use_cache": False}
    with pact_ext.apply(model, KEEP):
        model(**given, position_ids=ids)
        with pytest.raises(RuntimeError, match="packed sequences"):
            model(**given, position_ids=ids % (count - 6))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_mask_longer_than_the_prompt(batch):
    """The stock model uses its first columns, in the prompt and after it."""
    model = build("llava")
    inputs = tiny.inputs(model, batch)
    inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 10))
    step = {"input_ids": torch.full((batch, 1), 5), "attention_mask": inputs["attention_mask"].clone()}
    step["attention_mask"][:, inputs["input_ids"].shape[1]] = 1

    def run():
        output = model(**inputs, use_cache=True)
        return output.logits, model(**step, past_key_values=output.past_key_values).logits

    stock = run()
    with pact_ext.apply(model, KEEP):
        kept = run()
    present = inputs["attention_mask"][:, : inputs["input_ids"].shape[1]].bool()
    assert torch.equal(kept[0][present], stock[0][present])
    assert (kept[1] - stock[1]).abs().max() < 1e-12


def test_a_mask_shorter_than_the_prompt():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    inputs["attention_mask"] = inputs["attention_mask"][:, :-3]
    with pact_ext.apply(model, KEEP):
        for use_cache in (True, False):
            with pytest.raises(
                RuntimeError, match="attention_mask must be 69 long, for 0 tokens .* and its 69, got 66"
            ):
                model(**inputs, use_cache=use_cache)


@pytest.mark.skipif(tiny.VERSION < (5, 0), reason="transformers 4 hands the pixels to every piece, and refuses")
def test_a_prompt_in_pieces():
    model = build("llava")
    inputs = tiny.inputs(model, 1)
    with pact_ext.apply(model, KEEP):
        with pytest.raises(RuntimeError, match="an image must come whole in one call.* without prefill_chunk_size"):
            model.generate(**inputs, max_new_tokens=1, prefill_chunk_size=20)
        model.generate(**inputs, max_new_tokens=1, prefill_chunk_size=100)  # one piece


def test_pixels_that_are_not_finite():
    model = build("llava", dtype=torch.float32)
    inputs = tiny.inputs(model, 2)
    inputs["pixel_values"][-1] = torch.nan
    with pact_ext.apply(model, REDUCE), pytest.raises(RuntimeError, match="visual tokens of row 1 are not finite"):
        model(**inputs)


# --- In the calls after it ----------------------------------------------------------------------------------


def hidden_from_the_prompt(mask):
    mask[:, 9:30] = 0


def of_four_dimensions(mask):
    mask[:, 8:12] = 0
    return mask.bool()[:, None, None]


@pytest.mark.parametrize("change", [hidden_from_the_prompt, of_four_dimensions])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_step_with_a_mask_of_its_own(implementation, layer, change):
    model = build("llava", attn_implementation=implementation, dtype=torch.float32)
    inputs = tiny.inputs(model, 2)

    def step():
        cache = model(**inputs, use_cache=True).past_key_values
        mask = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        mask = mask if (other := change(mask)) is None else other
        if implementation == "eager" and mask.ndim == 4:
            mask = torch.where(mask, 0.0, LOW)
        return model(input_ids=torch.full((2, 1), 5), attention_mask=mask, past_key_values=cache).logits

    stock = step()
    with pact_ext.apply(model, PactConfig(layer=layer, cluster=False, prune_ratio=0.0)):
        assert (step() - stock).abs().max() < 1e-5


def test_a_step_without_a_mask_after_a_padded_prompt():
    """The stock model would see the padding, some of which has no column any more."""
    model = build("llava")
    with pact_ext.apply(model, KEEP):
        cache = model(**tiny.inputs(model, 2), use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="attention_mask must be given"):
            model(input_ids=torch.full((2, 1), 5), past_key_values=cache)


def test_a_row_that_was_not_padded_goes_on_alone():
    """Its mask is all ones, of which the decoder makes none."""
    model = build("llava")
    inputs = tiny.inputs(model, 2)
    assert inputs["attention_mask"].all(dim=1).tolist() == [True, False]
    step = {"input_ids": torch.full((1, 1), 5), "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 1)}
    with pact_ext.apply(model, KEEP):
        cache = model(**inputs, use_cache=True).past_key_values
        cache.batch_select_indices(torch.tensor([0]))
        logits = model(**step, past_key_values=cache).logits
        alone = model(**tiny.inputs(model, 1), use_cache=True).past_key_values
        assert (logits - model(**step, past_key_values=alone).logits).abs().max() < 1e-5


def test_a_turn_of_four_dimensions_that_is_too_short():
    model = build("llava")
    with pact_ext.apply(model, KEEP):
        cache = model(**tiny.inputs(model, 1), use_cache=True).past_key_values
        with pytest.raises(RuntimeError, match="attention_mask must be 70 long"):
            model(input_ids=torch.tensor([[5]]), attention_mask=torch.ones(1, 1, 1, 60).bool(), past_key_values=cache)
