"""Which families there are, which are refused, and what one of them keeps elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import transformers

import pact_ext
from models import configurations, tiny
from pact_ext import PactConfig
from pact_ext.models.families import FAMILIES
from pact_ext.models.loading import load

NAMES = {
    "llava": "LLaVA-1.5",
    "llava_next": "LLaVA-NeXT",
    "llava_onevision": "LLaVA-OneVision",
    "internvl": "InternVL",
    "qwen2_vl": "Qwen2-VL",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "qwen3_vl_moe": "Qwen3-VL",
    "glm4v": "GLM-4.1V",
    "glm4v_moe": "GLM-4.5V",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM",
    "aya_vision": "Aya Vision",
}


def test_every_family_is_proven_and_documented():
    assert set(FAMILIES) == set(tiny.FAMILIES) == set(NAMES)
    readme = Path(__file__).parents[2] / "README.md"
    for text in (readme.read_text(), pact_ext.apply.__doc__):
        assert [name for name in NAMES.values() if name not in text] == []


def test_a_family_that_is_refused_by_name(tmp_path):
    text = {"vocab_size": tiny.VOCABULARY, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.Gemma3Config(text_config=text, vision_config=configurations.VISION | {"image_size": 28})
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(config)
    wanted = r".* got Gemma3Model of type 'gemma3': its image tokens attend both ways within an image, and "
    with pytest.raises(ValueError, match=rf"^pact_ext\.apply: model must be of a known family .*{wanted}"):
        pact_ext.apply(model)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be of a known family .*, got 'gemma3': its image tokens attend"):
        load(tmp_path)


def test_aya_over_cohere2():
    """Its layers with windows are refused. The others know no positions, so the clustering's keys are not rotated."""
    config = configurations.configuration("aya_vision", 4)
    text = {name: getattr(config.text_config, name) for name in ("vocab_size", "hidden_size", "intermediate_size")}
    text |= {"num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}
    config.text_config = transformers.Cohere2Config(**text, pad_token_id=tiny.PAD)
    model = transformers.AyaVisionForConditionalGeneration(config).eval()
    inputs = tiny.inputs(model, 2)
    with pytest.raises(ValueError, match="layers from 2 on must have full attention, got .*'sliding_window=8'"):
        pact_ext.apply(model, PactConfig(layer=2))
    keys = model(**inputs, use_cache=True).past_key_values.layers[3].keys
    layer, family, seen = tiny.decoder(model).layers[3], FAMILIES["aya_vision"], []
    with layer.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args[0], kwargs)), with_kwargs=True):
        model(**inputs)
    hidden, kwargs = seen[0]
    cos, sin = (x[0] for x in kwargs["position_embeddings"])
    found = family.rotated(layer, family.keys(layer, hidden[0]), cos, sin)
    torch.testing.assert_close(found.transpose(0, 1), keys[0])
