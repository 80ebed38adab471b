"""Families that cut an image into tiles, and tell so in the text alone."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from ..pictures import runs
from .family import Family, ImageTokens, Span


class Tiled(Family):
    """Images cut into square tiles, with one more after them that shows the whole.

    How many tiles make an image is not among the arguments of a call, only in its text. A tile is a run of image
    tokens, and the text before it says what part of its image it shows. The last one of a row shows a whole image, and
    so does every other one behind the same text.

    Attributes:
        tag: how many tokens before a tile tell which one it is.
    """

    tag = 1

    def side(self, config) -> int:
        """Rows, and columns, of a tile's tokens."""
        raise NotImplementedError

    def images(self, core: nn.Module, given: Mapping) -> list[ImageTokens]:
        side, ids, images = self.side(core.config), given["input_ids"].cpu(), []
        for row, tiles in zip(ids, runs(ids == core.config.image_token_id), strict=True):
            tags = [row[max(0, start - self.tag) : start].tolist() for start, _ in tiles]
            count = 0
            for (start, end), tag in zip(tiles, tags, strict=True):
                count += end - start
                if tag == tags[-1]:
                    tokens = side * side
                    parts = tuple(Span(first, side, side) for first in range(0, count - tokens, tokens))
                    images.append(ImageTokens(count, side, side, count - tokens, parts))
                    count = 0
        return images

    def image_counts(self, core: nn.Module, given: Mapping) -> list[int]:
        return [image.count for image in self.images(core, given)]


class InternVL(Tiled, model_type="internvl"):
    """InternVL 2.5 and 3, in their Hugging Face port: the tiles of an image are one run, and a video's frames images.

    The tile that shows the whole is there when there are several.
    """

    tag = 0

    def side(self, config) -> int:
        vision = config.vision_config
        return int(vision.image_size[0] // vision.patch_size[0] * config.downsample_ratio)


class Idefics3(Tiled, model_type="idefics3"):
    """Idefics3. The text before a tile, "<row_1_col_2>" or "<global-img>", is several tokens of some vocabularies."""

    pixels = (*Tiled.pixels, "image_hidden_states")  # features, up to transformers 4
    tag = 2

    def decoder(self, core: nn.Module) -> nn.Module:
        return core.text_model

    def side(self, config) -> int:
        return config.vision_config.image_size // config.vision_config.patch_size // config.scale_factor


class SmolVLM(Idefics3, model_type="smolvlm"):
    """SmolVLM and SmolVLM2. A video's frames are images."""


class AyaVision(Tiled, model_type="aya_vision"):
    """Aya Vision, over Cohere (32B). Over Cohere2 (8B) nearly every layer has a window, and is refused."""

    def side(self, config) -> int:
        return config.vision_config.image_size // config.vision_config.patch_size // config.downsample_factor

    def rotated(self, layer: nn.Module, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if getattr(layer.self_attn, "sliding_window", 0) is None:  # Cohere2's layers without one know no positions
            return keys
        return super().rotated(layer, keys, cos, sin)
