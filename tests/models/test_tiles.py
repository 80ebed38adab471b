"""Pictures cut into tiles: which token is which patch, what a part shows of the whole, and the methods that ask."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

import pact_ext
from models import tiny
from models.replay import Recorder, groups_of, replayed_logits
from models.test_encoder_views import CALLS, looking, stock
from models.test_methods import STEPS, build
from pact_ext import methods
from pact_ext.models.families import FAMILIES
from pact_ext.models.tiles import tiles_of

NEXT = pytest.mark.parametrize("variant", ["llava_next", "llava_onevision"])


def tiles_of_batch(model, inputs):
    """``[tiles, 3, 12, 12]``, without those that pad the batch."""
    images = FAMILIES[model.config.model_type].images(model.model, inputs)
    return torch.cat([own[: image.tiles] for own, image in zip(inputs["pixel_values"], images, strict=True)])


# --- The vision tower's side of a view ------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("apart", [False, True])
@NEXT
def test_a_view_knows_its_patches(variant, apart, call):
    """Each token's features tell which of the stock tower's patches it is: the rest must be of the same one."""
    model, look = build(variant), looking()
    inputs = tiny.inputs(model, 3, text_only_row=True)
    features = []
    with model.model.multi_modal_projector.register_forward_pre_hook(lambda _, args: features.append(args[0])):
        model(**inputs)
    tiles = stock(model, tiles_of_batch(model, inputs))
    assert len(features[0]) == len(tiles) == 3 + 3 + 5
    known = features[0].flatten(0, 1)
    with pact_ext.apply(model, look, per_image=apart):
        CALLS[call](model, inputs)
    assert len(look.found) == (3 if apart else 2)
    for found in look.found:
        distance = torch.cdist(found["features"], known)
        patch = distance.argmin(dim=1)
        assert distance.amin(dim=1).max() < 1e-6
        assert len(patch.unique()) == len(patch)
        for name in tiles[0]:
            expected = torch.cat([tile[name] for tile in tiles])[patch]
            assert (found[name] - expected).abs().max() < 1e-6, name
        hidden, is_patch = found["hidden"], torch.zeros(len(found["hidden"]), dtype=torch.bool)
        is_patch[found["places"]] = True
        assert (hidden[is_patch] - found["again"]).abs().max() < 1e-12
        assert torch.equal(hidden[~is_patch], model.model.image_newline.expand_as(hidden[~is_patch]))
        tokens = torch.cat([tile.places for tile in found["tiles"]])
        assert torch.equal(tokens.sort().values, torch.arange(len(patch)))
        for tile in found["tiles"]:
            assert len((patch[tile.places] // 9).unique()) == 1
            assert patch[tile.places].diff().gt(0).all()


SIZES = [(24, 12), (12, 24), (24, 16), (16, 24), (20, 24), (24, 24), (8, 24), (24, 4), (12, 12), (48, 40)]


@NEXT
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_part_shows_what_lies_in_it(variant, size):
    """A patch of the whole view is shown by the part whose token covers its middle."""
    model = build(variant)
    (image,) = FAMILIES[variant].images(model.model, {"image_sizes": [list(size)]})
    whole, *parts = tiles_of(image, 9)
    assert torch.equal(whole.tokens, torch.arange(9))
    (span,) = image.parts
    assert 9 + span.count == image.count
    tokens = (9 + torch.arange(span.count)).view(span.rows, span.columns + 1)[:, :-1]
    assert (image.patches[9:].view(span.rows, -1)[:, -1] == -1).all()
    regions = {}
    for y in range(3):
        for x in range(3):
            covers = tokens[(2 * y + 1) * span.rows // 6, (2 * x + 1) * span.columns // 6]
            regions.setdefault(int(image.patches[covers]) // 9, []).append(3 * y + x)
    for number, part in enumerate(parts, 1):
        assert part.region.tolist() == regions.get(number, [])
        assert torch.equal(part.tokens, (image.patches // 9 == number).nonzero().flatten())


def test_regions_where_unpadding_cropped():
    """24 x 16 pixels: of 6 x 6 patches the outer columns are padding. The middles of the whole view's columns lie at
    1 2/3, 3 and 4 1/3 of them, those of its rows at 1, 3 and 5."""
    model = build("llava_next")
    (image,) = FAMILIES["llava_next"].images(model.model, {"image_sizes": [[24, 16]]})
    regions = [part.region.tolist() for part in tiles_of(image, 9)[1:]]
    assert regions == [[0], [1, 2], [3, 6], [4, 5, 7, 8]]


# --- Methods of the tower -------------------------------------------------------------------------------------------

TEXTS = ["prumerge", "prumerge+", "prumerge+:keep=0.6", "visionzip:dominant=9,contextual=4", "hired:keep=0.3,alpha=0.4"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(("variant", "apart"), [("llava_next", True), ("llava_onevision", False)])
def test_a_method_only_masks(variant, apart, text):
    model = build(variant)
    inputs, recorder = tiny.inputs(model, 3, text_only_row=True), Recorder(methods.parse(text))
    with pact_ext.apply(model, recorder, per_image=apart):
        logits, tokens = tiny.generate(model, inputs, STEPS)
    calls = [(groups_of_next(model, inputs) if apart else groups_of(inputs), recorder.found)]
    assert (logits - replayed_logits(model, inputs, (0,), calls, tokens)).abs().max() < 1e-9
    for _, view, chosen in recorder.found:
        assert torch.isin(chosen.kept, view.encoder.places).all(), "a newline outlived a patch"
        assert len(chosen.kept) == recorder.method.count(len(view)) or "keep" not in text


def groups_of_next(model, inputs):
    """`groups_of` each image apart."""
    counts = iter(image.count for image in FAMILIES[model.config.model_type].images(model.model, inputs))
    groups = []
    for row in groups_of(inputs):
        groups.append([])
        left = row[0] if row else []
        while len(left):
            count = next(counts)
            groups[-1].append(left[:count])
            left = left[count:]
    return groups


@pytest.mark.skipif(tiny.VERSION < (5, 0), reason="transformers 4 takes no features in place of pixels")
def test_features_that_were_encoded_beforehand():
    """The model's own last ones, with the sizes of their pictures."""
    model, look = build("llava_next"), looking()
    inputs = tiny.inputs(model, 1)
    pixels, more = inputs.pop("pixel_values"), tiny.inputs(model, 2)
    unsized = {name: value for name, value in inputs.items() if name != "image_sizes"}

    def encoded(pixels, sizes):
        return {"image": model.model.get_image_features(pixels, sizes, return_dict=True)}

    with pact_ext.apply(model, look):
        model(**inputs, pixel_values=pixels)
        model(**inputs, mm_encoder_outputs=encoded(pixels, inputs["image_sizes"]))
        first, second = look.found
        assert torch.equal(first[0, 0], second[0, 0])
        features = encoded(pixels, inputs["image_sizes"])
        with pytest.raises(RuntimeError, match="for look: 'image_sizes' must be given beside features"):
            model(**unsized, mm_encoder_outputs=features)
        features = encoded(pixels, inputs["image_sizes"])
        encoded(more["pixel_values"], more["image_sizes"])
        with pytest.raises(RuntimeError, match="in mm_encoder_outputs must be what the vision tower gave last"):
            model(**inputs, mm_encoder_outputs=features)
    with (
        pact_ext.apply(model, "downsample"),
        pytest.raises(RuntimeError, match="for downsample: 'image_sizes' must be given beside features"),
    ):
        model(**unsized, mm_encoder_outputs=features)


