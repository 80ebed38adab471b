"""Images apart: which tokens are an image's, by the number that each has."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import oracle, tiny
from pact_ext import PactConfig
from pact_ext.models.families import FAMILIES
from pact_ext.models.pictures import pictures

LAYER, STEPS = 3, 2
CONFIG = PactConfig(prune_ratio=0.3, dc=0.25, layer=LAYER)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-4}

build = functools.cache(tiny.build)


def check(model, inputs, counts: list[list[int]]) -> None:
    """Generation with images apart is that of the model that only masks, and so is a call with pixels."""
    expected, tokens, rows = oracle.masked_logits(model, inputs, LAYER, CONFIG, STEPS, apart=counts)
    pooled = oracle.masked_logits(model, inputs, LAYER, CONFIG, 1)[2]
    assert not torch.equal(rows[0].labels, pooled[0].labels)
    with pact_ext.apply(model, CONFIG, per_image=True) as handle:
        logits, same = tiny.generate(model, inputs, STEPS)
        reductions = handle.last
        model(**inputs)
        for one, other in zip(reductions, handle.last, strict=True):
            assert torch.equal(one.labels, other.labels)
    assert torch.equal(same, tokens)
    assert (logits - expected).abs().max() < TOLERANCE[model.dtype]
    for reduction, row in zip(reductions, rows, strict=True):
        assert torch.equal(reduction.labels, row.labels)
        assert torch.equal(reduction.sizes, row.sizes)
        assert torch.equal(reduction.log_sizes, row.sizes.float().log())
        assert reduction.merged.isfinite().all()
        assert reduction.position_ids.shape[-1] == reduction.n_out


@pytest.mark.parametrize("variant", tiny.FAMILIES)
def test_images_apart(variant):
    model = build(variant)
    inputs = tiny.inputs(model, 2)
    check(model, inputs, tiny.image_tokens(inputs["input_ids"]))


@pytest.mark.parametrize("variant", ["llava", "llava_next", "llava_onevision"])
def test_side_by_side(variant):
    """With nothing between two images."""
    model = build(variant)
    inputs = tiny.inputs(model, 1)
    counts = tiny.image_tokens(inputs["input_ids"])
    ids = inputs["input_ids"][0]
    order = (ids == tiny.IMAGE).int().argsort(stable=True)  # the text first
    inputs["input_ids"] = torch.cat([ids[order], torch.tensor(tiny.WORDS[3:6])])[None]
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    check(model, inputs, counts)


def test_breaks_inside_of_an_image():
    """Pixtral's images have a token after each row that shows nothing."""
    model = build("pixtral")
    rows = [[*[tiny.IMAGE] * columns, tiny.WORDS[9]] for columns in 4 * [6] + 5 * [3]]
    ids = torch.tensor([[tiny.BOS, *[token for row in rows for token in row], *tiny.WORDS[3:6]]])
    pixels = torch.randn(2, 3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    inputs["image_sizes"] = torch.tensor([[16, 24], [20, 12]])
    check(model, inputs, [[24, 15]])


def given(rows: str, images: list[int], videos: list[int] = ()) -> dict:
    """Rows of ``.`` for text, ``#`` for images and ``+`` for videos, with so many features for each."""
    signs = {".": tiny.WORDS[2], "#": tiny.IMAGE, "+": tiny.VIDEO}
    features = {"image": images, "video": videos}
    return {
        "input_ids": torch.tensor([[signs[sign] for sign in row] for row in rows.split()]),
        "mm_encoder_outputs": {
            kind: SimpleNamespace(pooler_output=[torch.zeros(count, 64) for count in counts])
            for kind, counts in features.items()
            if counts
        },
    }


@pytest.mark.parametrize(
    ("rows", "images", "videos", "wanted"),
    [
        ("..##.### .###.#..", [2, 3, 3, 1], [], [[[2, 3], [5, 6, 7]], [[1, 2, 3], [5]]]),
        ("..##.### ........ ####....", [5, 2, 2], [], [[[2, 3, 5, 6, 7]], [], [[0, 1], [2, 3]]]),
        ("++.+#.#+", [1, 1], [3, 1], [[[0, 1, 3], [4], [6], [7]]]),
    ],
)
def test_pictures(rows, images, videos, wanted):
    core = build("llava_onevision").model
    found = pictures(core, FAMILIES["llava_onevision"], given(rows, images, videos), "test")
    assert [[places.tolist() for places in row] for row in found] == wanted


@pytest.mark.parametrize(
    ("rows", "images", "videos", "message"),
    [
        (
            "##.#. #.#..",
            [3, 3],
            [],
            r"the image tokens of row 1 must be those of its images, got 2 tokens and images of \[3\]",
        ),
        ("##.#.", [2], [], r"the image tokens of row 0 must be those of its images, got 3 tokens and images of \[2\]"),
        ("##.#.", [2, 1, 1], [], "input_ids must hold the tokens of all 3 images, got none for the last 1"),
        ("++.#.", [1], [3], r"the video tokens of row 0 must be those of its videos, got 2 tokens and videos of \[3\]"),
        ("#+#..", [2], [1], "one picture's tokens must not stand inside another's, got that in row 0"),
    ],
)
def test_what_cannot_be_told_apart(rows, images, videos, message):
    core = build("llava_onevision").model
    with pytest.raises(ValueError, match=f"^test: {message}"):
        pictures(core, FAMILIES["llava_onevision"], given(rows, images, videos), "test")


def test_an_error_reaches_the_caller(monkeypatch):
    model = build("llava")
    monkeypatch.setattr(type(FAMILIES["llava"]), "image_counts", lambda *arguments: [20, 30])
    with (
        pact_ext.apply(model, CONFIG, per_image=True),
        pytest.raises(ValueError, match="^pact_ext, for per_image=True: the"),
    ):
        model(**tiny.inputs(model, 2))
