"""What the tests of the pact-ext command share: a photograph, small pictures, and how a failure looks."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image

from pact_ext import cli

HOPPER = Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
PATCH, ROWS, COLUMNS = 14, 42, 36  # of its default grid
N = ROWS * COLUMNS


def fails(capsys, *arguments) -> str:
    """The one line on stderr of a command line that must fail."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pact-ext: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


def rows_of(text: str) -> dict[str, str]:
    return dict(re.split(r"(?<=\w) {2,}", line, maxsplit=1) for line in text.splitlines() if "  " in line)


def save(folder: Path, image: Image.Image, name="image.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def gradient(mode: str, width: int, height: int) -> Image.Image:
    """Black at the left to white at the right."""
    row = np.linspace(0, 1, width)[None].repeat(height, axis=0)
    if mode == "F":
        return Image.fromarray(np.float32(row * 3 - 1))
    if mode == "I;16":
        return Image.fromarray(np.uint16(row * 4000))
    if mode == "I":
        return Image.fromarray(np.int32(row * 1e6 - 5e5))
    return Image.fromarray(np.uint8(row * 255)).convert(mode)


def correlation(a, b) -> float:
    return float(np.corrcoef(np.asarray(a, float).ravel(), np.asarray(b, float).ravel())[0, 1])
