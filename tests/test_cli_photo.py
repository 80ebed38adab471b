"""From an image file to patches: every mode, size and orientation, and files that are none."""

from __future__ import annotations

import pytest
import torch

np = pytest.importorskip("numpy", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("matplotlib", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("PIL", reason="the show command needs the extra: pip install 'pact-ext[show]'")

from command_line import HOPPER, PATCH, correlation, gradient, save  # noqa: E402
from PIL import Image  # noqa: E402

from pact_ext.cli import photo  # noqa: E402


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
