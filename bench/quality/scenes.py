"""Pictures made on the fly, and questions about them, each the same for its seed."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np

from .glyphs import glyph
from .questions import Question, questions
from .words import CELLS, COLORS, GLYPHS, LETTERS

SIDE, PATCH = 128, 8
GRID = SIDE // PATCH
HELD_OUT = 900_000_000
"""Seeds from here on are for evaluation alone: nothing is trained or tuned on them."""

RGB = {
    "red": (215, 30, 35),
    "green": (40, 165, 55),
    "blue": (40, 70, 225),
    "yellow": (240, 215, 40),
    "purple": (155, 45, 185),
    "cyan": (45, 200, 215),
}


@dataclass(frozen=True)
class Thing:
    """An object in a picture: a glyph of a colour in a cell; `patches` are the places of the tokens that show it."""

    glyph: str
    color: str
    cell: int
    small: bool
    patches: tuple[int, ...]


@dataclass(frozen=True)
class Scene:
    """A picture ``[128, 128, 3]`` uint8, what is in it, and questions.

    Attributes:
        word: three letters on a white label, or "".
        word_cell: where.
        letters: the patches that show each letter.
    """

    image: np.ndarray
    things: list[Thing]
    word: str
    word_cell: int
    letters: list[tuple[int, ...]]
    label: tuple[int, ...]
    questions: list[Question] = field(default_factory=list)


def scene(seed: int, most: int = 5, needles: float = 0.35) -> Scene:
    """The picture of a seed, of two to `most` things, and in a share of all pictures a small one beside them."""
    random = np.random.default_rng(seed)
    image = _background(random)
    cells = list(random.permutation(len(CELLS)))
    colors = _some(random, COLORS)
    glyphs = _some(random, GLYPHS)
    things = []
    for number in range(int(random.integers(min(2, most), most + 1))):
        repeated = number > 0 and random.random() < 0.3  # so that there is something to count
        shape = things[int(random.integers(number))].glyph if repeated and random.random() < 0.5 else glyphs[number]
        color = things[int(random.integers(number))].color if repeated else colors[number % len(colors)]
        size = int(random.integers(20, 37))
        things.append(_draw(random, image, shape, color, int(cells.pop()), size))
    if random.random() < needles:
        cell = int(cells.pop())
        _clutter(random, image, cell)
        things.append(_draw(random, image, glyphs[5], colors[5], cell, int(random.integers(11, 14)), small=True))
    word, word_cell, letters, label = "", -1, [], ()
    if random.random() < 0.5:
        word, word_cell = "".join(random.choice(LETTERS, 3)), int(cells.pop())
        letters, label = _write(random, image, word, word_cell)
    found = Scene(np.clip(image, 0, 255).astype(np.uint8), things, word, word_cell, letters, label)
    found.questions.extend(questions(found, random))
    return found


def _some(random: np.random.Generator, names: tuple[str, ...]) -> list[str]:
    return [names[i] for i in random.permutation(len(names))]


def _background(random: np.random.Generator) -> np.ndarray:
    """Plain, a gradient, noise, or smooth noise of several octaves, as a photograph's surroundings have."""
    kind, light = (
        int(random.integers(4)),
        random.uniform(25, 120) if random.random() < 0.6 else random.uniform(150, 205),
    )
    base = light + random.uniform(-12, 12, 3)
    image = np.broadcast_to(base, (SIDE, SIDE, 3)).astype(np.float32)
    if kind == 1:
        slope = random.uniform(-35, 35, 2) / SIDE
        across = np.arange(SIDE, dtype=np.float32) - SIDE / 2
        image = image + (slope[0] * across[:, None] + slope[1] * across)[..., None].astype(np.float32)
    elif kind == 2:
        image = image + random.standard_normal((SIDE, SIDE, 1), dtype=np.float32) * np.float32(random.uniform(5, 18))
    elif kind == 3:
        for octave in (4, 8, 16):
            gray = random.standard_normal((octave, octave, 1), dtype=np.float32)
            tint = random.standard_normal((octave, octave, 3), dtype=np.float32)
            image = image + _enlarged((gray + 0.25 * tint) * np.float32(45 / octave**0.5))
    return np.ascontiguousarray(image)


def _enlarged(coarse: np.ndarray) -> np.ndarray:
    """To a picture's size, by straight lines between the points."""
    lines = _lines(len(coarse))
    rows = (lines @ coarse.reshape(len(coarse), -1)).reshape(SIDE, len(coarse), -1)
    return lines @ rows


@functools.cache
def _lines(points: int) -> np.ndarray:
    """``[128, points]``, what each pixel of a line takes from the points on it."""
    places = np.linspace(0, points - 1, SIDE, dtype=np.float32)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(points, dtype=np.float32)))


def _corner(random: np.random.Generator, cell: int, height: int, width: int) -> tuple[int, int]:
    """Somewhere in a cell."""
    room = SIDE / 3
    top, left = (cell // 3) * room, (cell % 3) * room
    return (
        int(top + random.uniform(1, max(1.5, room - height - 1))),
        int(left + random.uniform(1, max(1.5, room - width - 1))),
    )


def _blend(image: np.ndarray, mask: np.ndarray, top: int, left: int, color: np.ndarray) -> tuple[int, ...]:
    """Paints, and tells which patches it covers an eighth of."""
    height, width = mask.shape
    part = image[top : top + height, left : left + width]
    part += mask[..., None] * (color - part)
    row, column = top // PATCH, left // PATCH
    rows, columns = (top + height - 1) // PATCH - row + 1, (left + width - 1) // PATCH - column + 1
    covered = np.zeros((rows * PATCH, columns * PATCH), np.float32)
    covered[top % PATCH : top % PATCH + height, left % PATCH : left % PATCH + width] = mask
    shares = covered.reshape(rows, PATCH, columns, PATCH).mean(axis=(1, 3))
    found = np.argwhere(shares >= min(0.12, 0.9 * shares.max()))
    return tuple(int((row + i) * GRID + column + j) for i, j in found)


def _draw(random, image, name: str, color: str, cell: int, size: int, small: bool = False) -> Thing:
    top, left = _corner(random, cell, size, size)
    paint = np.float32(RGB[color]) + random.uniform(-18, 18, 3).astype(np.float32)
    return Thing(name, color, cell, small, _blend(image, glyph(name, size), top, left, paint))


def _clutter(random, image, cell: int) -> None:
    """Grey strokes, among which a small thing is to be found."""
    for _ in range(int(random.integers(4, 9))):
        height, width = (int(random.integers(8, 20)), 2)[:: 1 if random.random() < 0.5 else -1]
        top, left = _corner(random, cell, height, width)
        image[top : top + height, left : left + width] = random.uniform(60, 170)


def _write(random, image, word: str, cell: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    size = int(random.integers(12, 14))
    height, width = size + 2, 3 * size + 2
    top, left = _corner(random, cell, height, width)
    label = _blend(image, np.ones((height, width), np.float32), top, left, np.float32([240, 240, 240]))
    black = np.float32([15, 15, 15])
    places = enumerate(word)
    return [_blend(image, glyph(letter, size), top + 1, left + 1 + i * size, black) for i, letter in places], label
