"""pact_ext.plot_tokens: the drawing against the reduction that it shows."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("numpy", reason="the tests of drawing need numpy")
pytest.importorskip("PIL", reason="drawing needs the extra: pip install 'pact-ext[models]'")

import numpy as np
from PIL import Image

import pact_ext
from pact_ext import plot_tokens
from pact_ext.drawing import token_map
from pact_ext.drawing.palette import BORDER, DISCARDED, HATCH
from pact_ext.models.grids import Grid

ROWS, COLUMNS, BEFORE, AFTER = 6, 9, 5, 11
N = ROWS * COLUMNS
CONFIG = pact_ext.PactConfig(prune_ratio=0.5, dc=0.2)
GREYS = {round(255 * grey) for grey in (HATCH, DISCARDED)}


@pytest.fixture(scope="module")
def reduction():
    """Of a prompt whose tokens BEFORE to BEFORE + N are the picture's: neighbours alike, clusters across its edges."""
    generator = torch.Generator().manual_seed(3)
    kinds = torch.randn(7, 24, generator=generator)
    kind = torch.arange(BEFORE + N + AFTER) // 2 % 7
    keys = kinds[kind] + 0.5 * torch.randn(len(kind), 24, generator=generator)
    hidden = torch.randn(len(kind), 32, generator=generator)
    return pact_ext.reduce(hidden, keys[:, None], keys[:, None], config=CONFIG)


@pytest.fixture(scope="module")
def picture():
    """200 x 120, which is not the shape of the grid: a gradient under noise."""
    ramp = np.linspace(0, 200, 120)[:, None, None] * np.ones((1, 200, 1))
    noise = np.random.default_rng(0).uniform(0, 55, (120, 200, 3))
    return np.uint8(np.concatenate([ramp, ramp[::-1], ramp * 0 + 90], axis=2) + noise)


@pytest.fixture(scope="module")
def labels(reduction):
    return reduction.labels[BEFORE : BEFORE + N].reshape(ROWS, COLUMNS).numpy()


def plot(picture, reduction, **options):
    return np.array(plot_tokens(picture, reduction, (ROWS, COLUMNS), start=BEFORE, **options)).astype(int)


def cells(drawn):
    """``[rows, columns, height, width, 3]``, every token's pixels."""
    height, width = drawn.shape[0] // ROWS, drawn.shape[1] // COLUMNS
    assert drawn.shape == (ROWS * height, COLUMNS * width, 3)
    return drawn.reshape(ROWS, height, COLUMNS, width, 3).swapaxes(1, 2)


def corners(drawn):
    """``[rows, columns, pixels, 3]``: inside the lines, outside the dots."""
    return cells(drawn)[:, :, 4:12, 4:12].reshape(ROWS, COLUMNS, 64, 3)


def test_the_case_has_everything(reduction, labels):
    centers = reduction.centers - BEFORE
    inside = (centers >= 0) & (centers < N)
    assert (labels < 0).sum() > 3
    assert {1, 2} <= set(reduction.sizes[inside].clamp(max=2).tolist())
    assert ((~inside) & (reduction.sizes > 1)).any()
    assert np.isin(labels, reduction.labels[:BEFORE].clamp(min=0)).any()  # a cluster goes beyond the picture
    assert (labels[:, 1:] == labels[:, :-1]).any()


def test_a_cluster_is_one_color_of_its_own(picture, reduction, labels):
    corner = corners(plot(picture, reduction, opacity=1))
    colors = {}
    for label in np.unique(labels[labels >= 0]):
        found = np.unique(corner[labels == label].reshape(-1, 3), axis=0)
        assert len(found) == 1
        assert np.ptp(found) > 3  # not a grey
        colors[label] = tuple(found[0])
    assert len(set(colors.values())) == len(colors)


def test_vivid_is_merged_and_pale_is_alone(picture, reduction, labels):
    corner = corners(plot(picture, reduction, opacity=1))[:, :, 0]
    lightness = corner.mean(axis=-1)
    alone = (reduction.sizes.numpy()[labels] == 1) & (labels >= 0)
    merged = (reduction.sizes.numpy()[labels] > 1) & (labels >= 0)
    assert lightness[alone].min() > lightness[merged].max()


def test_discarded_tokens_are_hatched_grey(picture, reduction, labels):
    corner = corners(plot(picture, reduction, opacity=1))
    for pixels in corner[labels < 0]:
        assert set(np.unique(pixels)) == GREYS
        assert np.ptp(pixels, axis=-1).max() == 0


