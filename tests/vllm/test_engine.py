"""vLLM with fewer tokens answers, token for token, what Hugging Face does on the same rows."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import build
from PIL import Image
from reference import Reference

from pact_ext import methods

HERE = Path(__file__).parent
TOKENS = 12


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth colours, so that neighbouring patches are alike and others are not."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def requests(family: str) -> list[list[dict]]:
    """Two rounds: all kinds at once; then some of them again, which finds the caches full."""
    wide, tall, square = ((100, 60), (60, 110), (70, 70))
    kinds = [
        {"prompt": "USER: <image>\nWhat is this? ASSISTANT:", "images": [picture(0, wide)]},
        {"prompt": "USER: no picture at all. ASSISTANT:"},
        {"prompt": "USER: <image>\n<image>\nSame? ASSISTANT:", "images": [picture(1, tall), picture(0, wide)]},
        {"prompt": "<image>", "images": [picture(2, square)]},
        {"prompt": f"USER: {'a long story. ' * 12}<image> Well?", "images": [picture(3, wide)]},
    ]
    if family == "llava_onevision":
        frames = np.stack([np.asarray(picture(4 + i, square)) for i in range(4)])
        kinds.append({"prompt": "USER: <unk>\nWhat happens? ASSISTANT:", "videos": [frames]})
        kinds.append({"prompt": "<unk> and <image>", "videos": [frames], "images": [picture(2, square)]})
    return [kinds, [kinds[0], kinds[2], kinds[1]]]


def served(folder: Path, rounds: list[list[dict]], tmp_path: Path, budget: dict | None, **environment: str):
    """The process of an engine, and where its answers are."""
    (tmp_path / "requests").write_bytes(pickle.dumps(rounds))
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PACT_VLLM"},
        **({} if budget is None else {"PACT_VLLM": json.dumps(budget)}),
        **{"OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        **environment,
    }
    command = [
        sys.executable,
        str(HERE / "engine.py"),
        str(folder),
        str(tmp_path / "requests"),
        str(tmp_path / "answers"),
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


def answers(folder: Path, rounds, tmp_path: Path, budget: dict | None, **environment: str) -> list:
    done = served(folder, rounds, tmp_path, budget, **environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
    return json.loads((tmp_path / "answers").read_text())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder, built = tmp_path_factory.mktemp("checkpoints"), {}

    def get(family: str) -> tuple[Path, Path]:
        if family not in built:
            built[family] = build(family, folder)
        return built[family]

    return get


def rows_of(method: methods.Method, rows: torch.Tensor) -> torch.Tensor:
    """Those that a method leaves of one picture in one square grid."""
    side = int(len(rows) ** 0.5)
    parts = {"grids": [methods.Grid(torch.arange(len(rows)), side, side)], "row": 0}
    selection = method.select(methods.View(rows, needs=method.needs, **parts))
    return rows[selection.kept] if selection.hidden is None else selection.hidden


CASES = {
    "llava": {"method": "divprune", "keep": 0.25},
    "llava_next": {"method": "random", "keep": 40},
    "llava_onevision": {"method": "divprune", "keep": 0.2},
}


@pytest.mark.parametrize("family", CASES)
def test_a_budget_answers_as_hugging_face_on_the_same_rows(family, checkpoints, tmp_path):
    stock, folder = checkpoints(family)
    budget, rounds = CASES[family], requests(family)
    method = methods.parse(f"{budget['method']}:keep={budget['keep']}")
    reference = Reference(stock, lambda rows: rows_of(method, rows))
    given = answers(folder, rounds, tmp_path, budget)
    for together, answered in zip(rounds, given, strict=True):
        for request, (ids, answer) in zip(together, answered, strict=True):
            wanted, embeddings = reference.prompt(request)
            assert ids == wanted, request["prompt"]
            assert answer == reference.answer(embeddings, TOKENS), request["prompt"]


def test_keeping_everything_answers_as_vllm_without_the_plugin(checkpoints, tmp_path):
    _, folder = checkpoints("llava")
    rounds = requests("llava")[:1]
    plain = answers(folder, rounds, tmp_path, None)
    assert answers(folder, rounds, tmp_path, {"method": "divprune", "keep": 1.0}) == plain


@pytest.mark.parametrize(
    ("architecture", "budget", "message"),
    [
        ("Qwen2VLForConditionalGeneration", CASES["llava"], "Qwen2VLForConditionalGeneration is not served with fewer"),
        ("LlavaForConditionalGeneration", {"method": "fastv"}, "PACT_VLLM: vLLM cannot serve fastv: it acts inside"),
    ],
    ids=["model", "method"],
)
def test_what_cannot_be_served_stops_the_engine_at_start(architecture, budget, message, checkpoints, tmp_path):
    _, folder = checkpoints("llava")
    folder = shutil.copytree(folder, tmp_path / "other")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": [architecture]}))
    done = served(folder, requests("llava"), tmp_path, budget)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
