"""Pictures in memory: any size, mode and orientation of file in, upright RGB out. Needs Pillow."""

from __future__ import annotations

import os
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError


def read(path: str | os.PathLike) -> Image.Image:
    """An image file, upright, as `rgb` makes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            # A large photograph is scaled down, and is no reason to warn; far larger ones Pillow refuses itself.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                upright = ImageOps.exif_transpose(image)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except Exception as error:  # a damaged file makes decoders raise almost anything
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    try:
        return rgb(upright)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None


def rgb(image: Image.Image) -> Image.Image:
    """An image of any mode in RGB, on white where it is transparent. Raises ValueError for NaN or Inf in it."""
    if image.mode == "F" or image.mode.startswith("I"):
        # More than 8 bits have no fixed white: the image's own range is stretched to black and white.
        import numpy as np

        values = np.array(image, dtype=np.float64)
        if not np.isfinite(values).all():
            raise ValueError("it holds NaN or Inf")
        low, high = values.min(), values.max()
        image = Image.fromarray(np.uint8(np.round((values - low) * (255 / max(high - low, 1e-12)))))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
