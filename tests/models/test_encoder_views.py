"""The vision tower's side of a view: what the stock tower computes, for the view's own tokens."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass

import pytest
import torch
import transformers

import pact_ext
from models import tiny
from models.replay import Recorder, groups_of, replayed_logits
from pact_ext import methods
from pact_ext.methods import Method, Selection


@functools.cache
def build(tower="clip", dtype=torch.float64):
    """LLaVA over CLIP, or over SigLIP, which has no class token: of three layers, so that the first, the last and the
    last but one are not the same."""
    model = tiny.build("llava", dtype=dtype)
    config = model.model.vision_tower.config
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "image_size", "patch_size")
    own = {name: getattr(config, name) for name in sizes} | {"num_hidden_layers": 3}
    if tower == "siglip":
        config, cls = transformers.SiglipVisionConfig(**own, vision_use_head=False), transformers.SiglipVisionModel
        model.config.vision_feature_select_strategy = "full"
    else:
        config, cls = transformers.CLIPVisionConfig(**own), transformers.CLIPVisionModel
    model.config.vision_config = config
    torch.manual_seed(3)
    model.model.vision_tower = cls._from_config(config).to(dtype).eval().requires_grad_(False)
    for parameter in model.model.vision_tower.parameters():
        parameter.data.normal_(0, 0.3)
    return model


@dataclass(frozen=True)
class Look(Method):
    """Keeps every other token, having read all that there is to read."""

    name = "look"
    needs = frozenset({"encoder"})
    encoder_layers = (0, -2, -1)

    def sites(self, layers):
        return (0,)

    def select(self, view):
        encoder = view.encoder
        self.found.append(
            {(layer, joined): encoder.attention(layer, joined=joined) for layer in (0, -1, -2) for joined in (0, 1)}
            | {layer: encoder.keys(layer) for layer in (0, -1, -2)}
            | {"features": encoder.features, "hidden": view.hidden, "again": encoder.project(encoder.features)}
            | {"places": encoder.places, "tiles": encoder.tiles}
        )
        return Selection(torch.arange(0, len(view), 2))


def looking():
    look = Look()
    object.__setattr__(look, "found", [])
    return look


del methods.METHODS["look"]


@torch.no_grad()
def stock(model, pixels):
    """Of each picture what a `Look` finds, from the tower's own eager attention."""
    tower = model.model.vision_tower
    inner = getattr(tower, "vision_model", tower)
    before = tower.config._attn_implementation
    inputs = {}

    def note(number, layer, args, kwargs):
        inputs[number] = args[0] if args else kwargs["hidden_states"]

    hooks = [
        layer.register_forward_pre_hook(functools.partial(note, number), with_kwargs=True)
        for number, layer in enumerate(inner.encoder.layers)
    ]
    tower.set_attn_implementation("eager")
    try:
        weights = tower(pixels, output_attentions=True).attentions
    finally:
        tower.set_attn_implementation(before)
        for hook in hooks:
            hook.remove()
    first = int(hasattr(inner.embeddings, "class_embedding"))
    rows = slice(0, 1) if first else slice(None)
    found = []
    for number in range(len(pixels)):
        one = {}
        for layer in (0, -1, -2):
            index = layer % len(weights)
            attention, hidden = inner.encoder.layers[index].self_attn, inputs[index][number]
            normed = inner.encoder.layers[index].layer_norm1(hidden)
            q, k = attention.q_proj(normed), attention.k_proj(normed)
            one[layer, 0] = weights[index][number][:, rows].mean(dim=(0, 1))[first:]
            one[layer, 1] = (q @ k.T / k.shape[-1] ** 0.5).softmax(dim=-1)[rows].mean(dim=0)[first:]
            one[layer] = k[first:].unflatten(-1, (attention.num_heads, -1))
        found.append(one)
    return found


CALLS = {
    "call": lambda model, inputs: model(**inputs),
    "generate": lambda model, inputs: model.generate(**inputs, max_new_tokens=2),
}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("tower", ["clip", "siglip"])
def test_a_view_knows_what_the_tower_computes(tower, call, apart):
    model, look = build(tower), looking()
    inputs = tiny.inputs(model, 3, text_only_row=True)
    pictures = stock(model, inputs["pixel_values"])
    with pact_ext.apply(model, look, per_image=apart):
        CALLS[call](model, inputs)
    rows = [[0], [1], [2]] if apart else [[0, 1], [2]]
    assert len(look.found) == len(rows)
    for found, numbers in zip(look.found, rows, strict=True):
        for name in pictures[0]:
            expected = torch.cat([pictures[number][name] for number in numbers])
            assert found[name].shape == expected.shape
            assert (found[name] - expected).abs().max() < 1e-6, name
        assert (found["again"] - found["hidden"]).abs().max() < 1e-12
    assert (pictures[0][0, 0] - pictures[0][-1, 0]).abs().max() > 1e-3, "layers are not told apart"


