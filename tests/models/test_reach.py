"""Every method on every family: served, and then held to the full-length model that only masks, or refused by name."""

from __future__ import annotations

import functools
import re

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import tiny
from models.replay import Recorder, groups_of, replayed_logits
from models.test_methods import build, sites_of
from pact_ext import methods

METHODS = {
    "random": ("random:keep=0.4,layer=2", "random:keep=1.0,layer=2"),
    "downsample": ("downsample:keep=0.4,layer=2", "downsample:keep=1.0,layer=2"),
    "fastv": ("fastv:keep=0.4", "fastv:keep=1.0"),
    "vtw": ("vtw", None),
    "tome": ("tome:r=3,first=2", "tome:keep=1.0,first=2"),
    "prumerge": ("prumerge", "prumerge:keep=1.0"),
    "prumerge+": ("prumerge+:keep=0.4", "prumerge+:keep=1.0"),
    "hired": ("hired:keep=0.4", "hired:keep=1.0"),
    "visionzip": ("visionzip:dominant=6,contextual=4", "visionzip:dominant=1.0"),
    "entropyprune": ("entropyprune:clusters=6,core=4,layer=3,rollout=2", "entropyprune:naive=True,keep=1.0,layer=2"),
    "trim": ("trim", "trim:keep=1.0"),
    "sparsevlm": ("sparsevlm:layers=(2,3,5)", "sparsevlm:layers=(2;),keep=(1.0;)"),
    "pyramiddrop": ("pyramiddrop:stages=2", "pyramiddrop:keep=1.0,stages=3"),
    "kmeans": ("kmeans:keep=0.3", "kmeans:keep=1.0"),
    "dpc": ("dpc:keep=0.3", "dpc:keep=1.0"),
    "dbscan": ("dbscan:eps=0.4,min_samples=2", "dbscan:eps=0.0"),
    "agglomerative": ("agglomerative:keep=0.3,linkage=average", "agglomerative:keep=1.0"),
    "divprune": ("divprune:keep=0.3", "divprune:keep=1.0"),
    "cdpruner": ("cdpruner:keep=0.3", "cdpruner:keep=1.0"),
    "dart": ("dart:keep=0.5", "dart:keep=1.0"),
    "pact": ("pact:layer=3,dc=0.6", "pact:layer=3,keep=1.0"),
}
"""By name: one that reduces, and one that keeps everything, if there is one."""

OF_THE_TOWER = ("prumerge", "prumerge+", "hired", "visionzip")
AT_THE_PROJECTOR = (*OF_THE_TOWER, "trim", "divprune", "cdpruner")


def refusal(name: str, family: str) -> str | None:
    """What `pact_ext.apply` says, of what is not served."""
    if name in AT_THE_PROJECTOR and family.startswith("qwen3_vl"):
        return (
            f"pact_ext.apply: the layers at which {name} acts must be in 2 to 5 for this model, got 0; its layers "
            f"before 2 add visual features to visual tokens' places (model_type '{family}')"
        )
    if name in OF_THE_TOWER and not family.startswith("llava"):
        return (
            f"pact_ext.apply: {name} needs a token for each patch of the vision tower, in order, and its tokens are "
            f"made otherwise (model_type '{family}')"
        )
    return None


@functools.cache
def prompts(family: str):
    """A padded batch and its positions, a row by itself, and the stock model's logits of that."""
    model = build(family)
    inputs, alone = tiny.inputs(model, 2), tiny.inputs(model, 1)
    positions = {} if tiny.has_grids(inputs) else {"position_ids": tiny.positions(model, inputs)}
    return inputs, positions, alone, model(**alone).logits


def test_every_method_is_here():
    assert list(METHODS) == [name for name in methods.names() if name in METHODS]
    assert set(methods.names()) - set(METHODS) <= {"llama-vid", "dyrate"}, (
        "which are trained, and have tests of their own"
    )


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_served_or_refused(name, family):
    reduces, keeps = METHODS[name]
    model, expected = build(family), refusal(name, family)
    if expected is not None:
        with pytest.raises(ValueError, match=f"^{re.escape(expected)}$"):
            pact_ext.apply(model, reduces)
        return
    inputs, positions, alone, stock = prompts(family)
    recorder = Recorder(methods.parse(reduces))
    with pact_ext.apply(model, recorder):
        logits = model(**inputs, **positions).logits[:, -1:]
    calls, forced = [(groups_of(inputs), recorder.found)], torch.zeros(2, 1, dtype=torch.int64)
    replayed = replayed_logits(model, inputs, sites_of(recorder, model), calls, forced)
    assert (logits - replayed).abs().max() < (1e-9 if logits.dtype == torch.float64 else 1e-4)
    assert all(len(selection.kept) < len(view) for _, view, selection in recorder.found)
    if keeps is not None:
        with pact_ext.apply(model, keeps):
            assert torch.equal(model(**alone).logits, stock)
