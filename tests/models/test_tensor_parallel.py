"""A model split between two and between four processes decides as one does, all of them alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import tiny
from models.tensor_parallel import METHODS, OF_FOUR

SCRIPT = Path(__file__).with_name("tensor_parallel.py")
ROOT = Path(__file__).parents[2]
NEW = pytest.mark.skipif(tiny.VERSION < (5, 0), reason="up to transformers 4 a split model does not say how: refused")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What every process of one, two and four left, by (processes, rank)."""
    folder = tmp_path_factory.mktemp("split")
    tiny.build("llava").save_pretrained(folder / "checkpoint")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), *sys.path])
    command = [sys.executable, str(SCRIPT), str(folder / "checkpoint"), str(folder), "1", "2", "4"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    files = folder.glob("*.pt")
    return {tuple(map(int, file.stem.split("-"))): torch.load(file) for file in files}


@NEW
@pytest.mark.parametrize(("ranks", "name"), [*((2, name) for name in METHODS), *((4, name) for name in OF_FOUR)])
def test_a_split_model_is_the_whole_one(found, ranks, name):
    logits, tokens, again, columns, shares = found[1, 0][name]
    for rank in range(ranks):
        one = found[ranks, rank][name]
        assert torch.equal(one[1], tokens)
        assert torch.equal(one[3], columns)
        assert (one[0] - logits).abs().max() < 1e-6
        assert (one[2] - again)[:, -1].abs().max() < 1e-9
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(one[4], shares, strict=True))
