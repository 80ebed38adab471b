"""The small model that the package holds answers as well as its card says, with all its tokens and with half."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

from bench.quality.asking import answers
from bench.quality.curves import exam
from bench.quality.scenes import HELD_OUT
from pact_ext import PactConfig, small
from pact_ext.methods import Downsample, Pact

SCENES = 24  # held out, and other than those of its card
HALF = Pact(PactConfig(layer=2), keep=0.5)


@pytest.fixture(scope="module")
def model():
    return small.load()[0]


@pytest.fixture(scope="module")
def asked():
    return exam(SCENES, HELD_OUT + 50_000)


def accuracy(model, asked, method=None) -> float:
    return float(answers(model, *asked, method).right(asked[1]).mean())


def test_it_answers(model, asked):
    """Bars three to four standard deviations of such an exam below what 2,000 scenes give."""
    assert accuracy(model, asked) > 0.92
    assert accuracy(model, asked, HALF) > 0.82


def test_it_looks(model, asked):
    """With one token for the whole picture it knows no more than the text: the bars above need the picture."""
    assert accuracy(model, asked, Downsample(keep=1)) < 0.4
