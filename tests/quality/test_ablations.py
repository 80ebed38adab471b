"""The code of the ablations, on few scenes and a model that has learned nothing."""

import json

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

from bench.quality import ablations, package
from bench.quality.asking import answers
from bench.quality.curves import exam
from bench.quality.model import build
from pact_ext import PactConfig
from pact_ext.methods import Downsample, Pact, View


def test_the_command_leaves_a_record_and_a_table(tmp_path, monkeypatch):
    package.save(build(), tmp_path / "model")
    parts, parameters = ablations.parts, ablations.parameters
    monkeypatch.setattr(ablations, "parts", lambda keep: [*parts(keep)[:1], *parts(keep)[5:8]])
    monkeypatch.setattr(ablations, "parameters", lambda: parameters()[:2])
    shape = ["--scenes", "2", "--each", "2", "--keep", "0.25", "--out", str(tmp_path)]
    assert ablations.main([str(tmp_path / "model"), *shape]) == 0
    record = json.loads((tmp_path / "ablations.json").read_text())
    names = ["stock", "pact", "no proportional attention", "renumbered positions", "layer 0"]
    assert [one["name"] for one in record["ablations"]] == [
        *names,
        "published, prune_ratio 0.45",
        "published, dc 0.05",
    ]
    assert [one["visual"] for one in record["ablations"][:5]] == [256, 64, 64, 64, 64]
    assert record["ablations"][4]["visual_mean"] < record["ablations"][1]["visual_mean"]
    assert len(record["keys"]["median"]) == 6
    whole, *others = (record["ablations"][i]["divergence"] for i in (1, 2, 3))
    assert all(abs(other - whole) > 1e-6 for other in others)


@torch.no_grad()
def test_positions_renumbered_where_nothing_is_gone_say_the_same():
    """What is left moves together; a reduction makes the difference."""
    model = build().eval()
    scenes, asked = exam(2, each=2)

    def first(method, layer):
        with ablations.renumbered(model, layer):
            return answers(model, scenes, asked, method).first

    assert (first(None, 0) - answers(model, scenes, asked).first).abs().max() < 1e-4
    method = Downsample(keep=0.25)
    assert (first(method, 0) - answers(model, scenes, asked, method).first).abs().max() > 1e-3


def test_an_unweighed_method_differs_in_nothing_but_sizes():
    random = torch.Generator().manual_seed(0)
    hidden, keys, queries = (torch.randn(40, *shape, generator=random) for shape in ((16,), (2, 8), (4, 8)))
    method = Pact(PactConfig(layer=2), keep=9)
    view = View(hidden, needs=method.needs, keys=keys, queries=queries, turned_keys=keys)
    one, other = method.select(view), ablations.Unweighed(method).select(view)
    assert int(one.sizes.max()) > 1
    assert (other.sizes == 1).all()
    assert all(torch.equal(getattr(one, part), getattr(other, part)) for part in ("kept", "labels", "hidden"))
