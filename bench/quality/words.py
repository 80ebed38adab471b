"""Every word that the small model knows."""

from __future__ import annotations

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
DIGITS = tuple("0123456789")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "heart")
GLYPHS = (*DIGITS, *SHAPES)
COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
LETTERS = tuple("ACEHKLNORSTU")
ORDINALS = ("first", "second", "third")
CELLS = tuple(f"{row}-{column}" for row in ("top", "middle", "bottom") for column in ("left", "center", "right"))
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
MARKS = ("nothing", "label", "small")
OTHERS = ("user", "assistant", ":", "?", "which", "is", "what", "color", "where", "at", "how", "many", "read", "the")
MORE = ("word", "left", "of", "above", "are", "and", "same", "it", "yes", "no")

WORDS = (*SPECIAL, *GLYPHS, *COLORS, *LETTERS, *ORDINALS, *CELLS, *NUMBERS, *MARKS, *OTHERS, *MORE)
ID = {word: number for number, word in enumerate(WORDS)}


def ids_of(text: str) -> list[int]:
    """Of words with spaces between them."""
    return [ID[word] for word in text.split()]
