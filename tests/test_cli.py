"""The pact-ext command, end to end: what it prints, what it draws, and how it fails."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pact_ext import PRESETS, PactConfig, __version__, _library, cli, ops
from pact_ext.drawing.palette import oklab

np = pytest.importorskip("numpy", reason="the show command needs the extra: pip install 'pact-ext[show]'")
matplotlib = pytest.importorskip("matplotlib", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("PIL", reason="the show command needs the extra: pip install 'pact-ext[show]'")

from matplotlib import cbook  # noqa: E402
from PIL import Image  # noqa: E402

from pact_ext.cli import descriptors, figure, panels, photo, show, timing  # noqa: E402

HOPPER = Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
COMMANDS = ("show", "layers", "bench-model", "info")
PATCH, ROWS, COLUMNS = 14, 42, 36
N = ROWS * COLUMNS


@pytest.fixture(autouse=True)
def _time_once(monkeypatch):
    monkeypatch.setattr(timing, "RUNS", 1)  # no test looks at how long an operator takes


def command(*arguments, code=None, **environment) -> subprocess.CompletedProcess:
    """The command in a process of its own; `code` is Python to run before it."""
    start = ["-c", f"import sys; {code}; from pact_ext.cli import main; sys.exit(main())"] if code else None
    return subprocess.run(
        [sys.executable, *(start or ["-m", "pact_ext.cli"]), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def fails(capsys, *arguments) -> str:
    """The one line on stderr of a command line that must fail."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pact-ext: error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    return err


# --- The picture of one photograph ------------------------------------------------------------------------------


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
    process = command("show", HOPPER, "--output", output)
    assert process.returncode == 0, process.stderr
    return process.stdout, output


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


def correlation(a, b) -> float:
    return float(np.corrcoef(np.asarray(a, float).ravel(), np.asarray(b, float).ravel())[0, 1])


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


def rows_of(text: str) -> dict[str, str]:
    return dict(re.split(r"(?<=\w) {2,}", line, maxsplit=1) for line in text.splitlines() if "  " in line)


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


def test_preset_and_its_changes(tmp_path, capsys):
    seen = {}
    for name, arguments in {"preset": [], "changed": ["--dc", "0.5", "--no-gaussian"]}.items():
        output = str(tmp_path / f"{name}.png")
        assert cli.main(["show", str(HOPPER), "--output", output, "--config", "qwen2-vl-7b", *arguments]) == 0
        rows = rows_of(capsys.readouterr().out)
        seen[name] = rows["kept"], int(rows["tokens out"].split(",")[0])
    picture = photo.read(HOPPER, PATCH, 672)
    preset = PRESETS["qwen2-vl-7b"]
    assert seen["preset"] == ("1209 by importance", show.shown(picture, preset).reduction.n_out)
    changed = PactConfig.preset("qwen2-vl-7b", dc=0.5, gaussian=False)
    assert seen["changed"] == ("1209 by importance", show.shown(picture, changed).reduction.n_out)
    assert seen["changed"][1] < seen["preset"][1]


# --- Reading photographs ----------------------------------------------------------------------------------------


def save(tmp_path, image: Image.Image, name="image.png", **options) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def gradient(mode: str, width: int, height: int) -> Image.Image:
    """Black at the left to white at the right."""
    row = np.linspace(0, 1, width)[None].repeat(height, axis=0)
    if mode == "F":
        return Image.fromarray(np.float32(row * 3 - 1))
    if mode == "I;16":
        return Image.fromarray(np.uint16(row * 4000))
    if mode == "I":
        return Image.fromarray(np.int32(row * 1e6 - 5e5))
    return Image.fromarray(np.uint8(row * 255)).convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *[("L", "png"), ("RGB", "png"), ("RGBA", "png"), ("LA", "png"), ("P", "png"), ("1", "png"), ("I;16", "png")],
        *[("CMYK", "jpg"), ("YCbCr", "jpg"), ("F", "tiff"), ("I", "tiff"), ("P", "gif"), ("RGB", "webp")],
    ],
)
def test_every_mode_reads_as_the_same_picture(tmp_path, mode, suffix):
    path = save(tmp_path, gradient(mode, 57, 43), f"image.{suffix}")
    pixels = photo.read(path, PATCH, 672).pixels
    assert pixels.shape == (3, 42, 56)
    ramp = torch.linspace(0, 1, 57)[:56].expand(3, 42, 56)
    assert correlation(pixels, ramp) > (0.5 if mode == "1" else 0.98)  # dithered: 0.58 in the mean
    assert pixels.min() < 0.05
    assert pixels.max() > 0.95


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16"])
@pytest.mark.parametrize("size", [(28, 28), (29, 57), (131, 43)])
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


