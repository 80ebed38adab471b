"""Where a picture's tokens lie: the grids against the tokens that the models themselves make of the pictures."""

from __future__ import annotations

from functools import cache

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import pictures, tiny
from pact_ext.models.grids import Grid, image_grid

PLACES = [(0, 0), (1, 0), (0, 1)]  # image and row
LENGTH = dict.fromkeys(("llava_next", "llava_onevision"), lambda r, c: 9 + r * (c + 1))
LENGTH |= dict.fromkeys(pictures.TILED, lambda r, c: r * c + (16 if r * c > 16 else 0))
WHOLE = {"llava_next": (3, 3), "llava_onevision": (3, 3)} | dict.fromkeys(("internvl", *pictures.TILED), (4, 4))
FAMILIES = pytest.mark.parametrize("variant", tiny.FAMILIES)
KINDS = pytest.mark.parametrize("variant", [*tiny.KINDS, "idefics3"])


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the models are too small to share


@cache
def model(variant):
    return tiny.build(variant)


class Reached(Exception):
    """The decoder, which need not run."""


def embedded(stock, inputs) -> torch.Tensor:
    """``[B, N, d]``: what the decoder gets, the image features in their places."""

    def take(module, args, kwargs):
        raise Reached(kwargs["inputs_embeds"])

    with tiny.decoder(stock).register_forward_pre_hook(take, with_kwargs=True), pytest.raises(Reached) as reached:
        stock(**inputs)
    return reached.value.args[0]


def pixels_of(stock, inputs, image: int, row: int, cell: tuple[int, int]) -> tuple:
    """The index into pixel_values of what the token at `cell` of the whole picture is made from."""
    family, number = stock.config.model_type, image + 2 * row  # the first row has two images
    y, x = cell
    if family == "llava":
        return number, slice(None), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4)
    if family in ("llava_next", "llava_onevision"):
        return number, 0, slice(None), slice(4 * y, 4 * y + 4), slice(4 * x, 4 * x + 4)
    if family == "internvl":  # 2, 1 and 2 tiles
        tile = (2, 3, 5)[number] - 1
        return tile, slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8)
    if family in pictures.TILED:  # 3, 1 and 3 tiles
        tile = ((2,), (3,), (6,)) if family == "aya_vision" else ((0, 2), (0, 3), (1, 2))
        return *tile[number], slice(None), slice(8 * y, 8 * y + 8), slice(8 * x, 8 * x + 8)
    first = int(inputs["image_grid_thw"][:number].prod(dim=1).sum())
    columns = int(inputs["image_grid_thw"][number, 2]) // 2
    return (slice(first + 4 * (y * columns + x), first + 4 * (y * columns + x) + 4),)


@FAMILIES
@pytest.mark.parametrize(("image", "row"), PLACES)
def test_every_token_is_the_one_made_from_its_pixels(variant, image, row):
    """Changing the pixels of one cell changes the token that the grid says more than any other token."""
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    grid = image_grid(stock, inputs, image, row)
    visual = (inputs["input_ids"][row] == tiny.IMAGE).nonzero().flatten()
    before = embedded(stock, inputs)[row, visual]
    for cell in ((0, 0), (0, grid.columns - 1), (grid.rows - 1, 1), (grid.rows - 1, grid.columns - 1)):
        changed = inputs | {"pixel_values": inputs["pixel_values"].clone()}
        changed["pixel_values"][pixels_of(stock, inputs, image, row, cell)] *= -3
        difference = (embedded(stock, changed)[row, visual] - before).norm(dim=1)
        assert int(difference.argmax()) == grid.start + cell[0] * grid.columns + cell[1]


@FAMILIES
def test_grids_are_those_of_the_sizes(variant):
    stock = model(variant)
    family = stock.config.model_type
    inputs = tiny.inputs(stock, 2)
    for row, sizes in enumerate(pictures.SIZES[family]):
        start = 0
        for image, (rows, columns) in enumerate(sizes):
            count = LENGTH.get(family, lambda r, c: r * c)(rows, columns)
            whole = WHOLE.get(family, (rows, columns))
            first = start + count - 16 if whole == (4, 4) else start
            assert image_grid(stock, inputs, image, row) == Grid(first, *whole)
            start += count
        assert start == (inputs["input_ids"][row] == tiny.IMAGE).sum()


@KINDS
def test_a_reduced_model_and_its_labels(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, 2)
    grids = [image_grid(stock, inputs, *place) for place in PLACES]
    with pact_ext.apply(stock, pact_ext.PactConfig(prune_ratio=0.4, dc=0.3, layer=3)) as handle:
        stock(**inputs)
        assert [image_grid(stock, inputs, *place) for place in PLACES] == grids
        for grid, (_, row) in zip(grids, PLACES, strict=True):
            assert grid.start + grid.rows * grid.columns <= handle.last[row].n_in


def test_a_row_without_images():
    stock = model("llava")
    inputs = tiny.inputs(stock, 3, text_only_row=True)
    assert image_grid(stock, inputs, 1, 0) == Grid(25, 5, 5)
    with pytest.raises(ValueError, match="image must be left out: row 2 has no images, got 0"):
        image_grid(stock, inputs, 0, 2)