def test_a_line_runs_between_clusters_and_nowhere_else(picture, reduction, labels):
    dark = (cells(plot(picture, reduction, opacity=1)) == round(255 * BORDER)).all(axis=-1)
    height, width = dark.shape[2:]
    middle_row, middle_column = height // 4, width // 4  # off the dots
    for row in range(ROWS):
        for column in range(COLUMNS):
            here = labels[row, column]
            if column + 1 < COLUMNS:
                edge = np.concatenate([dark[row, column, :, -2:], dark[row, column + 1, :, :2]], axis=1)
                assert edge.any(axis=1).all() == (labels[row, column + 1] != here)
                assert edge[middle_row].any() == (labels[row, column + 1] != here)
            if row + 1 < ROWS:
                edge = np.concatenate([dark[row, column, -2:], dark[row + 1, column, :2]])
                assert edge.any(axis=0).all() == (labels[row + 1, column] != here)
                assert edge[:, middle_column].any() == (labels[row + 1, column] != here)


def test_dots_are_the_centers_of_merged_tokens(picture, reduction):
    drawn = cells(plot(picture, reduction, opacity=1))
    height, width = drawn.shape[2:4]
    middle = drawn[:, :, height // 2, width // 2].min(axis=-1).reshape(N)
    centers = reduction.centers[reduction.sizes > 1].numpy() - BEFORE
    expected = np.isin(np.arange(N), centers)
    assert np.array_equal(middle == 255, expected)
    assert (drawn.min(axis=-1) == 255).any(axis=(2, 3)).sum() == expected.sum()  # nothing else is white


@pytest.mark.parametrize("opacity", [0, 0.3, 0.6])
def test_colors_are_laid_over_the_picture_in_grey(picture, reduction, labels, opacity):
    drawn, full = (plot(picture, reduction, opacity=value) for value in (opacity, 1))
    grey = Image.fromarray(picture).convert("L").resize(drawn.shape[1::-1], Image.Resampling.LANCZOS)
    mixed = (1 - opacity) * np.array(grey)[..., None] + opacity * full
    assert np.abs(corners(drawn) - corners(mixed)).max() <= 1


def test_a_grid_brings_its_start(picture, reduction):
    one = plot_tokens(picture, reduction, (ROWS, COLUMNS), start=BEFORE)
    other = plot_tokens(picture, reduction, Grid(BEFORE, ROWS, COLUMNS))
    assert one.tobytes() == other.tobytes()
    assert one.mode == other.mode == "RGB"
    assert one.tobytes() != plot_tokens(picture, reduction, (ROWS, COLUMNS)).tobytes()


def test_same_bytes_every_time(picture, reduction, threads):
    drawn = []
    for count in (1, 2, 1):
        threads(count)
        drawn.append(plot_tokens(picture, reduction, (ROWS, COLUMNS), start=BEFORE).tobytes())
    assert len(set(drawn)) == 1


def test_every_kind_of_picture(picture, reduction, tmp_path):
    image = Image.fromarray(picture)
    image.save(tmp_path / "picture.png")
    expected = plot(image, reduction)
    for same in (
        *[tmp_path / "picture.png", str(tmp_path / "picture.png"), picture, torch.from_numpy(picture)],
        *[picture / 255.0, torch.from_numpy(picture).double() / 255, picture[::-1].copy()[::-1], image.convert("RGBA")],
    ):
        assert np.array_equal(plot(same, reduction), expected)
    for mode in ("L", "P", "CMYK", "I;16", "F", "1"):
        assert plot(image.convert("I" if mode == "I;16" else mode), reduction).shape == expected.shape


@pytest.mark.parametrize(
    ("size", "side", "cell"),
    [((900, 600), 768, (85, 85)), ((600, 600), 768, (85, 128)), ((900, 600), 1, (8, 8)), ((3, 500), 360, (8, 60))],
)
def test_tokens_are_whole_pixels(reduction, size, side, cell):
    drawn = plot_tokens(Image.new("RGB", size), reduction, (ROWS, COLUMNS), side=side)
    assert drawn.size == (COLUMNS * cell[0], ROWS * cell[1])
    assert token_map.cell(size, ROWS, COLUMNS, side) == cell


@pytest.mark.parametrize("grid", [(1, 1), (1, N), (N, 1)])
def test_slender_grids(picture, reduction, grid):
    drawn = np.array(plot_tokens(picture, reduction, grid, start=BEFORE, side=100))
    assert drawn.shape[0] % grid[0] == drawn.shape[1] % grid[1] == 0


def test_one_token_that_is_all(picture):
    whole = pact_ext.reduce(torch.ones(1, 4), torch.ones(1, 1, 4), torch.ones(1, 1, 4), config=CONFIG)
    drawn = np.array(plot_tokens(picture, whole, (1, 1), opacity=1))
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) == 1


