"""What can be asked about a scene. Every answer follows from the picture, and there is one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .words import CELLS, COLORS, GLYPHS, NUMBERS

if TYPE_CHECKING:
    from .scenes import Scene, Thing

KINDS = ("which", "color", "where", "at", "count", "read", "compare", "turn", "needle")


@dataclass(frozen=True)
class Question:
    """What is asked and what is right; `before` is the turn before it, of a second turn."""

    kind: str
    text: str
    answer: str
    before: Question | None = None


def questions(scene: Scene, random: np.random.Generator) -> list[Question]:
    """At most two of every kind, of those that the scene has an answer for, in a random order."""
    things = scene.things
    glyphs, colors = Counter(one.glyph for one in things), Counter(one.color for one in things)
    alone = [one for one in things if glyphs[one.glyph] == 1]
    found = [Question("which", f"which is {one.color} ?", one.glyph) for one in things if colors[one.color] == 1]
    for one in alone:
        color = Question("color", f"what color is {one.glyph} ?", one.color)
        found.append(color)
        found.append(Question("where", f"where is {one.glyph} ?", CELLS[one.cell]))
        found.append(Question("turn", "where is it ?", CELLS[one.cell], color))
    found += [Question("at", f"what is at {CELLS[one.cell]} ?", one.glyph) for one in things]
    asked = [*colors, str(random.choice(COLORS)), *glyphs, str(random.choice(GLYPHS))]
    found += [
        Question("count", f"how many {name} ?", NUMBERS[(colors + glyphs)[name]]) for name in dict.fromkeys(asked)
    ]
    if scene.word:
        found.append(Question("read", "read the word", " ".join(scene.word)))
    found += [Question("needle", "what is small ?", one.glyph) for one in things if one.small]
    found += _comparisons(alone)
    asked, chosen = Counter(), []
    for i in random.permutation(len(found)):
        asked[found[i].kind] += 1
        if asked[found[i].kind] <= 2:
            chosen.append(found[i])
    return chosen


def _comparisons(alone: list[Thing]) -> list[Question]:
    found = []
    for one in alone:
        for other in alone:
            if one is other:
                continue
            pair = f"{one.glyph} {{}} {other.glyph} ?"
            for axis, word in ((lambda cell: cell % 3, "left of"), (lambda cell: cell // 3, "above")):
                if axis(one.cell) != axis(other.cell):
                    answer = "yes" if axis(one.cell) < axis(other.cell) else "no"
                    found.append(Question("compare", f"is {pair.format(word)}", answer))
    return found