@NEXT
def test_beams_know_their_own_pictures(variant):
    model, look = build(variant), looking()
    inputs = tiny.inputs(model, 2, counts=[2, 1] if tiny.VERSION >= (5, 0) else [1, 1])
    with pact_ext.apply(model, look):
        model(**inputs)
        once, look.found[:] = look.found[:], []
        model.generate(**inputs, num_beams=3, max_new_tokens=2)
    assert len(look.found) == 6
    for row, found in enumerate(look.found):
        assert (found["again"] - found["hidden"][found["places"]]).abs().max() < 1e-12
        assert (found[0, 0] - once[row // 3][0, 0]).abs().max() < 1e-6


def test_hired_shares_its_budget_among_the_tiles():
    """The whole view gets its share, and a part by what the class token sees where it lies."""
    model = build("llava_next")
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.HiRED(keep=0.5, alpha=0.4))
    with pact_ext.apply(model, recorder, per_image=True):
        model(**inputs)
    assert [len(view.encoder.tiles) for _, view, _ in recorder.found] == [3, 3, 5]
    for _, view, chosen in recorder.found:
        whole, *parts = view.encoder.tiles
        inside = [torch.isin(view.encoder.places[tile.places], chosen.kept).sum() for tile in (whole, *parts)]
        count = methods.budget(len(view), 0.5)
        full = int(0.4 * count)
        first = view.encoder.attention(0)
        shares = [first[part.region].sum() / first[whole.places].sum() for part in parts]
        assert inside[0] >= full
        for kept, share, part in zip(inside[1:], shares, parts, strict=True):
            assert kept >= min(int(share * (count - full) - 1e-4), len(part.places))
        assert sum(inside) == len(chosen.kept) == count


@NEXT
def test_a_budget_beyond_the_patches_is_for_newlines(variant):
    """In order, the first first; and everything is everything."""
    model = build(variant)
    inputs = tiny.inputs(model, 1)
    for more in (1, 3):
        for text in ("prumerge:keep={}", "prumerge+:keep={}", "hired:keep={}", "visionzip:dominant={},contextual=0"):
            recorder = Recorder(methods.parse(text.format(9 * 2 + 36 + more)))
            with pact_ext.apply(model, recorder):
                model(**inputs)
            ((_, view, chosen),) = recorder.found
            places = view.encoder.places
            newlines = torch.arange(len(view))[~torch.isin(torch.arange(len(view)), places)]
            assert len(places) == 54
            assert torch.equal(chosen.kept, torch.cat([places, newlines[:more]]).sort().values)


@pytest.mark.parametrize("method", ["hired", "prumerge", "visionzip"])
def test_patches_that_are_scaled_down_are_none(method, monkeypatch):
    """The whole view is left alone, but a picture is a whole."""
    model = build("llava_onevision")
    inputs = tiny.inputs(model, 1)
    monkeypatch.setattr(model.config, "vision_aspect_ratio", "anyres_max_1")
    ids = torch.tensor([[tiny.BOS, *[tiny.IMAGE] * ((9 + 4 * 3) + (9 + 2 * 5)), tiny.WORDS[5]]])
    inputs |= {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    wanted = "every visual token must be a patch of the vision tower, .*, got a picture with parts that were scaled"
    with (
        pact_ext.apply(model, method),
        pytest.raises(RuntimeError, match=rf"for {method}: {wanted} down in row 0 \(model_type 'llava_onevision'\)"),
    ):
        model(**inputs)
    recorder = Recorder(methods.Downsample(keep=0.3))
    with pact_ext.apply(model, recorder):
        model(**inputs)
    assert [tuple(grid[1:3]) for grid in recorder.found[0][1].grids] == [(3, 3), (4, 2), (3, 3), (2, 4)]


def test_videos_are_no_patches():
    model = build("llava_onevision")
    inputs = tiny.inputs(model, 1)
    ids = torch.tensor([[tiny.BOS, *[tiny.VIDEO] * (2 * 4 + 1), tiny.WORDS[5]]])
    video = {"pixel_values_videos": torch.randn(1, 2, 3, 12, 12, dtype=torch.float64)}
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **video}
    with pact_ext.apply(model, "hired"), pytest.raises(RuntimeError, match="for hired: .* got a video in row 0"):
        model(**inputs)
    with (
        pact_ext.apply(model, "downsample"),
        pytest.raises(ValueError, match=r"for downsample: .* got a video of 9 tokens in row 0 .*'llava_onevision'"),
    ):
        model(**inputs)


def test_onevision_has_one_tile_of_images_that_share_a_row():
    model, look = build("llava_onevision"), looking()
    inputs = tiny.inputs(model, 1)
    ids = torch.tensor([[tiny.BOS, *[tiny.IMAGE] * 20, tiny.WORDS[5]]])
    together = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "batch_num_images": torch.tensor([2])}
    with pact_ext.apply(model, look):
        model(**inputs | together)
    (found,) = look.found
    assert found["places"].tolist() == [*range(9), *range(10, 19)]
    assert [tile.region for tile in found["tiles"]] == [None, None]
    assert (found["again"] - found["hidden"][found["places"]]).abs().max() < 1e-12
    recorder = Recorder(methods.Downsample(keep=0.3, pool=False))
    with pact_ext.apply(model, recorder):
        model(**inputs | together)
    assert torch.isin(torch.tensor([9, 19]), recorder.found[0][2].kept).all(), "a newline that ends no row stays"


