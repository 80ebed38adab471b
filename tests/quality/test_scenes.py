"""Scenes show what they say, and every answer is found again from the things alone."""

from collections import Counter

import numpy as np
import pytest

from bench.quality.batches import some_patches, told
from bench.quality.glyphs import glyph
from bench.quality.questions import KINDS
from bench.quality.scenes import GRID, PATCH, RGB, SIDE, scene
from bench.quality.words import CELLS, COLORS, GLYPHS, ID, LETTERS, NUMBERS, WORDS

SCENES = [scene(seed) for seed in range(60)]


def pixels_of(one, patches):
    """``[patches, 64, 3]``."""
    cells = one.image.reshape(GRID, PATCH, GRID, PATCH, 3).swapaxes(1, 2).reshape(GRID**2, PATCH**2, 3)
    return cells[list(patches)]


def test_a_seed_is_a_picture():
    for seed in (0, 7):
        again = scene(seed)
        assert np.array_equal(again.image, SCENES[seed].image)
        assert again.questions == SCENES[seed].questions
    assert len({one.image.tobytes() for one in SCENES}) == len(SCENES)
    assert all(one.image.shape == (SIDE, SIDE, 3) for one in SCENES)
    assert all(len(scene(seed, most=2).things) <= 3 for seed in range(20))


def test_things_are_where_they_are_said_to_be_and_have_their_color():
    for one in SCENES:
        cells = [thing.cell for thing in one.things] + [one.word_cell] * bool(one.word)
        assert len(set(cells)) == len(cells)
        for thing in one.things:
            rows, columns = np.divmod(np.array(thing.patches), GRID)
            middle = (rows.mean() + 0.5) * PATCH, (columns.mean() + 0.5) * PATCH
            assert int(middle[0] * 3 // SIDE) * 3 + int(middle[1] * 3 // SIDE) == thing.cell
            pixels = pixels_of(one, thing.patches).reshape(-1, 3).astype(float)
            near = {name: (np.abs(pixels - color).max(axis=1) < 24).sum() for name, color in RGB.items()}
            assert near[thing.color] > 4, (thing, near)


def test_words_are_written_from_left_to_right_on_white():
    written = [one for one in SCENES if one.word]
    assert 20 < len(written) < 40
    for one in written:
        columns = [np.mean([patch % GRID for patch in patches]) for patches in one.letters]
        assert columns == sorted(columns)
        assert pixels_of(one, one.label).max(axis=(1, 2)).mean() > 230


def answer_of(text, one, before=None):
    """From the list of things, by what is asked."""
    words = text.split()
    if before is not None:
        assert text == "where is it ?"
        return answer_of(f"where is {before.text.split()[3]} ?", one)

    def only(found):
        (thing,) = found
        return thing

    by_glyph = lambda name: only([t for t in one.things if t.glyph == name])  # noqa: E731
    if text == "read the word":
        return " ".join(one.word)
    if text == "what is small ?":
        return only([t for t in one.things if t.small]).glyph
    if words[:2] == ["which", "is"]:
        return only([t for t in one.things if t.color == words[2]]).glyph
    if words[:3] == ["what", "color", "is"]:
        return by_glyph(words[3]).color
    if words[:2] == ["where", "is"]:
        return CELLS[by_glyph(words[2]).cell]
    if words[:3] == ["what", "is", "at"]:
        return only([t for t in one.things if CELLS[t.cell] == words[3]]).glyph
    if words[:2] == ["how", "many"]:
        return NUMBERS[sum(words[2] in (t.glyph, t.color) for t in one.things)]
    first, second = by_glyph(words[1]).cell, by_glyph(words[-2]).cell
    axis = (lambda cell: cell % 3) if "left" in words else (lambda cell: cell // 3)
    assert axis(first) != axis(second)
    return "yes" if axis(first) < axis(second) else "no"


def test_answers_follow_from_the_things():
    kinds = Counter()
    for one in SCENES:
        for question in one.questions:
            assert question.answer == answer_of(question.text, one, question.before), question
            kinds[question.kind] += 1
        assert max(Counter(question.kind for question in one.questions).values()) <= 2
    assert set(kinds) == set(KINDS)
    assert min(kinds.values()) > 10


def test_what_a_scene_tells_of_its_patches():
    for one in SCENES[:20]:
        labels = told(one)
        for thing in one.things:
            for patch in thing.patches:
                own = {WORDS[i] for i in labels[patch] if i >= 0}
                assert own == {thing.glyph, thing.color, CELLS[thing.cell]} | ({"small"} if thing.small else set())
        covered = {patch for thing in one.things for patch in thing.patches} | set(one.label)
        assert {WORDS[i] for i in labels[[p for p in range(GRID**2) if p not in covered], 0]} == {"nothing"}
        chosen = some_patches(one, np.random.default_rng(0), 40)
        assert len(chosen) == 40
        assert (np.diff(chosen) > 0).all()
        assert all(set(thing.patches) & set(chosen.tolist()) for thing in one.things)


@pytest.mark.parametrize("size", [11, 36])
def test_no_two_glyphs_are_alike(size):
    masks = [glyph(name, size) for name in (*GLYPHS, *LETTERS)]
    for i, one in enumerate(masks):
        assert 0.05 < one.mean() < 0.9
        for other in masks[:i]:
            assert np.abs(one - other).mean() > 0.02
    assert len(ID) == len(WORDS)
    assert set(COLORS) == set(RGB)