def test_pruning_alone_and_clustering_alone(picture, reduction):
    n = reduction.n_in
    keys = torch.randn(n, 1, 8)
    for config in (pact_ext.PactConfig(cluster=False), pact_ext.PactConfig(prune=False, dc=2.0)):
        r = pact_ext.reduce(torch.randn(n, 8), keys, keys, config=config)
        corner = corners(plot(picture, r, opacity=1))
        grey = np.array([set(np.unique(pixels)) == GREYS for pixels in corner.reshape(N, 64, 3)])
        assert np.array_equal(grey, r.labels[BEFORE : BEFORE + N].numpy() < 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"grid": (10, 8)},
            ValueError,
            f"must fit the reduction's {BEFORE + N + AFTER} tokens, got 10 x 8 from token 0",
        ),
        ({"start": BEFORE + AFTER + 1}, ValueError, f"from token {BEFORE + AFTER + 1} on, which needs 71"),
        ({"grid": Grid(BEFORE + AFTER + 1, ROWS, COLUMNS)}, ValueError, "which needs 71"),
        ({"grid": Grid(0, ROWS, COLUMNS), "start": 1}, ValueError, "start must be left out beside a Grid, got 1"),
        ({"grid": (0, 5)}, ValueError, r"grid must be \(rows, columns\), both 1 or more, got \(0, 5\)"),
        ({"grid": (6, 9, 1)}, ValueError, r"got \(6, 9, 1\)"),
        ({"grid": 54}, ValueError, "got 54"),
        ({"grid": (6.0, 9)}, ValueError, r"got \(6.0, 9\)"),
        ({"start": -1}, ValueError, "start must be an integer of 0 or more, got -1"),
        ({"start": 1.5}, ValueError, "got 1.5"),
        ({"side": 0}, ValueError, "side must be an integer in 1 to 16384 pixels, got 0"),
        ({"side": 7.5}, ValueError, "got 7.5"),
        ({"opacity": 1.1}, ValueError, "opacity must be a number in 0 to 1, got 1.1"),
        ({"opacity": "half"}, ValueError, "got 'half'"),
        ({"reduction": None}, TypeError, "reduction must be a pact_ext.Reduction, got NoneType"),
        ({"image": None}, TypeError, r"an array or tensor \[H, W, 3\], got NoneType"),
        ({"image": [[1, 2, 3]]}, TypeError, "got list"),
        ({"image": "no-such-photo.jpg"}, FileNotFoundError, "there is no file no-such-photo.jpg"),
        ({"image": __file__}, ValueError, "test_plot.py is not an image"),
        ({"image": torch.zeros(3, 8, 8)}, ValueError, r"image must be \[H, W, 3\], got \[3, 8, 8\]"),
        ({"image": torch.zeros(8, 8)}, ValueError, r"got \[8, 8\]"),
        ({"image": torch.zeros(8, 0, 3)}, ValueError, r"got \[8, 0, 3\]"),
        ({"image": torch.zeros(8, 8, 3).long()}, TypeError, "must be uint8 or floating point, got torch.int64"),
        ({"image": 255 * torch.ones(8, 8, 3)}, ValueError, "from 0 to 1, got 255 to 255"),
        ({"image": torch.full((8, 8, 3), torch.nan)}, ValueError, "from 0 to 1, got nan"),
    ],
)
def test_errors_say_what_was_wanted(picture, reduction, options, error, message):
    given = {"image": picture, "reduction": reduction, "grid": (ROWS, COLUMNS)} | options
    with pytest.raises(error, match=message) as raised:
        plot_tokens(**given)
    if error is not FileNotFoundError and given["image"] is not __file__:
        assert str(raised.value).startswith("pact_ext.plot_tokens: ")


def test_the_reduction_is_left_as_it_was(picture, reduction):
    before = {name: value.clone() for name, value in vars(reduction).items() if value is not None}
    plot(picture, reduction)
    assert all(torch.equal(getattr(reduction, name), value) for name, value in before.items())
