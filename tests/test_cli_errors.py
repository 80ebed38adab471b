"""Help, and how command lines fail: one line each."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import zlib
from unittest.mock import Mock

import pytest
import torch

from pact_ext import PRESETS, __version__, _library, cli

np = pytest.importorskip("numpy", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("matplotlib", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("PIL", reason="the show command needs the extra: pip install 'pact-ext[show]'")

from command_line import HOPPER, fails, save  # noqa: E402
from PIL import Image  # noqa: E402

COMMANDS = ("demo", "show", "layers", "bench-model", "info")
LONG = "x" * 300


@pytest.mark.parametrize("arguments", [["--help"], *([name, "--help"] for name in COMMANDS)])
def test_help(capsys, arguments):
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert f"example:\n  pact-ext {arguments[0] if len(arguments) > 1 else 'show'} " in out


def test_help_of_show_tells_every_default(capsys):
    assert cli.main(["show", "--help"]) == 0
    out = re.sub(r"\s+", " ", capsys.readouterr().out)
    for flag, default in (
        *[("--output", "pact-show.png"), ("--prune-ratio", "0.45"), ("--dc", "0.06"), ("--dn", "2.0")],
        *[("--alpha", "1.5"), ("--gaussian", "--gaussian"), ("--patch", "14"), ("--max-side", "672")],
    ):
        assert re.search(rf"{flag}\b[^()]*(\([^d][^()]*\)[^()]*)*.{{0,120}}\(default: {default}\b", out), flag
    for preset in PRESETS:
        assert preset in out.replace("- ", "-")  # broken at its hyphen
    assert "Hand-made descriptors" in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr() == (f"pact-ext {__version__}\n", "")


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
        (["show", HOPPER, "--patch", "4"], "would be 19200 patches, more than 16384: raise --patch"),
        (["show", HOPPER, "--model", "m", "--patch", "14"], "--patch must be left out with --model"),
        (["show", HOPPER, "--model", "m", "--max-side", "99"], "--max-side must be left out with --model"),
        (["show", HOPPER, "--prompt", "Why?"], "--prompt must be left out without --model"),
        (["show", HOPPER, "--output", "picture.jpg"], "--output must end in .png, got picture.jpg"),
        (["show", HOPPER, "--output", "no/such/folder.png"], "the folder of --output does not exist: no/such"),
        (["show", HOPPER, "--output", LONG + ".png"], "File name too long"),
        (["show", LONG], "cannot be read: File name too long"),
        (["layers", HOPPER, "--model", "m", "--output", LONG + ".png"], "File name too long"),
        (["bench-model", "--random", "tiny", "--json", LONG], "File name too long"),
        (["bench-model", "--random", "tiny", "--visual-tokens", "9" * 30], "--visual-tokens must be in 1 to 1000000"),
        (["show", ""], "argument IMAGE: must be a name, got an empty one"),
        (["show", HOPPER, "--output", ""], "argument --output: must be a name, got an empty one"),
        (["show", HOPPER, "--model", ""], "argument --model: must be a name"),
        (["show", HOPPER, "--config", ""], "argument --config: must be a name"),
        (["layers", "", "--model", "m"], "argument IMAGE: must be a name"),
        (["layers", HOPPER, "--model", "m", "--output", ""], "argument --output: must be a name"),
        (["bench-model", "", "--model", "m"], "argument IMAGE: must be a name"),
        (["bench-model", "--random", ""], "argument --random: must be a name"),
        (["demo", "--scene", "99"], "--scene must be in 0 to 5, got 99"),
        (["demo", "--keep", "1.5"], "keep must be a share of the tokens in (0, 1], or a whole number of them, got 1.5"),
        (["demo", "--method", "vtw", "--keep", "0.5"], "--keep must be left out with vtw, which has no single budget"),
        (["demo", "--method", "prune"], "no preset named 'prune'"),
        (["demo", "--output", "picture.jpg"], "--output must end in .png, got picture.jpg"),
        (["bench-model", "--random", "tiny", "--json", ""], "argument --json: must be a name"),
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


def test_too_many_patches_are_refused_before_a_pixel_is_read(capsys, tmp_path):
    pixels = io.BytesIO()
    Image.new("L", (1, 1)).save(pixels, "png")
    header = struct.pack(">4sIIBBBBB", b"IHDR", 13000, 12000, 8, 0, 0, 0, 0)
    huge = pixels.getvalue()[:12] + header + struct.pack(">I", zlib.crc32(header)) + pixels.getvalue()[33:]
    (tmp_path / "huge.png").write_bytes(huge)  # the pixels that its header tells of are not in it
    line = ["show", tmp_path / "huge.png", "--patch", "4", "--output", tmp_path / "out.png", "--max-side"]
    assert "huge.png would be 9750000 patches, more than 16384" in fails(capsys, *line, "9" * 400)
    assert "huge.png cannot be read" in fails(capsys, *line, "300")


def test_huge_photograph_is_refused_by_pillow(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert "decompression bomb" in fails(capsys, "show", HOPPER, "--output", tmp_path / "out.png")


def test_output_that_cannot_be_written(capsys, tmp_path):
    folder = tmp_path / "folder.png"
    folder.mkdir()
    assert "folder.png cannot be written: it is a folder" in fails(capsys, "show", HOPPER, "--output", folder)
    image = save(tmp_path, Image.new("RGB", (60, 60)))
    before = image.read_bytes()
    for line in (
        ["show", image, "--output", image],
        ["layers", image, "--model", "m", "--output", image],
        ["bench-model", image, "--model", "m", "--json", image],
    ):
        assert "would overwrite the photograph" in fails(capsys, *line)
    assert image.read_bytes() == before


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="the superuser may write anywhere")
def test_folder_without_permission(capsys, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    assert "cannot be written: Permission denied" in fails(capsys, "show", HOPPER, "--output", locked / "out.png")


BARE = """
import runpy, sys, torch

