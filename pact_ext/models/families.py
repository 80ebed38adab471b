"""What differs between the families of vision-language models. Supporting another one is one more small class here."""

from __future__ import annotations

import sys
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FAMILIES: dict[str, Family] = {}
"""Every known family, by the `model_type` of its configuration."""


def core_of(model: nn.Module) -> nn.Module:
    """A model without its head, and without PEFT's wrapping: what holds the language model and the vision tower."""
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    inner = getattr(model, "model", None)
    return inner if hasattr(inner, "language_model") else model


def family_of(core: nn.Module, caller: str) -> Family:
    """The family of a model without its head; `caller` is named in the error."""
    model_type = getattr(getattr(core, "config", None), "model_type", None)
    if model_type not in FAMILIES:
        raise ValueError(
            f"{caller}: model must be of a known family ({', '.join(sorted(FAMILIES))}), got {type(core).__name__} of "
            f"type {model_type!r}"
        )
    return FAMILIES[model_type]


@dataclass(frozen=True)
class ImageTokens:
    """The `count` tokens of one image. From `start` on, `rows` times `columns` of them show the whole image."""

    count: int
    rows: int
    columns: int
    start: int = 0


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

    def rotated(self, layer: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """The keys ``[n, Hk, dh]`` after rotary embedding, by the layer's own function: halves or neighbours paired, all
        channels or the first of them. `cos` and `sin` are ``[n, width]`` of what the decoder hands to its layers."""
        heads = keys.transpose(0, 1)[None]
        turned, passed = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        _, turned = code_of(layer)["apply_rotary_pos_emb"](turned[:, :0], turned, cos[None], sin[None])
        return torch.cat([turned, passed], dim=-1)[0].transpose(0, 1)

    def images(self, core: nn.Module, given: Mapping, runs: list[int]) -> list[ImageTokens]:
        """The tokens of every image of a call with the arguments `given`, in order.

        Args:
            runs: lengths of the uninterrupted runs of image tokens in its prompt.
        """
        raise NotImplementedError


def code_of(layer: nn.Module) -> Mapping:
    """What stands in the modules that a decoder layer's attention, and the classes it builds on, were written in."""
    return ChainMap(*(vars(sys.modules[base.__module__]) for base in type(layer.self_attn).__mro__))


class Llava(Family, model_type="llava"):
    """LLaVA-1.5, and Pixtral in its clothes, whose images have sizes."""

    def images(self, core: nn.Module, given: Mapping, runs: list[int]) -> list[ImageTokens]:
        vision, pixels = core.config.vision_config, given["pixel_values"]
        sizes = given.get("image_sizes")
        sizes = len(pixels) * [pixels.shape[-2:]] if sizes is None else torch.as_tensor(sizes).tolist()
        full = core.config.vision_feature_select_strategy == "full"
        first = int(full and "clip_" in vision.model_type)  # after the class token
        grids = [(height // vision.patch_size, width // vision.patch_size) for height, width in sizes]
        return [ImageTokens(first + rows * columns, rows, columns, first) for rows, columns in grids]


class LlavaNext(Family, model_type="llava_next"):
    """LLaVA-NeXT (1.6). The newline embeddings between the rows of its tiles count as visual tokens.

    A tile with the whole image comes before the tiles with its parts.
    """

    def images(self, core: nn.Module, given: Mapping, runs: list[int]) -> list[ImageTokens]:
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        vision, pinpoints = core.config.vision_config, core.config.image_grid_pinpoints
        sizes = torch.as_tensor(given["image_sizes"]).tolist()
        whole = self.only_whole(given) or len(sizes) * [False]
        tiles = [
            1 if alone else image_size_to_num_patches(size, pinpoints, vision.image_size)
            for size, alone in zip(sizes, whole, strict=True)
        ]
        side = vision.image_size // vision.patch_size
        # Unpadding and scaling down decide on the count: the model's own code, on features of width 1.
        features = [torch.zeros(count, side * side, 1) for count in tiles]
        packer = getattr(core, "model", core)  # up to transformers 4 OneVision's model is its own base model
        _, counts = packer.pack_image_features(
            features, sizes, image_newline=torch.zeros(1), **self.packing(core.config)
        )
        return [ImageTokens(count, side, side) for count in counts.tolist()]

    def only_whole(self, given: Mapping) -> list[bool] | None:
        """Whether each image has no tiles with its parts; None when all have."""
        return None

    def packing(self, config) -> dict:
        """Further arguments of the model's `pack_image_features`."""
        return {"vision_feature_select_strategy": "full"}


class LlavaOneVision(LlavaNext, model_type="llava_onevision"):
    """LLaVA-OneVision. An image that shares its row with others has no parts."""

    def only_whole(self, given: Mapping) -> list[bool] | None:
        numbers = given.get("batch_num_images")
        if numbers is None:
            return None
        return [number > 1 for number in torch.as_tensor(numbers).tolist() for _ in range(number)]

    def packing(self, config) -> dict:
        return {"vision_aspect_ratio": config.vision_aspect_ratio}


class InternVL(Family, model_type="internvl"):
    """InternVL 2.5 and 3, in their Hugging Face port. A thumbnail comes after the tiles, when there are several."""

    def images(self, core: nn.Module, given: Mapping, runs: list[int]) -> list[ImageTokens]:
        vision = core.config.vision_config
        rows, columns = (
            int(side // patch * core.config.downsample_ratio)
            for side, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        return [ImageTokens(count, rows, columns, count - rows * columns) for count in runs]


class Qwen2VL(Family, model_type="qwen2_vl"):
    """Qwen2-VL. Up to transformers 4 its decoder hands on the three axes of multimodal RoPE apart, ``[3, n, dh]``."""

    def rotated(self, layer: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if cos.ndim == 2:
            return super().rotated(layer, keys, cos, sin)
        turn, sections = (
            code_of(layer)["apply_multimodal_rotary_pos_emb"],
            layer.self_attn.rope_scaling["mrope_section"],
        )
        heads = keys.transpose(0, 1)[None]
        _, turned = turn(heads[:, :0], heads, cos[:, None], sin[:, None], sections)
        return turned[0].transpose(0, 1)

    def images(self, core: nn.Module, given: Mapping, runs: list[int]) -> list[ImageTokens]:
        merge = core.config.vision_config.spatial_merge_size
        grids = [
            (frames, rows // merge, columns // merge) for frames, rows, columns in given["image_grid_thw"].tolist()
        ]
        return [ImageTokens(frames * rows * columns, rows, columns) for frames, rows, columns in grids]


class Qwen25VL(Qwen2VL, model_type="qwen2_5_vl"):
    """Qwen2.5-VL."""


class Qwen3VL(Family, model_type="qwen3_vl"):
    """Qwen3-VL, whose first layers add visual features to every visual token's place."""

    images = Qwen2VL.images

    def first_layer(self, core: nn.Module) -> int:
        return len(core.config.vision_config.deepstack_visual_indexes)