def test_transparent_is_white(tmp_path):
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[:, :14, 3] = 255  # left: opaque black; right: transparent black
    read = photo.read(save(tmp_path, Image.fromarray(pixels)), PATCH, 672).pixels
    assert (read[:, :, :14] == 0).all()
    assert (read[:, :, 14:] == 1).all()
    palette = Image.fromarray(pixels[..., 3]).convert("P")
    transparent = palette.getpixel((20, 0))
    read = photo.read(save(tmp_path, palette, transparency=transparent), PATCH, 672).pixels
    assert (read == 1).all()  # left: white; right: transparent


def test_orientation_is_respected(tmp_path):
    image = Image.open(HOPPER).resize((56, 28))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    path = save(tmp_path, image, exif=exif)
    turned = photo.read(path, PATCH, 672)
    assert turned.size == (28, 56)
    wanted = torch.from_numpy(np.array(image.transpose(Image.Transpose.ROTATE_270))).movedim(-1, 0).float() / 255
    assert torch.equal(turned.pixels, wanted)


def test_crop_is_central_and_patches_invert(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (47, 61, 3), dtype=np.uint8)
    read = photo.read(save(tmp_path, Image.fromarray(pixels)), PATCH, 672)
    wanted = torch.from_numpy(pixels[2:44, 2:58]).movedim(-1, 0).float() / 255
    assert torch.equal(read.pixels, wanted)
    assert torch.equal(read.patches()[5], wanted[:, 14:28, 14:28])  # row 1, column 1 of 4 columns
    assert torch.equal(read.unpatch(read.patches()), wanted)