sys.modules.update(dict.fromkeys(["PIL", "matplotlib", "numpy", "transformers", "tqdm"]))
import pact_ext
from pact_ext.cli import main

keys = torch.ones(4, 1, 2)
reduction = pact_ext.reduce(torch.ones(4, 2), keys, keys)
try:
    pact_ext.plot_tokens("photo.jpg", reduction, (2, 2))
except ImportError as error:
    assert (error.name, str(error)) == ("PIL", "pact_ext.plot_tokens needs Pillow: pip install 'pact-ext[models]'")
else:
    raise AssertionError

lines = ["info"], ["--help"], ["show", "--help"], ["layers", "--help"], ["bench-model", "--help"]
assert [main(line) for line in lines] == [0] * 5
for name in [name for name, module in sys.modules.items() if module is None]:
    del sys.modules[name]
photo = sys.argv[1]
for missing, lines in {
    "PIL": (["show", photo], ["layers", photo, "--model", "m"]),
    "matplotlib": (["show", photo], ["layers", photo, "--model", "m", "--output", "a.png"]),
    "transformers": (["layers", photo, "--model", "m"], ["bench-model", "--random", "tiny"]),
}.items():
    sys.modules[missing] = None
    assert [main(line) for line in lines] == [2, 2]
    if missing == "matplotlib":
        import pact_ext.cli.show_model  # which draws without it
    del sys.modules[missing]
sys.argv = ["pact-ext", "show"]
runpy.run_module("pact_ext.cli", run_name="__main__")
"""


def test_what_needs_no_extra_and_what_is_said_of_a_missing_one(tmp_path):
    unset = os.environ | {"PACT_CPU_ISA": ""}
    line = [sys.executable, "-c", BARE, HOPPER]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, env=unset, cwd=tmp_path)
    assert done.returncode == 2, done.stderr  # of the module, run as the command
    told = [text for text in done.stderr.splitlines() if text.startswith("pact-ext: error: ")]  # torch misses numpy
    assert [text.removeprefix("pact-ext: error: ") for text in told] == [
        "show needs Pillow and matplotlib, and PIL is not installed: pip install 'pact-ext[show]'",
        "layers needs Pillow and transformers, and PIL is not installed: pip install 'pact-ext[models]'",
        "show needs Pillow and matplotlib, and matplotlib is not installed: pip install 'pact-ext[show]'",
        "layers --output needs matplotlib, which is not installed: pip install 'pact-ext[show]'",
        *["models of Hugging Face need transformers 4.57 or newer: pip install 'pact-ext[models]'"] * 2,
        "the following arguments are required: IMAGE (see pact-ext show --help)",
    ]


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("std::bad_alloc"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB.\nSee the manual."), "CUDA out of memory"),
        (
            RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4294967296 bytes."
            ),
            "out of memory: 4.0 GiB were asked for",
        ),
    ],
)
def test_out_of_memory_is_one_line(capsys, monkeypatch, error, wanted):
    monkeypatch.setattr(_library, "cpu_info", Mock(side_effect=error))
    assert fails(capsys, "info") == f"pact-ext: error: {wanted}\n"


def test_other_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr(_library, "cpu_info", Mock(side_effect=RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["info"])


def test_interrupted(capsys, monkeypatch):
    monkeypatch.setattr(_library, "cpu_info", Mock(side_effect=KeyboardInterrupt))
    assert cli.main(["info"]) == 130
    assert capsys.readouterr() == ("", "")
