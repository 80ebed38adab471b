"""The trainer from end to end in a few steps, and the folder it leaves."""

import argparse
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

import transformers
from PIL import Image

from bench.quality import checkpoint, package, train
from bench.quality.batches import HEAD, pack
from bench.quality.model import build, logits, seen
from bench.quality.scenes import scene
from bench.quality.steps import Stage, Steps

SHORT = {
    "words": Stage(steps=4, batch=2, rate=1e-3, first_seed=0, few=2, warm=2),
    "eyes": Stage(steps=3, batch=2, rate=1e-3, first_seed=100, warm=2),
    "both": Stage(steps=2, batch=2, rate=1e-3, first_seed=200, warm=2),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trained without a stop."""
    out = tmp_path_factory.mktemp("trained")
    for name, stage in SHORT.items():
        assert train.run(name, stage, out, every=2, look=4) == stage.steps
    return out


def test_it_learns_and_keeps_a_log(folder):
    for name, stage in SHORT.items():
        entries = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert [entry["step"] for entry in entries] == sorted({2, stage.steps})
        assert all(0 <= entry["all"] <= 1 and entry["loss"] > 0 for entry in entries)
    first, last = (json.loads(line)["loss"] for line in (folder / "words.jsonl").read_text().splitlines())
    assert last < first


@pytest.mark.parametrize("name", ["words", "eyes"])
def test_a_stop_changes_no_bit(folder, name, tmp_path):
    stage, clock = SHORT[name], iter([0, 0, 2, *[0] * 99])  # the moment to stop comes after a step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.time, "time", lambda: next(clock))
        done = train.run(name, stage, tmp_path, until=1, look=4)
    assert 0 < done < stage.steps
    assert train.run(name, stage, tmp_path, look=4) == stage.steps
    one, other = (checkpoint.read(path / f"{name}.pt") for path in (folder, tmp_path))
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    assert one["optimizer"]["state"].keys() == other["optimizer"]["state"].keys()
    for key, state in one["optimizer"]["state"].items():
        assert all(torch.equal(value, other["optimizer"]["state"][key][part]) for part, value in state.items())


@pytest.mark.parametrize("name", ["words", "both"])
def test_processes_beside_draw_the_same_steps(name):
    steps = Steps(name, SHORT[name], 7, 12)
    alone, beside = list(steps.after(0)), list(steps.after(0, workers=2))
    assert len(alone) == len(beside) == SHORT[name].steps
    for one, other in zip(alone, beside, strict=True):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[part], other[part]) for part in one)
    (later,) = steps.after(SHORT[name].steps - 1)
    assert all(np.array_equal(alone[-1][part], later[part]) for part in later)


def test_steps_drawn_beside_change_no_bit(folder, tmp_path):
    assert train.run("words", SHORT["words"], tmp_path, look=4, workers=1) == SHORT["words"].steps
    one, other = (checkpoint.read(path / "words.pt")["model"] for path in (folder, tmp_path))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_stage_takes_the_steps_there_is_time_for(tmp_path, monkeypatch):
    """And goes on with as many."""
    stage = replace(SHORT["words"], steps=1000)
    monkeypatch.setattr(train, "steps_in", lambda seconds, each, done, most: done + 1 + int(each <= 0) + most // 1000)
    monkeypatch.setattr(train.time, "time", lambda: 0.0)
    assert train.run("words", stage, tmp_path, until=1, fit=True, look=4) == 4
    assert checkpoint.read(tmp_path / "words.pt")["arguments"]["steps"] == 4
    assert json.loads((tmp_path / "words.jsonl").read_text())["step"] == 4
    assert train.run("words", stage, tmp_path, until=1, fit=True, look=4) == 4


def test_how_many_steps_fit():
    assert train.steps_in(10, 0.1, 20, 1000) == 20 + 90
    assert train.steps_in(10, 0.1, 20, 50) == 50
    assert train.steps_in(-1, 0.1, 20, 50) == 20


def test_a_stage_goes_on_from_other_weights(folder, tmp_path):
    """A checkpoint's or a folder's; the record says which."""
    model = build()
    model.load_state_dict(checkpoint.read(folder / "both.pt")["model"])
    package.save(model, tmp_path / "model")
    for path in (folder / "both.pt", tmp_path / "model"):
        own = train.weights(path)
        assert own.keys() == model.state_dict().keys()
        for key, value in model.float().state_dict().items():
            torch.testing.assert_close(own[key], value, atol=1e-3, rtol=1e-3)
        out = tmp_path / path.name
        stage = replace(SHORT["both"], rate=0.0)
        assert train.run("both", stage, out, look=4, start=path) == stage.steps
        found = checkpoint.read(out / "both.pt")
        assert found["arguments"]["start"] == str(path)
        assert all(torch.equal(found["model"][key], own[key]) for key in own)
    with pytest.raises(ValueError, match="to begin from"):
        train.run("both", SHORT["both"], tmp_path / "none", start=tmp_path / "none.pt")


def test_options_by_stage():
    assert train.by_stage("words=3,both=1") == {"words": 3, "both": 1}
    for wrong in ("word=3", "words=0", "words", ""):
        with pytest.raises(argparse.ArgumentTypeError, match=f"of the stages words, eyes, both, got {wrong}$"):
            train.by_stage(wrong)


def test_stages_change_their_own_parts(folder):
    begun, words, eyes = (
        build().state_dict(),
        *(checkpoint.read(folder / f"{n}.pt")["model"] for n in ("words", "eyes")),
    )
    for key, value in begun.items():
        of_eyes = key.startswith(("model.vision_tower", "model.multi_modal_projector"))
        assert torch.equal(words[key], value) or not of_eyes
        assert torch.equal(eyes[key], value) or of_eyes
    fresh = build(1)
    train.begin_both(fresh, folder)
    for key, value in fresh.state_dict().items():
        of_eyes = key.startswith(("model.vision_tower", "model.multi_modal_projector"))
        assert torch.equal(value, (eyes if of_eyes else words)[key])


def test_what_is_refused(folder, tmp_path):
    content = bytearray((folder / "words.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "words.pt").write_bytes(content)
    with pytest.raises(ValueError, match="words.pt is damaged: its checksum is another"):
        train.run("words", SHORT["words"], tmp_path)
    (tmp_path / "words.pt").write_bytes((folder / "words.pt").read_bytes())
    with pytest.raises(ValueError, match=r"was trained with \{.*'seed': 0.*\}, not with \{'seed': 1"):
        train.run("words", SHORT["words"], tmp_path, seed=1)
    with pytest.raises(ValueError, match="must hold words.pt and eyes.pt before `both` begins, and eyes.pt is missing"):
        train.run("both", SHORT["both"], tmp_path)
    late = Stage(steps=2, batch=2, rate=1e-3, first_seed=900_000_000)
    with pytest.raises(ValueError, match="seeds must stay below 800000000"):
        train.run("eyes", late, tmp_path)


@torch.no_grad()
def test_the_folder_answers_as_the_trained_model_does(tmp_path):
    """Loaded by name, asked through the chat template, first turn and second, in the trained model's own words."""
    model = build()
    package.save(model, tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size < 12e6
    loaded = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    kinds = ("which", "turn")
    one = next(one for one in map(scene, range(99)) if {*kinds} <= {question.kind for question in one.questions})
    asked = [next(question for question in one.questions if question.kind == kind) for kind in kinds]
    batch = pack([asked], np.arange(256)[None])
    words = loaded.get_input_embeddings()
    tokens = seen(loaded, torch.from_numpy(one.image)[None])
    embeds = torch.cat([words(torch.tensor(HEAD))[None], tokens, words(batch.ids)], dim=1)
    expected = logits(loaded, embeds, batch.mask, batch.places)[0, -batch.ids.shape[1] :]
    for question, (_, where) in zip(asked, batch.kinds[0], strict=True):
        turns, picture = [], [{"type": "image", "image": Image.fromarray(one.image)}]
        if question.before:
            turns.append({"role": "user", "content": [*picture, {"type": "text", "text": question.before.text}]})
            turns.append({"role": "assistant", "content": [{"type": "text", "text": question.before.answer}]})
            picture = []
        turns.append({"role": "user", "content": [*picture, {"type": "text", "text": question.text}]})
        arguments = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template(turns, **arguments)
        assert (loaded(**inputs).logits[0, -1] - expected[where.start]).abs().max() < 1e-4
    answer = loaded.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(answer, skip_special_tokens=True)
