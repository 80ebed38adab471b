"""What is tuned: settings that the methods take, at most six each, none of which moves the budget."""

import json

import numpy as np
import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

from bench.method_cases import methods_at
from bench.quality import curves, package, tuning
from bench.quality.model import build
from bench.quality.scenes import HELD_OUT
from bench.quality.train import TUNING
from pact_ext.methods import parse


@pytest.mark.parametrize("name", list(tuning.SETTINGS))
def test_every_setting_is_one_of_the_method(name):
    plain = methods_at(0.25, 2, (1, 2, 4))[name]
    methods = [parse(plain + suffix) for suffix in tuning.suffixes(name)]
    assert 2 <= len(methods) == len(set(methods)) <= 6
    for method in methods:
        assert [method.count(256, site) for site in range(2)] == [parse(plain).count(256, site) for site in range(2)]
        assert method.sites(6) == parse(plain).sites(6)


def test_the_scenes_are_seeds_of_their_own():
    assert TUNING + 10_000_000 < tuning.FIRST < HELD_OUT - 10_000_000


def test_the_best_of_what_was_tried_is_taken(tmp_path, monkeypatch):
    class Right:
        def __init__(self, *arguments):
            self.method = arguments[3]

        def right(self, asked):
            return np.array([float("alpha=0.75" in self.method)])

    monkeypatch.setattr(curves, "answers", Right)
    package.save(build(), tmp_path / "model")
    shape = ["--scenes", "1", "--methods", "hired", "divprune", "--out", str(tmp_path / "tuned.json")]
    assert tuning.main([str(tmp_path / "model"), *shape]) == 0
    found = json.loads((tmp_path / "tuned.json").read_text())["methods"]
    assert {name: one["best"] for name, one in found.items()} == {"hired": ";alpha=0.75", "divprune": ";start=farthest"}
    assert found["hired"]["tried"][";alpha=0.5"] == 0
    more = [*shape[:3], "trim", "hired", "--without", "hired", *shape[-2:]]
    assert tuning.main([str(tmp_path / "model"), *more]) == 0
    assert json.loads((tmp_path / "tuned.json").read_text())["methods"].keys() == {"hired", "divprune", "trim"}
