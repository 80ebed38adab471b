"""The descriptors of patches, and the colours of clusters."""

from __future__ import annotations

import pytest
import torch

np = pytest.importorskip("numpy", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("matplotlib", reason="the show command needs the extra: pip install 'pact-ext[show]'")
pytest.importorskip("PIL", reason="the show command needs the extra: pip install 'pact-ext[show]'")

from command_line import HOPPER, PATCH, N  # noqa: E402

from pact_ext.cli import descriptors, photo  # noqa: E402
from pact_ext.drawing.palette import oklab, palette  # noqa: E402


def test_keys_are_centered_and_queries_are_not():
    patches = photo.read(HOPPER, PATCH, 672).patches()
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
    colors = palette(sizes)
    levels = (colors * 255).round()
    assert len(levels.unique(dim=0)) == len(sizes)
    assert (colors.amax(dim=1) - colors.amin(dim=1)).min() > 0.02  # no grey, which is for the discarded
    largest = sizes.topk(min(12, len(sizes))).indices[sizes.topk(min(12, len(sizes))).values > 1]
    if len(largest) > 1:
        assert torch.pdist(oklab(colors[largest])).min() > 0.08  # the largest clusters are easy to tell apart
