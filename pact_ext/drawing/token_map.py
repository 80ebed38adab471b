"""Draws a token map over a picture, with Pillow."""

from __future__ import annotations

import os

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from . import picture as pictures
from .palette import BORDER, DISCARDED, HATCH

SMALLEST = 8  # pixels, a token's shorter side: less leaves no room for the lines
SPACING = 6  # pixels between the lines of the hatching


def picture(image) -> Image.Image:
    """What `plot_tokens` takes as a picture, as RGB."""
    if isinstance(image, str | os.PathLike):
        return pictures.read(image)
    if isinstance(image, Image.Image):
        return pictures.rgb(image)
    if not isinstance(image, Tensor):
        if not hasattr(image, "__array_interface__"):
            raise TypeError(
                "pact_ext.plot_tokens: image must be a Pillow image, a path, or an array or tensor [H, W, 3], got "
                f"{type(image).__name__}"
            )
        image = torch.from_numpy(image.copy())  # torch takes no negative strides
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"pact_ext.plot_tokens: image must be [H, W, 3], got {list(image.shape)}")
    image = image.detach().cpu()
    if image.is_floating_point():
        low, high = image.aminmax()
        if not (low >= 0 and high <= 1):  # so NaN is caught too
            raise ValueError(
                f"pact_ext.plot_tokens: image of {image.dtype} must be from 0 to 1, got {low:g} to {high:g}"
            )
        image = (image.float() * 255).round().to(torch.uint8)
    if image.dtype != torch.uint8:
        raise TypeError(f"pact_ext.plot_tokens: image must be uint8 or floating point, got {image.dtype}")
    return Image.fromarray(image.numpy())


def cell(size: tuple[int, int], rows: int, columns: int, side: int) -> tuple[int, int]:
    """Width and height of a token in pixels, for a picture of that width and height."""
    scale = side / max(size)
    return max(SMALLEST, round(size[0] * scale / columns)), max(SMALLEST, round(size[1] * scale / rows))


def draw(
    picture: Image.Image, labels: Tensor, colors: Tensor, centers: list[list[int]], side: int, opacity: float
) -> Image.Image:
    """The map of tokens with `labels` ``[rows, columns]`` and `colors` ``[rows, columns, 3]`` over an RGB picture.

    Args:
        centers: row and column of every token that gets a dot.
        side, opacity: as in `plot_tokens`.
    """
    rows, columns = labels.shape
    width, height = cell(picture.size, rows, columns, side)
    size = columns * width, rows * height
    painted = _image("RGB", (colors * 255).round()).resize(size, Image.Resampling.NEAREST)
    discarded = _image("L", (labels < 0) * 255).resize(size, Image.Resampling.NEAREST)
    painted.paste(_hatching(size), mask=discarded)
    shades = picture.convert("L").resize(size, Image.Resampling.LANCZOS).convert("RGB")
    drawn = Image.blend(shades, painted, opacity)
    _borders(drawn, labels, width, height)
    dot, mask = _dot(min(width, height))
    for row, column in centers:
        drawn.paste(dot, (column * width + (width - dot.width) // 2, row * height + (height - dot.height) // 2), mask)
    return drawn


def _image(mode: str, values: Tensor) -> Image.Image:
    """An image of whole numbers ``[H, W, ...]``; the few of a grid need no numpy."""
    return Image.frombytes(mode, values.shape[1::-1], bytes(values.to(torch.uint8).flatten().tolist()))


def _hatching(size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, _grey(DISCARDED))
    lines = ImageDraw.Draw(image)
    for start in range(0, sum(size), SPACING):
        lines.line([(start, 0), (0, start)], fill=_grey(HATCH))
    return image


def _borders(image: Image.Image, labels: Tensor, width: int, height: int) -> None:
    lines = ImageDraw.Draw(image)
    thick = 1 + min(width, height) // 20
    for row, column in (labels[:, 1:] != labels[:, :-1]).nonzero().tolist():
        x, y = (column + 1) * width - thick // 2, row * height
        lines.rectangle([x, y, x + thick - 1, y + height - 1], fill=_grey(BORDER))
    for row, column in (labels[1:] != labels[:-1]).nonzero().tolist():
        x, y = column * width, (row + 1) * height - thick // 2
        lines.rectangle([x, y, x + width - 1, y + thick - 1], fill=_grey(BORDER))


def _dot(room: int) -> tuple[Image.Image, Image.Image]:
    """A white disc with a dark rim and its mask, drawn large and scaled down, so that it is round."""
    side, fine = max(3, min(13, round(0.42 * room))), 8
    mask, dot = Image.new("L", (side * fine, side * fine)), Image.new("RGB", (side * fine, side * fine), _grey(BORDER))
    rim, end = side * fine // 6, side * fine - 1
    ImageDraw.Draw(mask).ellipse([0, 0, end, end], fill=255)
    ImageDraw.Draw(dot).ellipse([rim, rim, end - rim, end - rim], fill="white")
    return tuple(image.resize((side, side), Image.Resampling.BOX) for image in (dot, mask))


def _grey(level: float) -> tuple[int, int, int]:
    return (round(255 * level),) * 3
