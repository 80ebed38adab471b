"""From an image file to whole patches: any size, mode and orientation in, sRGB values in [0, 1] out."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import CommandError


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


def read(path: Path, patch: int, max_side: int) -> Photo:
    """Read an image, scale its longer side down to `max_side`, crop it around its centre to whole patches."""
    image = _open(path)
    size = image.size
    shrink = min(1.0, max_side / max(size))
    if shrink < 1:
        image = image.resize([max(1, round(side * shrink)) for side in size], Image.Resampling.LANCZOS)
    columns, rows = (side // patch for side in image.size)
    if min(columns, rows) < 2:
        scaled = f", {image.width} x {image.height} when scaled to --max-side {max_side}" if shrink < 1 else ""
        raise CommandError(
            f"{path} is too small: {size[0]} x {size[1]} pixels{scaled}; "
            f"2 x 2 patches need at least {2 * patch} x {2 * patch}"
        )
    left, top = (image.width - columns * patch) // 2, (image.height - rows * patch) // 2
    image = image.crop((left, top, left + columns * patch, top + rows * patch))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return Photo(pixels.contiguous(), patch, size, shrink < 1)


def _open(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # A large photograph is scaled down, and is no reason to warn; far larger ones Pillow refuses itself.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise CommandError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise CommandError(f"{path} is not an image that Pillow can read") from None
    except Exception as error:  # a damaged file makes decoders raise almost anything
        raise CommandError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return _to_rgb(upright)
    except ValueError as error:
        raise CommandError(f"{path} cannot be read: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        # More than 8 bits have no fixed white: the image's own range is stretched to black and white.
        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or Inf")
        low, high = values.min(), values.max()
        image = Image.fromarray(np.uint8(np.round((values - low) * (255 / max(high - low, 1e-12)))))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