# --- Downsample -----------------------------------------------------------------------------------------------------

GRIDS = {"llava": 3, "qwen2_vl": 3, "llava_next": 6, "llava_onevision": 6, "internvl": 5, "idefics3": 7}
"""How many there are in a batch of three images."""


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("variant", GRIDS)
def test_downsampling_keeps_cells_of_each_grid(variant, pool):
    model = build(variant)
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.Downsample(keep=0.3, pool=pool))
    with pact_ext.apply(model, recorder):
        logits, tokens = tiny.generate(model, inputs, STEPS)
    calls = [(groups_of(inputs), recorder.found)]
    assert (logits - replayed_logits(model, inputs, (0,), calls, tokens)).abs().max() < 1e-9
    assert sum(len(view.grids) for _, view, _ in recorder.found) == GRIDS[variant]
    for _, view, selection in recorder.found:
        assert sum(len(grid.places) + (0 if grid.ends is None else grid.rows) for grid in view.grids) == len(view)
        for grid in view.grids:
            inside = torch.isin(selection.kept, grid.places)
            assert 0.1 < inside.sum() / len(grid.places) < 0.6
            assert (grid.ends is not None) == (variant in ("llava_next", "llava_onevision") and len(grid.places) > 9)
            if grid.ends is not None:  # one for each row of cells
                rows = torch.isin(grid.places.view(grid.rows, -1), selection.kept).any(dim=1)
                assert torch.equal(torch.isin(grid.ends, selection.kept), rows)
            if pool:  # cells are boxes, and the grid's own
                cells = selection.labels[grid.places].view(grid.rows, grid.columns)
                assert torch.equal(cells.unique(), inside.nonzero().flatten())
                for cell in cells.unique():
                    rows, columns = (cells == cell).nonzero().T
                    box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
                    assert len(rows) == box == selection.sizes[cell]
                    assert torch.isin(selection.kept[cell], grid.places[(cells == cell).flatten()])
                if grid.ends is not None:
                    ends = selection.labels[grid.ends]
                    same = (cells[:, :1] == cells[:, 0]) == (ends[:, None] == ends)
                    assert same.all(), "rows that are one cell have one end"


def test_downsampling_under_beams():
    """`generate` hands on every row several times, and the sizes of its pictures once."""
    model = build("qwen2_vl")
    inputs, recorder = tiny.inputs(model, 2), Recorder(methods.Downsample(keep=0.3))
    with pact_ext.apply(model, recorder):
        model(**inputs)
        once, recorder.found = recorder.found, []
        model.generate(**inputs, num_beams=2, max_new_tokens=2)
    assert len(recorder.found) == 4
    for number, (_, view, selection) in enumerate(recorder.found):
        _, other, same = once[number // 2]
        assert [grid[1:] for grid in view.grids] == [grid[1:] for grid in other.grids]
        assert torch.equal(selection.labels, same.labels)
