"""The small model that the package holds: it loads, it is asked through its processor, and the demo shows it."""

from __future__ import annotations

import io

import numpy as np
import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")
pytest.importorskip("PIL", reason="its pictures need the extra: pip install 'pact-ext[models]'")

import torch
from PIL import Image

from bench.quality.scenes import HELD_OUT, scene
from pact_ext import cli, small


def test_examples_are_held_out_scenes_with_their_answers():
    held_out = {scene(HELD_OUT + number).image.tobytes() for number in range(200)}
    for example in small.examples():
        assert np.asarray(example.image).tobytes() in held_out
        assert len({question.kind for question in example.questions}) >= 8


def test_a_question_through_the_processor():
    loaded, processor = small.load(dtype=torch.float32)
    example = small.examples()[0]
    shape = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    answered = []
    for question in example.questions:
        inputs = processor.apply_chat_template(example.turns(question), **shape)
        ids = loaded.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
        answered.append(processor.decode(ids, skip_special_tokens=True) == question.answer)
    assert sum(answered) >= len(answered) - 2


def test_a_dtype_of_ones_own():
    assert small.load(dtype=torch.bfloat16)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("arguments", [[], ["--method", "visionzip", "--keep", "0.1", "--scene", "3"]])
def test_demo(arguments, capsys, tmp_path):
    assert cli.main(["demo", *arguments, "--output", str(tmp_path / "demo.png")]) == 0
    out = capsys.readouterr().out
    assert f"256 -> {26 if arguments else 64} visual tokens" in out
    assert "read the word" in out
    picture = Image.open(io.BytesIO((tmp_path / "demo.png").read_bytes()))
    assert picture.size == (1620, 425)
