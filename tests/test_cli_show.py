"""pact-ext show of one photograph: the panels, the picture that is drawn, and what is printed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

import pytest
import torch

from pact_ext import PRESETS, PactConfig, cli, ops

np = pytest.importorskip("numpy", reason="the show command needs the extra: pip install 'pact-ext[show]'")
matplotlib = pytest.importorskip("matplotlib", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("PIL", reason="the show command needs the extra: pip install 'pact-ext[show]'")

from command_line import COLUMNS, HOPPER, PATCH, ROWS, N, correlation, gradient, rows_of, save  # noqa: E402
from PIL import Image  # noqa: E402

from pact_ext.cli import descriptors, figure, panels, photo, show, timing  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def _time_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "RUNS", 1)  # no test looks at how long an operator takes
        yield


@pytest.fixture(scope="module")
def patches():
    """The photograph's patches [n, 3, p, p], cut here without the code under test: 512 x 600 less 8 x 12 pixels."""
    pixels = np.array(Image.open(HOPPER).convert("RGB"))[6:-6, 4:-4].astype(np.float32) / 255
    cells = pixels.reshape(ROWS, PATCH, COLUMNS, PATCH, 3)
    return torch.from_numpy(cells.transpose(0, 2, 4, 1, 3).reshape(N, 3, PATCH, PATCH).copy())


@pytest.fixture(scope="module")
def expected(patches):
    """Scores and reduction of the photograph with the default parameters, from the operators."""
    keys, queries = descriptors.keys_and_queries(patches)
    mean = patches.double().mean(dim=(0, 2, 3)).float()
    hidden = (patches - mean[:, None, None]).flatten(1)
    c = cli.SHOW_CONFIG
    merged, sizes, centers, labels = ops.reduce(
        hidden, keys, queries, keys, c.prune_ratio, c.dc, c.dn, c.alpha, gaussian=c.gaussian
    )
    scores = ops.euti_scores(hidden, keys, queries)
    return {"merged": merged, "sizes": sizes, "centers": centers, "labels": labels, "scores": scores, "mean": mean}