def prompt_of(inputs, tokens: int) -> dict:
    """The same pictures after one token, with that many image tokens in one run."""
    ids = torch.tensor([[tiny.BOS, *[tiny.IMAGE] * tokens, tiny.WORDS[5]]])
    return inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_images_side_by_side():
    """Nothing between two images: their tokens are one run."""
    stock = model("llava_next")
    inputs = prompt_of(tiny.inputs(stock), (9 + 6 * 4) + (9 + 3 * 7))
    stock(**inputs)
    assert image_grid(stock, inputs, 1) == Grid(9 + 6 * 4, 3, 3)


def test_the_class_token_of_the_vision_tower_is_no_part_of_the_picture(monkeypatch):
    stock = model("llava")
    monkeypatch.setattr(stock.config, "vision_feature_select_strategy", "full")
    inputs = prompt_of(tiny.inputs(stock), 2 * (1 + 25))
    stock(**inputs)
    assert [image_grid(stock, inputs, image) for image in (0, 1)] == [Grid(1, 5, 5), Grid(27, 5, 5)]


def test_pixtral_has_images_of_any_size():
    stock = tiny.build("pixtral", layers=1, dtype=torch.float32)
    pixels = {"pixel_values": torch.randn(2, 3, 24, 24), "image_sizes": torch.tensor([[16, 24], [20, 8]])}
    inputs = prompt_of(pixels, 4 * 6 + 5 * 2)
    stock(**inputs)
    assert [image_grid(stock, inputs, image) for image in (0, 1)] == [Grid(0, 4, 6), Grid(24, 5, 2)]


def test_onevision_has_no_parts_of_images_that_share_a_row():
    stock = model("llava_onevision")
    inputs = prompt_of(tiny.inputs(stock), 2 * (9 + 1))  # a tile and a newline each
    together = inputs | {"batch_num_images": torch.tensor([2])}
    stock(**together)  # the model agrees
    assert image_grid(stock, together, 1) == Grid(10, 3, 3)
    with pytest.raises(ValueError, match=r"row 0 must be those of its images, got 20 tokens and images of \[33\]"):
        image_grid(stock, inputs)


def test_onevision_scales_the_parts_of_large_images_down(monkeypatch):
    stock = model("llava_onevision")
    monkeypatch.setattr(stock.config, "vision_aspect_ratio", "anyres_max_1")
    # 6 x 3 tokens are too many for one tile of 3 x 3, by sqrt(2) a side: 4 x 2, and 2 x 4 of 3 x 6.
    inputs = prompt_of(tiny.inputs(stock), (9 + 4 * 3) + (9 + 2 * 5))
    stock(**inputs)
    assert image_grid(stock, inputs, 1) == Grid(21, 3, 3)


def test_padding_and_videos_do_not_count():
    stock = model("qwen2_vl")
    inputs = tiny.inputs(stock, 2)
    padded = int((inputs["attention_mask"][1] == 0).sum())
    assert padded > 0
    assert image_grid(stock, inputs, 0, 1) == Grid(0, 5, 6)
    ids = torch.cat([torch.full((2, 4), tiny.VIDEO), inputs["input_ids"]], dim=1)
    given = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    assert image_grid(stock, given, 1, 0) == Grid(4 + 24, 3, 5)
    visual = (ids[0] == tiny.IMAGE).nonzero().flatten()
    given["attention_mask"][0, visual[3]] = 0  # hides a token of the first image: the second's come one earlier
    assert image_grid(stock, given, 1, 0) == Grid(4 + 23, 3, 5)
    with pytest.raises(ValueError, match="attention_mask must show image 0 of row 0, and hides some of it"):
        image_grid(stock, given, 0, 0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"input_ids": None}, {}, "inputs must hold input_ids, got attention_mask, image_grid_thw, input_ids"),
        ({}, {"row": 2}, "row must be in 0 to 1, got 2"),
        ({}, {"row": -1}, "row must be in 0 to 1, got -1"),
        ({}, {"image": 2}, "image must be in 0 to 1 for row 0, got 2"),
        ({}, {"image": 1, "row": 1}, "image must be in 0 to 0 for row 1, got 1"),
        ({}, {"image": -1}, "image must be in 0 to 1 for row 0, got -1"),
        ({"image_grid_thw": torch.tensor([[1, 8, 12]] * 3)}, {}, r"row 0 .*got 39 tokens and images of \[24, 24\]"),
        ({"image_grid_thw": torch.tensor([[1, 8, 12]])}, {}, r"row 0 .*got 39 tokens and images of \[24\]"),
    ],
)
def test_errors_say_what_was_wanted(change, options, message):
    stock = model("qwen2_vl")
    with pytest.raises(ValueError, match=message) as raised:
        image_grid(stock, tiny.inputs(stock, 2) | change, **options)
    assert str(raised.value).startswith("pact_ext.image_grid: ")


def test_more_images_than_tokens():
    stock = model("qwen2_vl")
    inputs = tiny.inputs(stock, 2)
    inputs["image_grid_thw"] = torch.cat([inputs["image_grid_thw"], torch.tensor([[1, 4, 4]])])
    with pytest.raises(ValueError, match="tokens of all 4 images, got none for the last 1"):
        image_grid(stock, inputs)


@KINDS
def test_inputs_without_pictures(variant):
    stock = model(variant)
    inputs = tiny.inputs(stock, text_only=True)
    with pytest.raises(ValueError, match=r"pact_ext.image_grid: (inputs must hold|image must be left out)"):
        image_grid(stock, inputs)


def test_a_model_of_no_known_family():
    with pytest.raises(
        ValueError, match=r"image_grid: model must be of a known family \(aya_vision, .*got Linear of type"
    ):
        image_grid(torch.nn.Linear(1, 1), {})
