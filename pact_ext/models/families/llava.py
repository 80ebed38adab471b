"""LLaVA and its successors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..pictures import encoded
from .family import Family, ImageTokens, Span
from .tower import Tower


class Llava(Family, model_type="llava"):
    """LLaVA-1.5, and Pixtral in its clothes, whose images have sizes."""

    def tower(self, core: nn.Module) -> Tower:
        tower = Tower.of(core.vision_tower, core.multi_modal_projector)
        if tower.has_class and core.config.vision_feature_select_strategy != "default":
            raise ValueError("the class token apart from the patches, and here it is a visual token itself")
        return tower

    def images(self, core: nn.Module, given: Mapping) -> list[ImageTokens]:
        vision, sizes, features = core.config.vision_config, given.get("image_sizes"), encoded(given, "image")
        if sizes is not None:
            sizes = torch.as_tensor(sizes).tolist()
        elif features is not None and given.get("pixel_values") is None:
            sizes = len(features) * [(vision.image_size, vision.image_size)]
        else:
            pixels = given["pixel_values"]
            sizes = len(pixels) * [pixels.shape[-2:]]
        full = core.config.vision_feature_select_strategy == "full"
        first = int(full and "clip_" in vision.model_type)  # after the class token
        grids = [(height // vision.patch_size, width // vision.patch_size) for height, width in sizes]
        return [
            ImageTokens(first + rows * columns, rows, columns, first, patches=torch.arange(-first, rows * columns))
            for rows, columns in grids
        ]


class LlavaNext(Family, model_type="llava_next"):
    """LLaVA-NeXT (1.6). The newline embeddings between the rows of its tiles count as visual tokens.

    A tile with the whole image comes before the tiles with its parts.
    """

    tower = Llava.tower

    def images(self, core: nn.Module, given: Mapping) -> list[ImageTokens]:
        from transformers.models.llava_next.modeling_llava_next import (
            get_anyres_image_grid_shape,
            image_size_to_num_patches,
        )

        vision, pinpoints = core.config.vision_config, core.config.image_grid_pinpoints
        sizes = torch.as_tensor(given["image_sizes"]).tolist()
        whole = self.only_whole(given) or len(sizes) * [False]
        tiles = [
            1 if alone else image_size_to_num_patches(size, pinpoints, vision.image_size)
            for size, alone in zip(sizes, whole, strict=True)
        ]
        side = vision.image_size // vision.patch_size
        # Unpadding and scaling down decide on the count: the model's own code, on patches that know their number, and
        # its square, which tells a patch from a mean of some.
        numbers = [torch.arange(count * side * side, dtype=torch.float64).view(count, -1, 1) for count in tiles]
        features, newline = [torch.cat([x, x.square()], dim=-1) for x in numbers], torch.tensor([-1.0, 1.0])
        packer = getattr(core, "model", core)  # up to transformers 4 OneVision's model is its own base model
        packed, _ = packer.pack_image_features(features, sizes, image_newline=newline, **self.packing(core.config))
        shapes = [get_anyres_image_grid_shape(size, pinpoints, vision.image_size) for size in sizes]
        return [
            _tokens(found, side, count, columns)
            for found, count, (_, columns) in zip(packed, tiles, shapes, strict=True)
        ]

    def only_whole(self, given: Mapping) -> list[bool] | None:
        """Whether each image has no tiles with its parts; None when all have."""
        return None

    def packing(self, config) -> dict:
        """Further arguments of the model's `pack_image_features`."""
        return {"vision_feature_select_strategy": "full"}


def _tokens(packed: Tensor, side: int, tiles: int, tile_columns: int) -> ImageTokens:
    """Of one image, by the numbers ``[count, 2]`` of its patches and their squares; newlines are -1 and 1."""
    count, whole = len(packed), side * side
    numbers, squares = packed.unbind(dim=1)
    rows = int((numbers == -1).sum())
    # An image without parts has a newline by itself.
    parts = Span(whole, 1, 1) if tiles == 1 else Span(whole, rows, (count - whole) // rows - 1, True)
    patches = numbers.long() if torch.equal(numbers.square(), squares) else None
    return ImageTokens(count, side, side, 0, (parts,), patches, tiles, tile_columns)


class LlavaOneVision(LlavaNext, model_type="llava_onevision"):
    """LLaVA-OneVision. An image that shares its row with others has no parts."""

    def only_whole(self, given: Mapping) -> list[bool] | None:
        numbers = given.get("batch_num_images")
        if numbers is None:
            return None
        return [number > 1 for number in torch.as_tensor(numbers).tolist() for _ in range(number)]

    def packing(self, config) -> dict:
        return {"vision_aspect_ratio": config.vision_aspect_ratio}

    def videos(self, core: nn.Module, given: Mapping) -> list[int]:
        vision, pixels = core.config.vision_config, given["pixel_values_videos"]
        side = -(-(vision.image_size // vision.patch_size) // 2)  # of a frame, scaled down
        return len(pixels) * [pixels.shape[1] * side * side + 1]