@pytest.fixture(scope="module")
def result():
    return show.shown(photo.read(HOPPER, PATCH, 672), cli.SHOW_CONFIG)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What a default run prints, and the picture it writes."""
    output = tmp_path_factory.mktemp("show") / "picture.png"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["show", str(HOPPER), "--output", str(output)]) == 0
    return printed.getvalue(), output


def crop(picture: Path, name: str):
    """One panel of the picture, [H, W, 3] uint8, and the side of a patch in it."""
    place = figure.layout(ROWS, COLUMNS)
    left, top, width, height = place.boxes[name]
    pixels = np.array(Image.open(picture))
    assert pixels.shape[1::-1] == place.size
    return pixels[top : top + height, left : left + width], place.cell


def cells(panel, cell):
    """[n, cell, cell, 3]: the patches of a panel of the picture."""
    return panel.reshape(ROWS, cell, COLUMNS, cell, 3).swapaxes(1, 2).reshape(N, cell, cell, 3)


def small_photograph(size):
    return np.array(Image.fromarray(np.array(Image.open(HOPPER))[6:-6, 4:-4]).resize(size, Image.Resampling.LANCZOS))


def test_default_reduction_is_worth_showing(expected):
    reduction = 1 - len(expected["centers"]) / N
    assert 0.5 < reduction < 0.8
    assert expected["sizes"].max() > 200  # the background is uniform
    assert 0 < (expected["labels"] < 0).sum() < N / 5
    face = expected["labels"].reshape(ROWS, COLUMNS)[11:20, 14:23]
    assert len(face.unique()) > face.numel() / 2  # and the face is fine


def test_heat_panel_is_the_scores(result, expected):
    assert result.panels.heat.shape == (ROWS, COLUMNS)
    torch.testing.assert_close(result.panels.heat.flatten(), expected["scores"])


def test_label_panel_is_the_reduction(result, expected):
    assert torch.equal(result.panels.labels.flatten(), expected["labels"])
    assert torch.equal(result.reduction.centers, expected["centers"])


def test_cluster_panel_has_one_color_for_each_cluster(result, expected):
    colors, labels = result.panels.clusters.reshape(N, 3), expected["labels"]
    kinds = torch.cat([colors, labels[:, None]], dim=1).unique(dim=0)  # pairs of color and label that occur
    assert len(kinds) == len(colors.unique(dim=0)) == len(labels.unique())
    assert (colors[labels < 0] == panels.DISCARDED).all()


def test_center_marks_are_the_centers_of_clusters_of_two_or_more(result, expected):
    marked = {(int(y), int(x)) for y, x in result.panels.centers}
    several = expected["centers"][expected["sizes"] > 1].tolist()
    assert marked == {divmod(token, COLUMNS) for token in several}


def test_rebuilt_panel_is_the_mean_patch_of_each_cluster(result, expected, patches):
    rebuilt = result.panels.rebuilt.numpy().reshape(ROWS, PATCH, COLUMNS, PATCH, 3).transpose(0, 2, 4, 1, 3)
    rebuilt = torch.from_numpy(rebuilt.reshape(N, 3, PATCH, PATCH).copy())
    labels = expected["labels"]
    merged = expected["merged"].reshape(-1, 3, PATCH, PATCH) + expected["mean"][:, None, None]
    for cluster in range(len(expected["centers"])):
        members = labels == cluster
        # Float32: the means differ by rounding, some 1e-7 for values up to 1.
        assert (rebuilt[members] - patches[members].mean(dim=0)).abs().max() < 2e-6
        assert (rebuilt[members] - merged[cluster]).abs().max() < 2e-6
    assert (rebuilt[labels < 0] == panels.DISCARDED).all()


def test_drawn_photograph(drawn):
    panel, _ = crop(drawn[1], "photo")
    original = small_photograph(panel.shape[1::-1])
    assert np.abs(panel.astype(int) - original).max() <= 1  # only the lowest bit is gone


def test_drawn_heat_map(drawn, expected):
    panel, cell = crop(drawn[1], "heat")
    scores = expected["scores"].numpy()
    wanted = matplotlib.colormaps["inferno"](scores / scores.max())[:, None, None, :3] * 255
    assert np.abs(cells(panel, cell) - wanted).max() <= 2
    assert len(np.unique(cells(panel, cell)[:, 0, 0], axis=0)) > 50


def test_drawn_clusters(drawn, result, expected):
    panel, cell = crop(drawn[1], "clusters")
    corner = cells(panel, cell)[:, 1:3, 1:3].reshape(N, -1, 3).astype(int)  # inside the borders, outside the marks
    labels = expected["labels"].numpy()
    colors = np.round(result.panels.clusters.reshape(N, 3).numpy() * 255)
    assert np.abs(corner - colors[:, None])[labels >= 0].max() <= 1
    assert len(np.unique(corner[labels >= 0], axis=0)) == len(expected["centers"])
    wide = np.kron(result.panels.labels.numpy(), np.ones((cell, cell), int))
    border = wide[:, 1:] != wide[:, :-1]
    assert (panel[:, 1:][border] < 60).mean() > 0.95  # dark, but for what a mark covers


def test_drawn_marks(drawn, result, expected):
    panel, cell = crop(drawn[1], "clusters")
    near = slice(cell // 2 - 1, cell // 2 + 3)
    middle = cells(panel, cell)[:, near, near].min(axis=-1).max(axis=(1, 2))  # white, or the brightest below it
    centers = expected["centers"][expected["sizes"] > 1].numpy()
    others = np.setdiff1d(np.arange(N), centers)
    assert (middle[centers] > 250).all()
    assert (middle[others] > 250).sum() == 0


def test_drawn_rebuilt_photograph(drawn, expected):
    panel, cell = crop(drawn[1], "rebuilt")
    original = small_photograph(panel.shape[1::-1])
    kept = expected["labels"].numpy() >= 0
    mine, theirs = cells(panel, cell)[kept], cells(original, cell)[kept]
    assert correlation(mine, theirs) > 0.9
    assert np.abs(mine.astype(int) - theirs).max() > 30  # a mean is not its members


@pytest.mark.parametrize("name", ["clusters", "rebuilt"])
def test_drawn_discarded_patches_are_hatched_grey(drawn, expected, name):
    panel, cell = crop(drawn[1], name)
    discarded = cells(panel, cell)[expected["labels"].numpy() < 0]
    inside = discarded[:, 1:, 1:]  # a border may run along two sides
    assert set(np.unique(inside)) == {round(255 * grey) for grey in (figure.HATCH, panels.DISCARDED)}
    assert np.ptp(inside, axis=-1).max() == 0
    kept = cells(panel, cell)[expected["labels"].numpy() >= 0]
    assert (np.abs(kept.astype(int) - round(255 * panels.DISCARDED)).max(axis=-1) == 0).mean() < 0.01


def test_nothing_is_discarded_without_pruning(tmp_path, capsys):
    output = tmp_path / "all.png"
    assert cli.main(["show", str(HOPPER), "--output", str(output), "--prune-ratio", "0"]) == 0
    assert re.search(r"^discarded +0$", capsys.readouterr().out, re.MULTILINE)
    for name in ("clusters", "rebuilt"):
        panel, cell = crop(output, name)
        grey = (cells(panel, cell)[:, 1:, 1:] == round(255 * figure.HATCH)).all(axis=(1, 2, 3))
        assert not grey.any()
        assert len(np.unique(panel.reshape(-1, 3), axis=0)) > 100


def test_picture_is_small_and_the_same_every_time(drawn, result):
    png = drawn[1].read_bytes()
    assert len(png) < 600_000
    again = figure.render(result.panels, PATCH, len(result.kept), cli.SHOW_CONFIG)
    assert again == png
    assert 700 <= Image.open(io.BytesIO(png)).width <= 1000


@pytest.mark.parametrize("grid", [(2, 2), (42, 36), (2, 48), (48, 2), (128, 128), (2, 1000)])
def test_panels_lie_apart_inside_the_picture(grid):
    place = figure.layout(*grid)
    boxes = sorted(place.boxes.values(), key=lambda box: (box[1], box[0]))
    for left, top, width, height in boxes:
        assert (height, width) == (grid[0] * place.cell, grid[1] * place.cell)
        assert 0 < left < left + width < place.size[0]
        assert 0 < top < top + height < place.size[1]
    assert boxes[0][0] + boxes[0][2] < boxes[1][0]
    assert boxes[0][1] + boxes[0][3] < boxes[2][1]


def test_panels_follow_the_parameters(result):
    other = show.shown(result.photo, PactConfig(prune_ratio=0.2, dc=0.3, alpha=0.5))
    assert len(other.kept) == 1209  # 1512 - ceil(0.2 * 1511)
    assert other.reduction.n_out < result.reduction.n_out / 2
    assert len(other.panels.clusters.reshape(N, 3).unique(dim=0)) == len(other.reduction.labels.unique())


# --- What show prints -------------------------------------------------------------------------------------------


def test_summary_is_the_reduction(drawn, expected):
    text, output = drawn
    rows = rows_of(text)
    centers, sizes, labels = expected["centers"], expected["sizes"], expected["labels"]
    assert "512 x 600 px" in rows["photograph"]
    assert rows["grid"].startswith("36 x 42 patches of 14 x 14 px (504 x 588 px used)")
    assert rows["tokens in"] == "1512"
    assert rows["kept"] == "832 by importance"  # 1512 - ceil(0.45 * 1511)
    assert rows["tokens out"] == f"{len(centers)}, {(sizes > 1).sum()} of them for two patches or more"
    assert rows["discarded"] == str(int((labels < 0).sum()))
    assert rows["reduction"] == f"{100 - 100 * len(centers) / N:.1f} %"
    assert rows["picture"] == f"{output}, {output.stat().st_size / 1e3:.0f} kB"
    assert "Hand-made descriptors" in text


def test_summary_times_every_operator(drawn):
    rows = rows_of(drawn[0])
    for name in ("importance", "density", "clustering", "assignment", "merging", "whole reduce"):
        assert float(rows[name]) > 0


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ([], cli.SHOW_CONFIG),
        (["--alpha", "0.5"], dataclasses.replace(cli.SHOW_CONFIG, alpha=0.5)),
        (["--config", "qwen2-vl-7b"], PRESETS["qwen2-vl-7b"]),
        (
            ["--config", "qwen2-vl-7b", "--dc", "0.5", "--no-gaussian"],
            PactConfig.preset("qwen2-vl-7b", dc=0.5, gaussian=False),
        ),
    ],
)
def test_parameters(monkeypatch, arguments, config):
    seen = []
    monkeypatch.setattr(show, "run", lambda *given: seen.append(given[-1]) or "")
    assert cli.main(["show", str(HOPPER), *arguments]) == 0
    assert seen == [config]


@pytest.mark.parametrize(("mode", "size"), [("L", (28, 28)), ("RGBA", (29, 57)), ("I;16", (131, 43))])
def test_show_works_on_every_size_and_mode(tmp_path, capsys, mode, size):
    image, output = save(tmp_path, gradient(mode, *size)), tmp_path / "out.png"
    assert cli.main(["show", str(image), "--output", str(output)]) == 0
    columns, rows = (side // PATCH for side in size)
    assert rows_of(capsys.readouterr().out)["tokens in"] == str(rows * columns)
    assert Image.open(output).size == figure.layout(rows, columns).size


def test_flat_photograph_becomes_one_token(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(126, 130, (140, 140, 3), dtype=np.uint8)  # a wall and its sensor noise
    for pixels in (np.full_like(noise, 128), noise):
        image = save(tmp_path, Image.fromarray(pixels))
        assert cli.main(["show", str(image), "--output", str(tmp_path / "out.png")]) == 0
        assert rows_of(capsys.readouterr().out)["tokens out"].startswith("1, 1 of them")
