"""What differs between the families of vision-language models. Supporting another one is one more small class here."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAMILIES: dict[str, Family] = {}
"""Every known family, by the `model_type` of its configuration."""


class Family:
    """Where a model keeps what a reduction needs. The defaults fit a decoder laid out like Llama's.

    Attributes:
        pixels: arguments of the model's forward that bring new images or videos; without any of them a call holds
            no visual tokens, whatever its ids.
    """

    pixels = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")

    def __init_subclass__(cls, model_type: str) -> None:
        FAMILIES[model_type] = cls()

    def decoder(self, core: nn.Module) -> nn.Module:
        """The language model inside `core`, the model without its head. It has `layers`."""
        return core.language_model

    def visual_token_ids(self, config) -> list[int]:
        """The ids that stand for images and videos in the prompt."""
        names = ("image_token_id", "video_token_id")
        return [token for name in names if (token := getattr(config, name, None)) is not None]

    def first_layer(self, core: nn.Module) -> int:
        """The lowest layer whose input may be reduced."""
        return 0

    def keys_and_queries(self, layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys ``[n, Hk, dh]`` and queries ``[n, Hq, dh]``, before rotary embedding, of its inputs
        ``[n, d]``."""
        attention = layer.self_attn
        x = layer.input_layernorm(hidden)
        keys = attention.k_proj(x).unflatten(-1, (-1, attention.head_dim))
        queries = attention.q_proj(x).unflatten(-1, (-1, attention.head_dim))
        if hasattr(attention, "k_norm"):  # Qwen3
            keys, queries = attention.k_norm(keys), attention.q_norm(queries)
        return keys, queries

    def column_bytes(self, config, dtype: torch.dtype) -> int:
        """Bytes of one token's keys and values in the cache of one layer; `config` is the decoder's."""
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_key_value_heads * head_size * dtype.itemsize

    def rotary(self, layer: nn.Module, embedding: Tensor) -> Tensor:
        """The cosines, or sines, of every position ``[1 or B, N, dh]``, from what the decoder hands to its layers."""
        return embedding


def rotate(keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of ``[n, H, dh]`` by ``[n, dh]``, halves paired as in every family here."""
    first, second = keys.chunk(2, dim=-1)
    return keys * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


class Llava(Family, model_type="llava"):
    """LLaVA-1.5."""


class LlavaNext(Family, model_type="llava_next"):
    """LLaVA-NeXT (1.6). The newline embeddings between the rows of its tiles count as visual tokens."""


class LlavaOneVision(Family, model_type="llava_onevision"):
    """LLaVA-OneVision."""


class InternVL(Family, model_type="internvl"):
    """InternVL 2.5 and 3, in their Hugging Face port."""


class Qwen2VL(Family, model_type="qwen2_vl"):
    """Qwen2-VL. Up to transformers 4 its decoder hands on the three axes of multimodal RoPE apart."""

    def rotary(self, layer: nn.Module, embedding: Tensor) -> Tensor:
        if embedding.ndim == 3:
            return embedding
        sections = 2 * list(layer.self_attn.rope_scaling["mrope_section"])
        parts = embedding.split(sections, dim=-1)
        return torch.cat([part[axis % 3] for axis, part in enumerate(parts)], dim=-1)


class Qwen25VL(Qwen2VL, model_type="qwen2_5_vl"):
    """Qwen2.5-VL."""


class Qwen3VL(Family, model_type="qwen3_vl"):
    """Qwen3-VL, whose first layers add visual features to every visual token's place."""

    def first_layer(self, core: nn.Module) -> int:
        return len(core.config.vision_config.deepstack_visual_indexes)