@pytest.mark.parametrize("arguments", [{"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_beams_know_their_own_pictures(arguments):
    """Transformers 4 hands a row of two pictures to its beams in another order: what each got is what is shown."""
    model, look = build(), looking()
    inputs = tiny.inputs(model, 2)
    with pact_ext.apply(model, look):
        model.generate(**inputs, max_new_tokens=2, **arguments)
    copies = max(arguments.values())
    assert len(look.found) == 2 * copies
    for found in look.found:
        assert (found["again"] - found["hidden"]).abs().max() < 1e-12
    for row, found in enumerate(look.found):
        if tiny.VERSION >= (5, 0):
            assert torch.equal(found[-2, 0], look.found[row // copies * copies][-2, 0])


TEXTS = [
    "prumerge",
    "prumerge:keep=0.4,neighbors=3",
    "prumerge+:keep=9",
    "visionzip:dominant=6,contextual=4",
    "hired:keep=0.3",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("apart", [False, True])
def test_a_method_only_masks(text, apart):
    model = build()
    inputs, recorder = tiny.inputs(model, 3, text_only_row=True), Recorder(methods.parse(text))
    with pact_ext.apply(model, recorder, per_image=apart) as handle:
        logits, tokens = tiny.generate(model, inputs, 3)
        assert handle.last[2] is None
    calls = [(groups_of(inputs, apart), recorder.found)]
    assert (logits - replayed_logits(model, inputs, (0,), calls, tokens)).abs().max() < 1e-9
    assert all(len(chosen.kept) < len(view) for _, view, chosen in recorder.found)


def test_a_copy_looks_at_its_own_tower():
    model = tiny.build("llava")
    inputs = tiny.inputs(model, 1)
    pact_ext.apply(model, "hired:keep=0.3")
    expected, other = model(**inputs).logits, copy.deepcopy(model)
    pact_ext.remove(model)
    assert torch.equal(other(**inputs).logits, expected)
    assert other(**inputs).logits.shape != model(**inputs).logits.shape


def test_one_call_knows_nothing_of_another():
    model, look = build(), looking()
    first, second = tiny.inputs(model, 1), tiny.inputs(model, 2, seed=7)
    with pact_ext.apply(model, look) as handle:
        model(**second)
        with handle.off():
            model(**first)
        assert not handle._hooks._towers, "the tower was looked at in a call that is not reduced"
        model(**first)
        model.model.get_image_features(second["pixel_values"], return_dict=True)
        model(**tiny.inputs(model, 1, text_only=True))
        assert not handle._hooks._towers, "pictures outlived the next call"
        model(**second)
        assert not handle._hooks._towers, "a call's pictures outlived it"
    assert torch.equal(look.found[0][-2, 0], look.found[3][-2, 0])
    assert not torch.equal(look.found[0][-2, 0], look.found[2][-2, 0])


@pytest.mark.skipif(tiny.VERSION < (5, 0), reason="transformers 4 takes no features in place of pixels")
def test_features_from_elsewhere_are_refused():
    model = build()
    inputs = tiny.inputs(model, 1)
    features = {"image": model.model.get_image_features(inputs.pop("pixel_values"), return_dict=True)}
    with pact_ext.apply(model, "hired"):
        with pytest.raises(
            RuntimeError, match="for hired: the pictures of this call must be encoded by the model's own"
        ):
            model(**inputs, mm_encoder_outputs=features)
        model.model.get_image_features(tiny.inputs(model, 1, seed=3)["pixel_values"], return_dict=True)
        with pytest.raises(RuntimeError, match="the features in mm_encoder_outputs must be what the vision tower gave"):
            model(**inputs, mm_encoder_outputs=features)


@pytest.mark.skipif(tiny.VERSION < (5, 0), reason="transformers 4 takes no features in place of pixels")
def test_features_that_were_encoded_beforehand():
    """The model's own, whatever it saw in between while it was off; not when the tower broke off on its way."""
    model, look = build(), looking()
    inputs, others = tiny.inputs(model, 1), tiny.inputs(model, 1, seed=3)["pixel_values"]
    pixels = inputs.pop("pixel_values")

    def encoded(pixels):
        return {"image": model.model.get_image_features(pixels, return_dict=True)}

    with pact_ext.apply(model, look) as handle:
        model(**inputs, pixel_values=pixels)
        features = encoded(pixels)
        with handle.off():
            model(**inputs, pixel_values=others)
        model(**inputs, mm_encoder_outputs=features)
        first, second = look.found
        assert all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], torch.Tensor))

        features = encoded(pixels)
        layer = model.model.vision_tower.encoder.layers[1]
        with layer.register_forward_pre_hook(lambda *_: 1 / 0), pytest.raises(ZeroDivisionError):
            encoded(others)
        with pytest.raises(RuntimeError, match="must be encoded by the model's own vision tower while it is reduced"):
            model(**inputs, mm_encoder_outputs=features)


def test_what_a_model_lacks_is_named():
    model = tiny.build("llava")
    with pytest.raises(ValueError, match="prumerge needs layer -3 of the vision tower, which has 2"):
        pact_ext.apply(model, "prumerge:tower_layer=-3")
    model.config.vision_feature_select_strategy = "full"
    with pytest.raises(ValueError, match="visionzip needs the class token apart from the patches"):
        pact_ext.apply(model, "visionzip")
    with pytest.raises(
        ValueError, match="hired needs a vision tower with layers like CLIP's, and Pixtral.* has others"
    ):
        pact_ext.apply(tiny.build("pixtral"), "hired")
