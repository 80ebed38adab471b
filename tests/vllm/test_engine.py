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
import qwen
import torch
from checkpoints import build
from PIL import Image
from reference import Reference
from rope_reference import RopeReference

from pact_ext import methods

HERE = Path(__file__).parent
TOKENS, BLOCK = 12, 32  # of the answer; of the cache, the least that a CPU takes


def picture(seed: int, size: tuple[int, int]) -> Image.Image:
    """Smooth colours, so that neighbouring patches are alike and others are not."""
    colours = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC)


def requests(family: str) -> list[list[dict]]:
    """Two rounds: all kinds at once; then some of them again, which finds the caches full."""
    if family in qwen.FAMILIES:
        return qwen_requests()
    wide, tall, square = ((100, 60), (60, 110), (70, 70))
    kinds = [
        {"prompt": "USER: <image>\nWhat is this? ASSISTANT:", "images": [picture(0, wide)]},
        {"prompt": "USER: no picture at all. ASSISTANT:"},
        {"prompt": "USER: <image>\n<image>\nSame? ASSISTANT:", "images": [picture(1, tall), picture(0, wide)]},
        {"prompt": "<image>", "images": [picture(2, square)]},
        {"prompt": f"USER: {'a long story. ' * 12}<image> Well?", "images": [picture(3, wide)]},
    ]
    if family == "llava":  # rows that somebody else has chosen
        kinds.append({"prompt": "USER: <image>\nAnd this? ASSISTANT:", "images": [torch.randn(11, 64)]})
    if family == "llava_onevision":
        frames = np.stack([np.asarray(picture(4 + i, square)) for i in range(4)])
        kinds.append({"prompt": "USER: <unk>\nWhat happens? ASSISTANT:", "videos": [frames]})
        kinds.append({"prompt": "<unk> and <image>", "videos": [frames], "images": [picture(2, square)]})
    return [kinds, [kinds[0], kinds[2], kinds[1]]]


def qwen_requests() -> list[list[dict]]:
    """The same with grids of any shape and a video; a picture whose tokens are cut by the end of a chunk."""
    marks = {"<image>": f"{qwen.START}{qwen.IMAGE}{qwen.END}", "<video>": f"{qwen.START}{qwen.VIDEO}{qwen.END}"}

    def request(prompt: str, **data) -> dict:
        for mark, tokens in marks.items():
            prompt = prompt.replace(mark, tokens)
        return {"prompt": prompt, **data}

    frames = np.stack([np.asarray(picture(4 + i, (64, 48))) for i in range(4)])
    facts = {"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3], "duration": 2.0}
    video = {"videos": [frames], "metadata": [facts | {"video_backend": "opencv", "do_sample_frames": False}]}
    kinds = [
        request("USER: <image>\nWhat is this? ASSISTANT:", images=[picture(0, (100, 60))]),
        request("USER: no picture at all. ASSISTANT:"),
        request("<image><image>Same?", images=[picture(1, (40, 120)), picture(0, (100, 60))]),
        request("<image>", images=[picture(2, (70, 70))]),
        request(f"USER: {'a long story. ' * 5}<image> Well?", images=[picture(3, (200, 30))]),
        request("USER: <video>\nWhat happens? ASSISTANT:", **video),
        request("<video> and <image>", images=[picture(2, (70, 70))], **video),
    ]
    return [kinds, [kinds[0], kinds[2], kinds[1], kinds[5]]]


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


def kept_of(method: methods.Method, rows: torch.Tensor, shapes: list[tuple[int, int]]) -> torch.Tensor:
    """Which of a picture's rows, in grids of these shapes, a method leaves."""
    size = shapes[0][0] * shapes[0][1]
    grids = [methods.Grid(torch.arange(i * size, (i + 1) * size), *shape) for i, shape in enumerate(shapes)]
    return method.select(methods.View(rows, needs=method.needs, grids=grids, row=0)).kept


CASES = {
    "llava": {"method": "divprune", "keep": 0.25},
    "llava_next": {"method": "random", "keep": 40},
    "llava_onevision": {"method": "divprune", "keep": 0.2},
    "qwen2_vl": {"method": "divprune", "keep": 0.25},
    "qwen2_5_vl": {"method": "downsample", "keep": 0.25, "pool": False},
    "qwen3_vl": {"method": "divprune", "keep": 0.3},
}


@pytest.mark.parametrize("family", CASES)
def test_a_budget_answers_as_hugging_face_on_the_same_rows(family, checkpoints, tmp_path):
    stock, folder = checkpoints(family)
    budget, rounds = CASES[family], requests(family)
    name, *arguments = budget.items()
    method = methods.parse(f"{name[1]}:{','.join(f'{argument}={value}' for argument, value in arguments)}")
    if family in qwen.FAMILIES:
        reference = RopeReference(stock, lambda rows, grids: kept_of(method, rows, grids))
    else:
        reference = Reference(stock, lambda rows: rows_of(method, rows))
    given = answers(folder, rounds, tmp_path, budget)
    for together, answered in zip(rounds, given, strict=True):
        for request, (ids, answer, _) in zip(together, answered, strict=True):
            wanted, prompt = reference.prompt(request)
            assert ids == wanted, request["prompt"]
            assert answer == reference.answer(prompt, TOKENS), request["prompt"]
    for request, (ids, _, cached) in zip(rounds[1], given[1], strict=True):
        assert cached == (len(ids) - 1) // BLOCK * BLOCK, f"{request['prompt']}: found less in the cache than there is"


@pytest.mark.parametrize("family", ["llava", *qwen.FAMILIES])
def test_keeping_everything_answers_as_vllm_without_the_plugin(family, checkpoints, tmp_path):
    _, folder = checkpoints(family)
    rounds = requests(family)[:1]
    plain = answers(folder, rounds, tmp_path, None)
    assert answers(folder, rounds, tmp_path, {"method": "divprune", "keep": 1.0}) == plain


@pytest.mark.parametrize(
    ("architecture", "budget", "message"),
    [
        ("Gemma3ForConditionalGeneration", CASES["llava"], "Gemma3ForConditionalGeneration is not served with fewer"),
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
