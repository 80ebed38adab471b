"""The plugin, against a stand-in for lmms-eval's interface (`lmms_eval_stand_in`): the real one is not installed."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import torch
import transformers
from PIL import Image

import pact_ext
from models import checkpoints, lmms_eval_stand_in
from pact_ext import PactConfig

ROOT = Path(__file__).parents[2]
ENTRY_POINT = "pact_hf = pact_ext.models.lmms_eval:manifest"
CONFIG = PactConfig.preset("llava-onevision-7b", layer=2, prune_ratio=0.6)
REDUCE = "config=llava-onevision-7b,layer=2,prune_ratio=0.6"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return checkpoints.llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def get_model(tmp_path, monkeypatch):
    """lmms-eval's own, after it has found the plugin."""
    lmms_eval_stand_in.write(tmp_path, ENTRY_POINT)
    monkeypatch.syspath_prepend(tmp_path)
    names = ("lmms_eval", "loguru", "pact_ext.models.lmms_eval")

    def forget():
        for name in [name for name in sys.modules if name.startswith(names)]:
            del sys.modules[name]
        vars(pact_ext.models).pop("lmms_eval", None)

    forget()
    from lmms_eval.models import get_model

    yield get_model
    forget()


@pytest.fixture
def requests():
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randint(256, (3, 4, 4, 3), generator=generator, dtype=torch.uint8)
    pictures = blobs.repeat_interleave(14, 1).repeat_interleave(14, 2).numpy()
    return [(f"What is in picture {i}?", Image.fromarray(picture)) for i, picture in enumerate(pictures)]


def create(get_model, arguments, name="pact_hf", **kwargs):
    """As the evaluator does."""
    extra = {"batch_size": 1, "max_batch_size": None, "device": "cpu"}
    return get_model(name, **kwargs).create_from_arg_string(arguments, extra)


def logged(caplog, evaluated, requests):
    with caplog.at_level(logging.INFO, "loguru"):
        answers = evaluated.generate_until(requests)
    return answers, [(record.levelname, record.getMessage()) for record in caplog.records]


@pytest.mark.parametrize("force_simple", [False, True])
def test_answers_are_those_of_the_reduced_model(get_model, checkpoint, requests, force_simple):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}", force_simple=force_simple)
    assert evaluated.is_simple == force_simple
    stock = create(get_model, f"pretrained={checkpoint}", "llava_hf", force_simple=force_simple)
    assert isinstance(evaluated, type(stock))
    with pact_ext.apply(stock.model, CONFIG):
        expected = stock.generate_until(requests)
    assert evaluated.generate_until(requests) == expected
    assert expected != stock.generate_until(requests)


def test_baseline_is_the_stock_model(get_model, checkpoint, requests, caplog):
    evaluated = create(get_model, f"pretrained={checkpoint},reduce=False,{REDUCE}")
    stock = create(get_model, f"pretrained={checkpoint}", "llava_hf")
    answers, lines = logged(caplog, evaluated, requests)
    assert answers == stock.generate_until(requests)
    assert lines == [("INFO", "pact_hf: baseline, nothing was reduced")]


def test_mean_reduction_is_logged(get_model, checkpoint, requests, caplog):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}")
    stock = create(get_model, f"pretrained={checkpoint}", "llava_hf")
    after = []
    with pact_ext.apply(stock.model, CONFIG) as handle:
        for request in requests:
            stock.generate_until([request])
            after += handle.report().visual_out
    assert len(set(after)) > 1
    _, lines = logged(caplog, evaluated, requests)
    mean, share = sum(after) / 3, 1 - sum(after) / 3 / 64
    means = f"64.0 visual tokens on average, {mean:.1f} after; mean reduction {share:.1%}"
    assert lines == [("INFO", f"pact_hf: 3 prompts with {means}")]
    caplog.clear()
    evaluated._rank, evaluated._world_size = 1, 2
    with caplog.at_level(logging.INFO, "loguru"):
        evaluated.generate_until_multi_round(requests)  # the counts go on
    assert caplog.messages == [f"pact_hf: rank 1 of 2: 6 prompts with {means}"]