@pytest.mark.parametrize(("max_side", "grid"), [(672, (48, 39)), (300, (21, 17)), (5000, (86, 71))])
def test_large_photograph_is_scaled_down(tmp_path, max_side, grid):
    path = save(tmp_path, Image.open(HOPPER).resize((1000, 1210)))
    read = photo.read(path, PATCH, max_side)
    assert (read.rows, read.columns) == grid
    assert read.scaled == (max_side < 1210)
    shrink = min(1, max_side / 1210)
    whole = np.array(Image.open(HOPPER).resize((round(1000 * shrink), round(1210 * shrink))))
    top, left = ((big - small) // 2 for big, small in zip(whole.shape, read.pixels.shape[1:], strict=False))
    part = whole[top : top + read.pixels.shape[1], left : left + read.pixels.shape[2]]
    assert correlation(read.pixels.movedim(0, -1), part) > 0.99


# --- Descriptors and colours ------------------------------------------------------------------------------------


def test_keys_are_centered_and_queries_are_not(patches):
    keys, queries = descriptors.keys_and_queries(patches)
    assert keys.shape == queries.shape == (N, 3, 16)
    assert keys[..., :15].mean(dim=0).abs().max() < 1e-4
    assert (keys[..., 15] == descriptors.LIFT).all()
    assert keys[..., :15].square().sum(dim=-1).mean(dim=0) == pytest.approx([1, 1, 1], abs=1e-3)
    assert queries[..., :15].mean(dim=0).abs().max() > 0.5
    moved = queries - keys
    assert (moved - moved[0]).abs().max() < 1e-4  # they differ by the centre alone


def test_descriptors_tell_color_texture_and_gradient_apart():
    x = torch.arange(14)
    stripes = 0.5 + 0.3 * torch.cos(torch.pi * 2 * (2 * x + 1) / 28)  # the second frequency across
    vertical = stripes.expand(3, 14, 14)
    grey = torch.full((3, 14, 14), 0.5)
    red = grey * torch.tensor([2.0, 0.0, 0.0])[:, None, None]
    _, queries = descriptors.keys_and_queries(torch.stack([vertical, vertical.mT, grey, red]))
    color, texture, gradient = queries[:, :, :15].unbind(1)
    assert (texture[2:].abs().max(), gradient[2:].abs().max()) == pytest.approx((0, 0), abs=1e-3)
    assert int(texture[0].abs().argmax()) == 1  # row 0, column 2 of the 4 x 4, less the mean
    assert int(texture[1].abs().argmax()) == 7  # row 2, column 0
    assert int(gradient[0, :12].argmax()) == 0  # across
    assert int(gradient[1, :12].argmax()) == 6  # down, a quarter turn on
    assert (color[3] - color[2]).norm() > 2 * (color[0] - color[2]).norm()


def test_oklab_of_known_colors():
    lab = oklab(torch.tensor([[1.0, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0.5, 0.5, 0.5]]))
    known = [[1, 0, 0], [0, 0, 0], [0.6280, 0.2249, 0.1258], [0.4520, -0.0325, -0.3115], [0.5982, 0, 0]]
    assert (lab - torch.tensor(known)).abs().max() < 2e-4


@pytest.mark.parametrize("sizes", [[1], [7], [3, 1, 9, 1, 1], [1] * 16384, [2] * 8192, list(range(1, 500))])
def test_palette_is_distinct(sizes):
    sizes = torch.tensor(sizes)
    colors = panels.palette(sizes)
    levels = (colors * 255).round()
    assert len(levels.unique(dim=0)) == len(sizes)
    assert (colors.amax(dim=1) - colors.amin(dim=1)).min() > 0.02  # no grey, which is for the discarded
    largest = sizes.topk(min(12, len(sizes))).indices[sizes.topk(min(12, len(sizes))).values > 1]
    if len(largest) > 1:
        assert torch.pdist(oklab(colors[largest])).min() > 0.08  # the largest clusters are easy to tell apart


# --- info -------------------------------------------------------------------------------------------------------


def test_info_json():
    process = command("info", "--json")
    assert (process.returncode, process.stderr) == (0, "")
    facts = json.loads(process.stdout)
    cpu = _library.cpu_info()
    assert facts["pact_ext"] == __version__ == facts["library_version"]
    assert facts["torch"] == torch.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("compiler", "torch_abi_floor", "isa_usable", "isa_built"):
        assert facts[name] == cpu[name]
    assert facts["isa"] in cpu["isa_usable"]
    assert facts["threads"] >= 1
    assert Path(facts["library"]) == _library.library_path().resolve()


def test_info_text(capsys):
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cpu = _library.cpu_info()
    names = [line[:10].strip() for line in lines]
    assert names == ["pact_ext", "torch", "python", "platform", "CUDA", "ISA", "threads", "library", "compiler"]
    values = dict(zip(names, (line[10:] for line in lines), strict=True))
    assert all(value[0] != " " for value in values.values())  # aligned
    assert values["pact_ext"] == __version__
    assert values["ISA"].startswith(f"{cpu['isa']} (usable: {', '.join(cpu['isa_usable'])}; built: ")
    assert values["threads"] == str(torch.get_num_threads())


BUILT = {"version": "1", "archs": ["8.0", "9.0"], "nvcc": "13.0.88", "torch_abi_floor": "2.10"}


@pytest.mark.parametrize(
    ("built", "loadable", "capabilities", "line"),
    [
        (None, False, [], "not built"),
        (BUILT, False, [], "built for 8.0, 9.0 with nvcc 13.0.88; not loaded, this torch is a CPU build"),
        (BUILT, True, [], "built for 8.0, 9.0 with nvcc 13.0.88; no card here"),
        (BUILT, True, [(9, 0)], "built for 8.0, 9.0 with nvcc 13.0.88; card 0 (9.0): supported"),
        (
            BUILT,
            True,
            [(8, 6), (7, 5)],
            "built for 8.0, 9.0 with nvcc 13.0.88; card 0 (8.6): supported; "
            "card 1 (7.5): NOT SUPPORTED, none of the architectures fits it",
        ),
    ],
)
def test_info_tells_what_cuda_code_is_built_and_whether_it_fits(
    capsys, monkeypatch, built, loadable, capabilities, line
):
    monkeypatch.setattr(_library, "cuda_info", lambda: built)
    monkeypatch.setattr(_library, "cuda_loadable", lambda: loadable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert cli.main(["info"]) == 0
    assert f"CUDA      {line}\n" in capsys.readouterr().out
    assert cli.main(["info", "--json"]) == 0
    cuda = json.loads(capsys.readouterr().out)["cuda"]
    assert cuda is None if built is None else cuda["archs"] == ["8.0", "9.0"]
    assert cuda is None or [card["capability"] for card in cuda["cards"]] == [f"{a}.{b}" for a, b in capabilities]


# --- Help and errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(capsys, arguments):
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"example:\n  pact-ext {arguments[0] if len(arguments) > 1 else 'show'} " in out


def test_help_of_show_tells_every_default(capsys):
    with pytest.raises(SystemExit):
        cli.main(["show", "--help"])
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    for flag, default in (
        *[("--output", "pact-show.png"), ("--prune-ratio", "0.45"), ("--dc", "0.06"), ("--dn", "2.0")],
        *[("--alpha", "1.5"), ("--gaussian", "--gaussian"), ("--patch", "14"), ("--max-side", "672")],
    ):
        assert re.search(rf"{flag}\b[^()]*(\([^d][^()]*\)[^()]*)*.{{0,120}}\(default: {default}\b", out), flag
    for preset in PRESETS:
        assert preset in out.replace("- ", "-")  # broken at its hyphen
    assert "Hand-made descriptors" in out


def test_version():
    process = command("--version")
    assert (process.returncode, process.stdout) == (0, f"pact-ext {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["info", "--yaml"], "unrecognized arguments: --yaml"),
        (["show"], "the following arguments are required: IMAGE"),
        (["show", "no-such-photo.jpg"], "there is no file no-such-photo.jpg"),
        (["show", HOPPER, "--dc", "-1"], "dc must be a number >= 0 and finite, got -1.0"),
        (["show", HOPPER, "--dc", "far"], "argument --dc: invalid float value: 'far'"),
        (["show", HOPPER, "--dc", "nan"], "dc must be a number >= 0 and finite, got nan"),
        (["show", HOPPER, "--dn", "0"], "dn must be a number > 0"),
        (["show", HOPPER, "--alpha", "-0.5"], "alpha must be a number >= 0"),
        (["show", HOPPER, "--prune-ratio", "1.5"], "prune_ratio must be a number in [0, 1], got 1.5"),
        (["show", HOPPER, "--config", "gpt"], "no preset named 'gpt'; there are llava-onevision-7b"),
        (["show", HOPPER, "--config", "qwen2-vl-7b", "--dn", "-1"], "dn must be a number > 0"),
        (["show", HOPPER, "--patch", "3"], "--patch must be in 4 to 64 pixels, got 3"),
        (["show", HOPPER, "--max-side", "27"], "--max-side must be at least two patches, 28 pixels, got 27"),
        (["show", HOPPER, "--patch", "4"], "128 x 150 patches are more than 16384"),
        (["show", HOPPER, "--model", "m", "--patch", "14"], "--patch must be left out with --model"),
        (["show", HOPPER, "--model", "m", "--max-side", "99"], "--max-side must be left out with --model"),
        (["show", HOPPER, "--prompt", "Why?"], "--prompt must be left out without --model"),
        (["show", HOPPER, "--output", "picture.jpg"], "--output must end in .png, got picture.jpg"),
        (["show", HOPPER, "--output", "no/such/folder.png"], "the folder of --output does not exist: no/such"),
    ],
)
def test_wrong_arguments(capsys, monkeypatch, tmp_path, arguments, wanted):
    monkeypatch.chdir(tmp_path)
    assert wanted in fails(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_wrong_photographs(capsys, tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture\nat all")
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(HOPPER.read_bytes()[:20_000])
    nan = save(tmp_path, Image.fromarray(np.full((40, 40), np.nan, np.float32)), "nan.tiff")
    small = save(tmp_path, Image.new("RGB", (27, 300)), "small.png")
    thin = save(tmp_path, Image.new("RGB", (2000, 40)), "thin.png")
    for image, wanted in {
        text: "text.png is not an image that Pillow can read",
        cut: "cut.jpg cannot be read: image file is truncated",
        nan: "nan.tiff cannot be read: it holds NaN or Inf",
        tmp_path: "cannot be read: Is a directory",
        small: "small.png is too small: 27 x 300 pixels; 2 x 2 patches need at least 28 x 28",
        thin: "thin.png is too small: 2000 x 40 pixels, 672 x 13 when scaled to --max-side 672",
    }.items():
        assert wanted in fails(capsys, "show", image, "--output", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_huge_photograph_is_refused_by_pillow(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "decompression bomb" in fails(capsys, "show", HOPPER, "--output", tmp_path / "out.png")


def test_output_that_cannot_be_written(capsys, tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "folder.png cannot be written: it is a folder" in fails(capsys, "show", HOPPER, "--output", folder)
    image = save(tmp_path, Image.new("RGB", (60, 60)))
    before = image.read_bytes()
    assert "would overwrite the photograph" in fails(capsys, "show", image, "--output", image)
    assert image.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk(capsys, tmp_path):
    output = tmp_path / "full.png"
    output.symlink_to("/dev/full")
    image = save(tmp_path, Image.new("RGB", (60, 60)))
    assert "full.png cannot be written: No space left on device" in fails(capsys, "show", image, "--output", output)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_without_permission(capsys, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert "cannot be written: Permission denied" in fails(capsys, "show", HOPPER, "--output", locked / "out.png")


@pytest.mark.parametrize("package", ["PIL", "matplotlib"])
def test_missing_extra(tmp_path, package):
    process = command("show", HOPPER, "--output", tmp_path / "out.png", code=f"sys.modules[{package!r}] = None")
    wanted = f"show needs Pillow and matplotlib, and {package} is not installed: pip install 'pact-ext[show]'"
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == f"pact-ext: error: {wanted}\n"


def test_info_and_help_need_no_extra():
    blocked = "sys.modules.update(dict.fromkeys(['PIL', 'matplotlib', 'numpy', 'transformers', 'tqdm']))"
    assert command("info", code=blocked).returncode == 0
    for name in COMMANDS:
        assert command(name, "--help", code=blocked).returncode == 0


def test_library_that_does_not_load_is_one_line(capsys, monkeypatch):
    def missing():
        raise ImportError("pact_ext: libpact_cpu.so is missing.\nBuild it.")

    monkeypatch.setattr(_library, "cpu_info", missing)
    assert fails(capsys, "info") == "pact-ext: error: pact_ext: libpact_cpu.so is missing. Build it.\n"


def test_error_in_a_process_of_its_own():
    process = command("show", "no-such-photo.jpg")
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr == "pact-ext: error: there is no file no-such-photo.jpg\n"


def test_file_name_that_the_terminal_cannot_show(tmp_path):
    image, output = tmp_path / "é.png", tmp_path / "ü.png"
    Image.new("RGB", (60, 60)).save(image)
    process = command("show", image, "--output", output, PYTHONIOENCODING="ascii")
    assert process.returncode == 0, process.stderr
    assert "xe9.png" in process.stdout
    assert output.exists()
