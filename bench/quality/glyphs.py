"""Digits, letters and shapes as masks."""

from __future__ import annotations

import functools
import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .words import SHAPES

FINE = 4  # drawn so many times larger


@functools.lru_cache(maxsize=2048)
def glyph(name: str, size: int) -> np.ndarray:
    """``[size, size]`` float32 in [0, 1]: how much of each pixel it covers."""
    side = size * FINE
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    if name in SHAPES:
        _shape(draw, name, side)
    else:
        font = ImageFont.load_default(side)
        draw.text((side / 2, side / 2), name, 255, font, anchor="mm", stroke_width=max(1, side // 24))
    small = image.resize((size, size), Image.Resampling.BOX)
    return np.asarray(small, np.float32) / 255


def _shape(draw: ImageDraw.ImageDraw, name: str, side: int) -> None:
    low, high, middle = 0.06 * side, 0.94 * side, 0.5 * side
    box = (low, low, high, high)
    if name == "circle":
        draw.ellipse(box, 255)
    elif name == "ring":
        draw.ellipse(box, 255)
        draw.ellipse((0.27 * side, 0.27 * side, 0.73 * side, 0.73 * side), 0)
    elif name == "square":
        draw.rectangle((0.1 * side, 0.1 * side, 0.9 * side, 0.9 * side), 255)
    elif name == "triangle":
        draw.polygon([(middle, low), (high, high), (low, high)], 255)
    elif name == "diamond":
        draw.polygon([(middle, low), (high, middle), (middle, high), (low, middle)], 255)
    elif name == "cross":
        draw.rectangle((0.36 * side, low, 0.64 * side, high), 255)
        draw.rectangle((low, 0.36 * side, high, 0.64 * side), 255)
    elif name == "star":
        points = [(0.5 if i % 2 == 0 else 0.2, math.pi * i / 5) for i in range(10)]
        draw.polygon([(middle + r * side * math.sin(a), middle - r * side * math.cos(a)) for r, a in points], 255)
    else:  # heart
        t = np.linspace(0, 2 * np.pi, 100)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        draw.polygon(list(zip(middle + x * side / 36, middle - (y + 2.5) * side / 36, strict=True)), 255)
