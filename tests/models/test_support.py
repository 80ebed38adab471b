"""Which decoders are served, their keys rotated as their own layers rotate them, and which `apply` refuses by name."""

from __future__ import annotations

import functools

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import transformers

import pact_ext
from models import configurations, tiny
from pact_ext import PactConfig

LAYER = 2
KEEP = PactConfig(layer=LAYER, cluster=False, prune_ratio=0.0)


@functools.cache
def llava_over(decoder: str, **options) -> torch.nn.Module:
    """LLaVA with another language model."""
    config = configurations.configuration("llava", 4)
    text = {**config.text_config.to_dict(), "num_key_value_heads": 2, **options}
    for name in ("model_type", "layer_types", "rope_parameters", "rope_scaling", "head_dim"):
        text.pop(name, None)
    config.text_config = transformers.AutoConfig.for_model(decoder, **text, head_dim=configurations.HEAD_SIZE)
    model = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa").double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tiny._weights(name, parameter, 0))
    return model.requires_grad_(False)


# --- Served -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", ["cohere", "ernie4_5", "helium", "glm", "phi"])
def test_clusters_are_those_of_the_keys_that_the_layer_caches(decoder):
    """Neighbours paired, or part of the channels rotated: no two centres within dc, no token farther than dc from its
    own, by the keys in the stock model's cache."""
    model, dc = llava_over(decoder), 0.3
    inputs = tiny.inputs(model, 1)
    visual = (inputs["input_ids"][0] == tiny.IMAGE).nonzero().flatten()
    cached = model(**inputs, use_cache=True).past_key_values.layers[LAYER].keys[0, :, visual]
    keys = torch.nn.functional.normalize(cached.transpose(0, 1).flatten(1), dim=-1)
    distance = 1 - keys @ keys.T
    with pact_ext.apply(model, PactConfig(layer=LAYER, prune=False, dc=dc)) as handle:
        model(**inputs)
    centers, labels = handle.last[0].centers, handle.last[0].labels
    assert 1 < len(centers) < len(visual)
    assert (distance[centers][:, centers] + torch.eye(len(centers)) > dc).all()
    assert (distance[torch.arange(len(visual)), centers[labels]] <= dc + 1e-6).all()


@pytest.mark.parametrize("decoder", ["cohere", "mistral", "stablelm"])
def test_keeping_everything_changes_nothing(decoder):
    """Attention of stablelm is written out in transformers 4, past the registry."""
    model = llava_over(decoder, sliding_window=None)
    inputs = tiny.inputs(model, 2)
    stock = model(**inputs).logits
    with pact_ext.apply(model, KEEP):
        logits = model(**inputs).logits
    present = inputs["attention_mask"].bool()
    assert (logits[present] - stock[present]).abs().max() < 1e-12


# --- Refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decoder", "options", "message"),
    [
        ("mistral", {"sliding_window": 12}, r"must have full attention, got \['sliding_window=12'\]"),
        ("starcoder2", {"sliding_window": 12}, r"must have full attention, got \['sliding_window=12'\]"),
        ("phi3", {"pad_token_id": 0}, "a decoder of Phi3DecoderLayer cannot be reduced, .* no attribute 'k_proj'"),
        ("olmo2", {}, "a decoder of Olmo2DecoderLayer cannot be reduced, .* no attribute 'input_layernorm'"),
        ("gpt_neox", {}, "a decoder of GPTNeoXModel|GPTNeoXLayer"),
        ("opt", {}, "a decoder of OPTModel cannot be reduced, for it has no `layers`"),
    ],
)
def test_decoders_that_cannot_be_served(decoder, options, message):
    with pytest.raises(ValueError, match=message):
        pact_ext.apply(llava_over(decoder, **options), KEEP)


def test_keys_made_in_another_way():
    """Whatever the layout looks like, the keys that the layer would cache decide."""
    model = tiny.build("llava")
    projection = model.get_decoder().layers[LAYER].self_attn.k_proj
    pact_ext.apply(model, KEEP).remove()
    projection.register_forward_hook(lambda module, args, output: -output if output.ndim == 3 else output)
    with pytest.raises(
        ValueError, match="a decoder of LlamaDecoderLayer cannot be reduced, for its keys are made in a way"
    ):
        pact_ext.apply(model, KEEP)


def test_attention_both_ways():
    model = tiny.build("llava")
    model.get_decoder().layers[LAYER + 1].self_attn.is_causal = False
    with pytest.raises(ValueError, match="must have full attention, got .*'is_causal=False'"):
        pact_ext.apply(model, KEEP)


@pytest.mark.skipif(tiny.VERSION >= (5, 0), reason="from transformers 5 on every attention uses the registry")
def test_attention_past_the_registry():
    with pytest.raises(ValueError, match="attention must be 'dense' or 'auto' for StableLmSdpaAttention"):
        pact_ext.apply(llava_over("stablelm"), KEEP, attention="fused")


def test_data_parallel():
    with pytest.raises(ValueError, match="not be in the wrapping of DataParallel; apply to model.module"):
        pact_ext.apply(torch.nn.DataParallel(tiny.build("llava")), KEEP)


@pytest.mark.parametrize(
    ("split", "method", "ranks", "reason"),
    [
        ({"language_model.layers.1.self_attn.q_proj": 0}, KEEP, 8, "q_proj of its layers is split within a head"),
        ({"language_model.layers.1.self_attn.q_proj": 1}, KEEP, 2, "q_proj of its layers is split other than by heads"),
        ({"language_model.layers.1.self_attn.k_proj": 1}, KEEP, 2, "k_proj of its layers is split other than by heads"),
        ({"language_model.layers.5.input_layernorm": 0}, KEEP, 2, "the inputs of its layers are split"),
        ({"vision_tower.{}layers.0.self_attn.q_proj": 0}, "hired", 2, "its vision tower is split, whose attention"),
    ],
)
def test_a_model_split_otherwise_than_by_heads(split, method, ranks, reason):
    """Parameters as tensor parallelism leaves them, on the first of several ranks that talk to nobody."""
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (ranks,))
        model = tiny.build("llava")
        for name, dim in split.items():
            inner = "encoder." if hasattr(model.model.vision_tower, "encoder") else "vision_model.encoder."
            part = model.model.get_submodule(name.format(inner))
            weight = distribute_tensor(part.weight, mesh, [Shard(dim)])
            part.weight = torch.nn.Parameter(weight, requires_grad=False)
        with pytest.raises(ValueError, match=f"model must be whole on every rank, .* got one where {reason}"):
            pact_ext.apply(model, method)
    finally:
        torch.distributed.destroy_process_group()


def test_the_plan_of_tensor_parallelism():
    """Up to transformers 4 it leaves ordinary tensors, and its plan on the modules that it splits."""
    model = tiny.build("llava")
    model.get_decoder().layers[0].self_attn.q_proj._hf_tp_plan = "colwise"
    with pytest.raises(ValueError, match="model must be whole on every rank"):
        pact_ext.apply(model, KEEP)
