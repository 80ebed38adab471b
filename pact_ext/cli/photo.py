"""From an image file to whole patches: any size, mode and orientation in, sRGB values in [0, 1] out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..drawing import picture
from .errors import CommandError

MOST_PATCHES = 16384


@dataclass(frozen=True)
class Photo:
    """A photograph cut into whole patches.

    Attributes:
        pixels: ``[3, rows * patch, columns * patch]`` float32, sRGB in [0, 1].
        patch: side of a patch, pixels.
        size: width and height of the image as it is shown, before scaling and cropping.
        scaled: whether it was scaled down to fit.
    """

    pixels: Tensor
    patch: int
    size: tuple[int, int]
    scaled: bool

    @property
    def rows(self) -> int:
        return self.pixels.shape[1] // self.patch

    @property
    def columns(self) -> int:
        return self.pixels.shape[2] // self.patch

    def patches(self) -> Tensor:
        """``[n, 3, patch, patch]``, row by row: a patch is a token."""
        p = self.patch
        cells = self.pixels.reshape(3, self.rows, p, self.columns, p)
        return cells.permute(1, 3, 0, 2, 4).reshape(-1, 3, p, p)

    def unpatch(self, patches: Tensor) -> Tensor:
        """The inverse of `patches`: ``[n, 3, patch, patch]`` back to the layout of `pixels`."""
        p = self.patch
        cells = patches.reshape(self.rows, self.columns, 3, p, p)
        return cells.permute(2, 0, 3, 1, 4).reshape(3, self.rows * p, self.columns * p)


def opened(path: Path, check: Callable[[int, int], object] | None = None) -> Image.Image:
    """An image file as upright RGB. `check` sees its width and height before its pixels are decoded."""
    try:
        return picture.read(path, check)
    except (FileNotFoundError, ValueError) as error:
        raise CommandError(str(error)) from None


def pictures(paths: Sequence[Path]) -> list[Image.Image]:
    """Image files as upright RGB."""
    return [opened(path) for path in paths]


def read(path: Path, patch: int, max_side: int) -> Photo:
    """Read an image, scale its longer side down to `max_side`, crop it around its centre to whole patches."""

    def check(width: int, height: int) -> None:
        patches = math.prod(side // patch for side in _scaled(width, height, max_side))
        if patches > MOST_PATCHES:
            raise CommandError(
                f"{path} would be {patches} patches, more than {MOST_PATCHES}: raise --patch or lower --max-side"
            )

    image = opened(path, check)
    size = image.size
    scaled = _scaled(*size, max_side)
    if scaled != size:
        image = image.resize(scaled, Image.Resampling.LANCZOS)
    columns, rows = (side // patch for side in scaled)
    if min(columns, rows) < 2:
        when = f", {scaled[0]} x {scaled[1]} when scaled to --max-side {max_side}" if scaled != size else ""
        raise CommandError(
            f"{path} is too small: {size[0]} x {size[1]} pixels{when}; "
            f"2 x 2 patches need at least {2 * patch} x {2 * patch}"
        )
    left, top = (image.width - columns * patch) // 2, (image.height - rows * patch) // 2
    image = image.crop((left, top, left + columns * patch, top + rows * patch))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return Photo(pixels.contiguous(), patch, size, scaled != size)


def _scaled(width: int, height: int, max_side: int) -> tuple[int, int]:
    longer = max(width, height)
    if longer <= max_side:
        return width, height
    return max(1, round(width * max_side / longer)), max(1, round(height * max_side / longer))
