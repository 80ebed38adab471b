"""The small model: LLaVA with a CLIP tower and a Qwen2 decoder, 256 visual tokens a picture."""

from __future__ import annotations

import torch
import transformers
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from .decoder import look_alike
from .scenes import GRID, PATCH, SIDE
from .words import ID, WORDS


def _in_float32(module, query: Tensor, key: Tensor, value: Tensor, *arguments, **options):
    """Fused attention, also where products are in bfloat16: its backward is slower in those on a CPU."""
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), *arguments, **options)


transformers.AttentionInterface.register("sdpa_float32", _in_float32)

WORD_SPREAD = 0.5  # of the embeddings: 0.02, as models begin with, is too faint to find a token by


def build(seed: int = 0, attention: str = "sdpa") -> transformers.LlavaForConditionalGeneration:
    """Untrained, float32, the same for its seed."""
    vision = transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=PATCH,
        hidden_act="gelu",
    )
    text = transformers.Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=3,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ID["<image>"],
        image_seq_length=GRID**2,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    torch.nn.init.normal_(model.get_input_embeddings().weight, std=WORD_SPREAD)
    look_alike(model, seed)
    return model


def seen(model: transformers.LlavaForConditionalGeneration, images: Tensor) -> Tensor:
    """Visual tokens ``[B, 256, d]`` of pictures ``[B, 128, 128, 3]`` uint8."""
    pixels = (images.to(model.device).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
    return model.model.multi_modal_projector(features)


def logits(model: transformers.LlavaForConditionalGeneration, embeds: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """``[B, q, V]``, of embeddings at position ids ``[B, q]``; ``[B, q, q]`` which sees which."""
    bias = embeds.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(embeds.dtype).min)[:, None]
    decoder = model.model.language_model
    hidden = decoder(inputs_embeds=embeds, attention_mask=bias, position_ids=places, use_cache=False)
    return model.lm_head(hidden.last_hidden_state)