def test_fields_and_switches_reach_the_reduction(get_model, checkpoint, caplog):
    arguments = "cluster=False,layer=3,dc=0,per_image=True,attention=dense,attn_implementation=eager"
    with caplog.at_level(logging.INFO, "loguru"):
        evaluated = create(get_model, f"base=llava_hf,pretrained={checkpoint},{arguments}")
    handle = evaluated.calls.handle
    assert caplog.messages == [f"pact_hf: llava_hf reduced with {handle.config}"]
    assert handle.config == PactConfig.preset("llava-onevision-7b", cluster=False, layer=3, dc=0)
    assert handle._hooks.plan.per_image
    assert handle.attention == "dense"


def test_a_prompt_without_pictures_is_not_counted(get_model, checkpoint, requests, caplog):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}")
    evaluated.prompt = lambda question: question
    answers, lines = logged(caplog, evaluated, [("What is this?", None)])
    assert answers[0]
    assert lines == [("INFO", "pact_hf: no prompt had visual tokens")]


def test_failures_that_the_base_swallows_are_told(get_model, checkpoint, requests, caplog):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}")
    evaluated.model.train()  # a reduced model refuses
    answers, lines = logged(caplog, evaluated, requests)
    assert answers == ["", "", ""]
    assert lines[-1] == ("ERROR", "pact_hf: 3 calls of the model failed; their answers may be empty")


def test_loglikelihood_is_refused_not_wrong(get_model, checkpoint, requests):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}")
    with pytest.raises(RuntimeError, match="labels were given"):
        list(evaluated.loglikelihood(requests))


@pytest.mark.parametrize("switch", ["", ",reduce=False"])
def test_clean_frees_the_model(get_model, checkpoint, requests, switch):
    evaluated = create(get_model, f"pretrained={checkpoint},{REDUCE}{switch}")
    evaluated.generate_until(requests)
    model = weakref.ref(evaluated.model)
    evaluated.clean()
    assert model() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained={},config=nothing", "no preset named 'nothing'"),
        ("pretrained={},prune_ratio=2", "prune_ratio must be a number in"),
        ("pretrained={},layer=6", "layer must be in 0 to 5"),
        ("pretrained={},reduce=no", "reduce must be True or False, got 'no'"),
        ("pretrained={},base=nothing", "Model 'nothing' not found"),
        ("config=llava-onevision-7b", "base or pretrained must be given"),
    ],
)
def test_bad_arguments(get_model, checkpoint, arguments, message):
    with pytest.raises(ValueError, match=message):
        create(get_model, arguments.format(checkpoint))


def test_base_without_a_model_of_its_own(get_model):
    with pytest.raises(ValueError, match="got 'remote', which has none"):
        get_model("pact_hf")(base="remote")


def test_checkpoint_of_an_unknown_type(get_model, tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="of a known type .*llava_onevision.* of type 'bert'"):
        create(get_model, f"pretrained={tmp_path / 'bert'}")


def test_every_base_is_named_for_a_family_that_can_be_reduced(get_model):
    from pact_ext.models.families import FAMILIES
    from pact_ext.models.lmms_eval import BASES

    assert set(BASES) <= set(FAMILIES)


def test_found_also_when_the_plugin_is_imported_first(tmp_path):
    lmms_eval_stand_in.write(tmp_path, ENTRY_POINT)
    code = "import pact_ext.models.lmms_eval as p, lmms_eval.models as m; assert m.get_model('pact_hf') is p.PactHf"
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT)


def test_the_package_declares_the_entry_point():
    name, target = ENTRY_POINT.split(" = ")
    assert f'[project.entry-points."lmms_eval.models"]\n{name} = "{target}"\n' in (ROOT / "pyproject.toml").read_text()
