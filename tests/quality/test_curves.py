"""The code of the curves, on few scenes and a model that has learned nothing."""

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")
pytest.importorskip("matplotlib", reason="plots need the extra: pip install 'pact-ext[show]'")

from bench.quality import __main__ as command
from bench.quality import asking, curves, package, plots
from bench.quality.model import build
from bench.quality.scenes import HELD_OUT


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    package.save(build(), folder)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    """The command's record of two questions of each of three scenes, two budgets, three methods."""
    out = folder / "out"
    chosen = ["--methods", "random", "downsample", "pact", "--keep", "0.5", "0.1"]
    arguments = ["--scenes", "3", "--each", "2", *chosen, "--out", str(out)]
    assert command.main([str(folder), *arguments]) == 0
    return out


def test_a_second_call_measures_nothing_again(folder, made, tmp_path, monkeypatch):
    """Not of the same model and the same questions; of others, it does. A line torn by a stop is measured again."""
    shutil.copy(made / "part.jsonl", tmp_path)
    again = ["--each", "2", "--keep", "0.5", "--methods", "random", "--out", str(tmp_path)]
    asked = []

    def answers(model, scenes, questions, method, batch):
        asked.append(method)
        return asking.answers(model, scenes, questions, method, batch)

    monkeypatch.setattr(curves, "answers", answers)
    assert command.main([str(folder), "--scenes", "3", *again]) == 0
    assert asked == []
    first, second = (json.loads((path / "curves.json").read_text())["curves"][1] for path in (made, tmp_path))
    assert first == second
    with (tmp_path / "part.jsonl").open("a") as file:
        file.write('["torn')
    assert command.main([str(folder), "--scenes", "2", *again]) == 0
    assert asked == [None, None, "random:keep=0.500000"]
    assert len((tmp_path / "part.jsonl").read_text().splitlines()) == 7 + 2


def test_a_method_that_is_the_same_at_every_budget_is_measured_once(folder, tmp_path):
    chosen = ["--methods", "vtw", "random", "--keep", "0.5", "0.1"]
    assert command.main([str(folder), "--scenes", "2", "--each", "1", *chosen, "--out", str(tmp_path)]) == 0
    first, second = json.loads((tmp_path / "curves.json").read_text())["curves"][1:3]
    assert (first.pop("keep"), second.pop("keep")) == (0.5, 0.1)
    assert first == second
    assert len((tmp_path / "part.jsonl").read_text().splitlines()) == 1 + 1 + 2


def test_processes_side_by_side_find_the_same_and_time_nothing(folder, made, tmp_path):
    chosen = ["--methods", "random", "pact", "--keep", "0.5", "0.1"]
    arguments = ["--scenes", "3", "--each", "2", *chosen, "--jobs", "2", "--out", str(tmp_path)]
    assert command.main([str(folder), *arguments]) == 0
    alone, beside = (
        {(one["name"], one["keep"]): one for one in json.loads((path / "curves.json").read_text())["curves"]}
        for path in (made, tmp_path)
    )
    assert len(beside) == 5
    for key, one in beside.items():
        assert one.pop("prefill") is None
        assert one == {name: value for name, value in alone[key].items() if name != "prefill"}
    assert (tmp_path / "accuracy.png").exists()
    assert not (tmp_path / "time.png").exists()


def test_the_questions_of_an_exam():
    scenes, asked = curves.exam(30, each=2)
    assert [one.scene for one in asked] == [number for number in range(30) for _ in range(2)]
    assert len({one.question.kind for one in asked}) == 9
    everything = curves.exam(30)[1]
    assert {(one.scene, one.question) for one in asked} <= {(one.scene, one.question) for one in everything}
    assert len(everything) > 4 * len(scenes)


def test_the_command_leaves_a_record_a_table_and_plots(made):
    record = json.loads((made / "curves.json").read_text())
    assert record["facts"]["first_seed"] == HELD_OUT
    entries = record["curves"]
    assert [(one["name"], one["keep"]) for one in entries] == [
        ("stock", 1.0),
        *((name, keep) for name in ("random", "downsample", "pact") for keep in (0.5, 0.1)),
    ]
    for one in entries:
        assert one["interval"][0] <= one["accuracy"] <= one["interval"][1]
        assert one["divergence"] >= (0 if one["name"] == "stock" else 1e-6)
        assert one["agreement"] == 1 or one["name"] != "stock"
        assert len(one["right"]) == record["questions"]
        assert one["prefill"] == 1 if one["name"] == "stock" else one["prefill"] > 0
    assert [round(one["visual"]) for one in entries] == [256, 128, 26, 132, 25, 128, 26]
    assert entries[5]["visual_mean"] == pytest.approx((2 * 256 + 4 * 128) / 6)
    table = (made / "curves.md").read_text().splitlines()
    assert table[2:4] == ["| method | 50% | 10% |", "|---|---:|---:|"]
    assert len(table) == 7
    assert all((made / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in ("accuracy", "time"))


def test_an_exam_has_a_question_of_each_kind_that_a_scene_has():
    scenes, asked = curves.exam(4, first=5)
    for number, one in enumerate(scenes):
        assert sorted(a.question.kind for a in asked if a.scene == number) == sorted({q.kind for q in one.questions})


def test_intervals_are_of_scenes_not_of_questions():
    owners = np.repeat(np.arange(50), 20)
    right = np.repeat(np.arange(50) % 2, 20).astype(bool)
    low, high = curves.interval(right, owners)
    assert low == pytest.approx(0.5 - 1.96 * (0.25 / 50) ** 0.5, abs=0.03)
    assert high == pytest.approx(0.5 + 1.96 * (0.25 / 50) ** 0.5, abs=0.03)


def test_only_the_scenes_that_downsampling_fails():
    asked = [asking.Asked(scene, None) for scene in (0, 0, 1, 2)]
    entries = [
        {"name": "stock", "keep": 1.0, "right": [1, 1, 1, 0]},
        {"name": "downsample", "keep": 0.5, "right": [1, 0, 1, 0]},
        {"name": "pact", "keep": 0.5, "right": [1, 1, 0, 1]},
    ]
    found = curves.where_downsampling_fails(entries, asked)
    assert [(one["name"], one["accuracy"], one["scenes"]) for one in found] == [
        ("downsample", 0.5, 1),
        ("pact", 1.0, 1),
    ]


def test_a_plot_has_the_methods_inside_the_decoder_apart_and_the_baselines_beside_both():
    entries = [
        {"name": "random", "visual": 64, "visual_mean": 64},
        {"name": "divprune", "visual": 64, "visual_mean": 64},
        {"name": "pact", "visual": 64, "visual_mean": 128},
    ]
    assert [[one["name"] for one in panel] for panel in plots.panels(entries)] == [
        ["random", "divprune"],
        ["random", "pact"],
    ]


@torch.no_grad()
def test_an_answer_is_what_the_model_says_until_its_end(folder, monkeypatch):
    """Three letters at most; right is the whole answer."""
    model = build().eval()
    scenes, asked = curves.exam(2, first=5)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = asking.answers(model, scenes, asked, batch=3)  # every word is as likely, the first of them wins
    assert set(found.texts) == {"<pad> <pad> <pad> <pad>"}
    assert len(found.seconds) == -(-len(asked) // 3)
    assert not found.right(asked).any()
    truth = asking.Answers([one.question.answer for one in asked], found.first, found.visual, found.seconds)
    assert truth.right(asked).all()
    ids = asking.prompt(asked[0].question)
    assert ids.count(4) == 256
