"""What a family says of itself, and what fits a decoder laid out like Llama's."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..pictures import encoded
from ..ranks import gathered
from .tower import Tower

FAMILIES: dict[str, Family] = {}
"""Every known family, by the `model_type` of its configuration."""


@dataclass(frozen=True)
class Span:
    """Tokens of an image from `start` on: `rows`, each of `columns` and, with `ends`, one more that ends it."""

    start: int
    rows: int
    columns: int
    ends: bool = False

    @property
    def count(self) -> int:
        return self.rows * (self.columns + self.ends)


@dataclass(frozen=True)
class ImageTokens:
    """The `count` tokens of one image. From `start` on, `rows` times `columns` of them show the whole image.

    Attributes:
        parts: the grids of its other tokens.
        patches: int64 ``[count]``, which of the vision tower's patches each token is, counted over the image's tiles,
            the one with the whole first; -1 for a token that is none. None: its tokens are made otherwise.
        tiles: how many there are.
        tile_columns: how many of those with its parts stand side by side.
    """

    count: int
    rows: int
    columns: int
    start: int = 0
    parts: tuple[Span, ...] = ()
    patches: Tensor | None = None
    tiles: int = 1
    tile_columns: int = 1

    @property
    def grids(self) -> list[Span]:
        """All its grids, in order."""
        spans = (Span(self.start, self.rows, self.columns), *self.parts)
        return sorted(spans, key=lambda span: span.start)


class Family:
    """Where a model keeps what a reduction needs. The defaults fit a decoder laid out like Llama's.

    Attributes:
        pixels: arguments of the model's forward that bring new images or videos; without any of them a call holds
            no visual tokens, whatever its ids.
    """

    pixels = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")

    def __init_subclass__(cls, model_type: str | None = None) -> None:
        if model_type is not None:
            FAMILIES[model_type] = cls()

    def decoder(self, core: nn.Module) -> nn.Module:
        """The language model inside `core`, the model without its head. It has `layers`."""
        return core.language_model

    def visual_token_ids(self, config) -> list[int]:
        """The ids that stand for images and videos in the prompt."""
        names = ("image_token_id", "video_token_id")
        return [token for name in names if (token := getattr(config, name, None)) is not None]

    def in_videos(self, config, ids: Tensor) -> Tensor:
        """``[B, N]`` bool, of the ids of a prompt: whether a token, if it is visual, shows a video."""
        video = getattr(config, "video_token_id", None)
        return torch.zeros_like(ids, dtype=torch.bool) if video is None else ids == video

    def first_layer(self, core: nn.Module) -> int:
        """The lowest layer whose input may be reduced."""
        return 0

    def keys(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's keys ``[n, Hk, dh]``, before rotary embedding, of its inputs ``[n, d]``."""
        return gathered(self.heads(layer, hidden, "k"), layer.self_attn.k_proj)

    def queries(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Its queries ``[n, Hq, dh]``, likewise."""
        return gathered(self.heads(layer, hidden, "q"), layer.self_attn.q_proj)

    def heads(self, layer: nn.Module, hidden: Tensor, which: str) -> Tensor:
        """Keys, "k", or queries, "q", of the heads that this rank has; all of them, but in a model that is split."""
        attention = layer.self_attn
        heads = getattr(attention, f"{which}_proj")(layer.input_layernorm(hidden)).unflatten(
            -1, (-1, attention.head_dim)
        )
        norm = getattr(attention, f"{which}_norm", None)  # Qwen3
        return heads if norm is None else norm(heads)

    def column_bytes(self, config, dtype: torch.dtype) -> int:
        """Bytes of one token's keys and values in the cache of one layer; `config` is the decoder's."""
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return 2 * config.num_key_value_heads * head_size * dtype.itemsize

    def rotated(self, layer: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Keys ``[n, Hk, dh]``, or queries, after rotary embedding, by the layer's own function: halves or neighbours
        paired, all channels or the first. `cos` and `sin` are ``[n, width]`` of what the decoder hands to layers."""
        heads = keys.transpose(0, 1)[None]
        turned, passed = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        _, turned = code_of(layer)["apply_rotary_pos_emb"](turned[:, :0], turned, cos[None], sin[None])
        return torch.cat([turned, passed], dim=-1)[0].transpose(0, 1)

    def tower(self, core: nn.Module) -> Tower:
        """The vision tower, of a model whose visual tokens are its patches.

        Raises:
            ValueError: it is another; the message says what is missing.
        """
        raise ValueError("a token for each patch of the vision tower, in order, and its tokens are made otherwise")

    def images(self, core: nn.Module, given: Mapping) -> list[ImageTokens]:
        """The tokens of every image of a call with the arguments `given`, in order."""
        raise NotImplementedError

    def videos(self, core: nn.Module, given: Mapping) -> list[int]:
        """How many tokens each video of a call has, in order."""
        raise NotImplementedError

    def image_counts(self, core: nn.Module, given: Mapping) -> list[int]:
        """How many tokens each image of a call has, in order, also where it brings features in place of pixels."""
        return encoded(given, "image") or [image.count for image in self.images(core, given)]

    def video_counts(self, core: nn.Module, given: Mapping) -> list[int]:
        """The same of its videos."""
        return encoded(given, "video") or self.videos(core, given)


def code_of(layer: nn.Module) -> Mapping:
    """What stands in the modules that a decoder layer's attention, and the classes it builds on, were written in."""
    return ChainMap(*(vars(sys.modules[base.__module__]) for base in type(layer.self_attn).__mro__))
