"""Pictures in memory: any size, mode and orientation of file in, upright RGB out. Needs Pillow."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator

from PIL import Image, ImageOps, UnidentifiedImageError


def read(path: str | os.PathLike, check: Callable[[int, int], object] | None = None) -> Image.Image:
    """An image file, upright, as `rgb` makes it.

    Args:
        check: is called with its width and height, as stored, before its pixels are decoded: the time to refuse it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no image, or a damaged one.
    """
    with contextlib.ExitStack() as stack:
        # A large photograph is scaled down, and is no reason to warn; far larger ones Pillow refuses itself.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        with _told(path):
            image = stack.enter_context(Image.open(path))
        if check is not None:
            check(*image.size)
        with _told(path):
            return rgb(ImageOps.exif_transpose(image))


@contextlib.contextmanager
def _told(path: str | os.PathLike) -> Iterator[None]:
    """What is wrong with a file, with its name."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes decoders raise almost anything
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


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
