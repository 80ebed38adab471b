"""Draws the four panels as one PNG, every patch a whole number of pixels wide."""

from __future__ import annotations

import io
from dataclasses import dataclass

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from PIL import Image
from torch import Tensor

from ..config import PactConfig
from ..drawing.palette import BORDER, DISCARDED, HATCH
from .panels import Panels

DPI = 100
MARGIN, GAP, TITLE, KEY, FOOT = 20, 28, 48, 60, 30  # pixels
COLUMN, TALLEST = 424, 600  # a column's width; the height that a panel is fitted to
INK, SUBTLE = "#1a1a1a", "#555555"


@dataclass(frozen=True)
class Layout:
    """Where things are, in pixels from the top left.

    Attributes:
        cell: side of a patch in the picture.
        size: width and height of the picture.
        boxes: left, top, width and height of each panel: photo, heat, clusters, rebuilt.
    """

    cell: int
    size: tuple[int, int]
    boxes: dict[str, tuple[int, int, int, int]]


def layout(rows: int, columns: int) -> Layout:
    cell = max(1, min(COLUMN // columns, TALLEST // rows))
    width, height = columns * cell, rows * cell
    column = max(COLUMN, width)
    lefts = MARGIN, MARGIN + column + GAP
    tops = 8 + TITLE, 8 + TITLE + height + KEY + TITLE
    names = ("photo", "heat"), ("clusters", "rebuilt")
    boxes = {name: (lefts[x], tops[y], width, height) for y, row in enumerate(names) for x, name in enumerate(row)}
    return Layout(cell, (lefts[1] + column + MARGIN, tops[1] + height + KEY + FOOT), boxes)


def render(panels: Panels, patch: int, kept: int, config: PactConfig) -> bytes:
    """The PNG's bytes. The same panels give the same bytes."""
    place = layout(*panels.heat.shape)
    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(place.size[0] / DPI, place.size[1] / DPI), dpi=DPI, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        _draw(figure, place, panels, patch, kept, config)
        canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return file.getvalue()


def _draw(figure: Figure, place: Layout, panels: Panels, patch: int, kept: int, config: PactConfig) -> None:
    rows, columns = panels.heat.shape
    labels = panels.labels.numpy()
    sizes = np.bincount(labels[labels >= 0])
    several, single, discarded = (sizes > 1).sum(), (sizes == 1).sum(), (labels < 0).sum()
    grey = Patch(facecolor=str(DISCARDED), edgecolor=str(HATCH), hatch="//////", label=f"{discarded} discarded")

    grid = f"{columns} x {rows} patches of {patch} px"
    axes = _panel(figure, place, "photo", "Photograph", f"{grid}: {labels.size} tokens")
    axes.imshow(_resized(panels.photo, place))

    axes = _panel(figure, place, "heat", "Importance", f"EUTI score of each patch; the {kept} above the mark are kept")
    _heat(figure, axes, place, panels.heat.numpy(), kept)

    axes = _panel(figure, place, "clusters", "Clusters", f"{labels.size} tokens become {len(sizes)}, a colour for each")
    colors = _enlarged(np.uint8(np.round(panels.clusters.numpy() * 255)), place)
    axes.imshow(_bordered(_hatched(colors, labels, place), labels, place))
    dot = {"marker": "o", "markerfacecolor": "white", "markeredgecolor": "black", "linestyle": "none"}
    point = place.cell * 72 / DPI
    y, x = (panels.centers.numpy().T + 0.5) * place.cell - 0.5
    axes.plot(x, y, markersize=min(0.42 * point, 8), markeredgewidth=min(0.07 * point, 1.2), **dot)
    vivid = Patch(facecolor="#d6006c", label=f"vivid: {several} of two patches or more")
    pale = Patch(facecolor="#f7d3e4", label=f"pale: {single} of a single patch")
    center = Line2D([], [], markersize=6, label="centre of a vivid one", **dot)
    _key(axes, [vivid, pale, center, grey])

    axes = _panel(figure, place, "rebuilt", "Rebuilt", "each patch replaced by its merged token")
    axes.imshow(_hatched(_resized(panels.rebuilt, place), labels, place))
    _key(axes, [grey])

    density = f"exp(-(d/{config.dn:g})²)" if config.gaussian else f"exp(-d/{config.dn:g})"
    parameters = f"prune_ratio {config.prune_ratio:g}, dc {config.dc:g}, density {density}, alpha {config.alpha:g}"
    foot = f"{parameters}. Hand-made descriptors of the patches stand in for a model's keys."
    _text(figure, place, MARGIN, place.size[1] - FOOT / 2, foot, 11.5, SUBTLE)


def _panel(figure: Figure, place: Layout, name: str, title: str, subtitle: str) -> Axes:
    left, top, width, height = place.boxes[name]
    _text(figure, place, left, top - 33, title, 15, INK, weight="bold")
    _text(figure, place, left, top - 13, subtitle, 12, SUBTLE)
    return _bare_axes(figure, place, left, top, width, height)


def _bare_axes(figure: Figure, place: Layout, left: int, top: int, width: int, height: int) -> Axes:
    w, h = place.size
    axes = figure.add_axes((left / w, 1 - (top + height) / h, width / w, height / h))
    axes.set_axis_off()
    return axes


def _text(figure: Figure, place: Layout, x: float, y: float, text: str, pixels: float, color: str, **style) -> None:
    w, h = place.size
    figure.text(x / w, 1 - y / h, text, fontsize=pixels * 72 / DPI, color=color, va="center", **style)


def _key(axes: Axes, handles: list) -> None:
    axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        ncols=2,
        frameon=False,
        fontsize=12 * 72 / DPI,
        labelcolor=INK,
        borderaxespad=0.6,
        borderpad=0,
        handlelength=1.4,
        handleheight=1,
        columnspacing=2,
    )


def _heat(figure: Figure, axes: Axes, place: Layout, scores: np.ndarray, kept: int) -> None:
    high = scores.max() or 1.0  # a flat image scores 0 everywhere
    shades = axes.imshow(scores, cmap="inferno", vmin=0, vmax=high, interpolation="nearest")
    left, top, width, height = place.boxes["heat"]
    bar_axes = _bare_axes(figure, place, left, top + height + 12, max(width, 200), 12)
    bar_axes.set_axis_on()
    bar = figure.colorbar(shades, cax=bar_axes, orientation="horizontal")
    bar.outline.set_visible(False)
    threshold = np.sort(scores, axis=None)[-kept]
    bar.ax.axvline(threshold, color="white", linewidth=2)
    bar.set_ticks([0, threshold, high], labels=["0", "", f"{high:.2g}"])
    bar.ax.tick_params(labelsize=11 * 72 / DPI, length=3, colors=SUBTLE)


def _enlarged(grid: np.ndarray, place: Layout) -> np.ndarray:
    return grid.repeat(place.cell, axis=0).repeat(place.cell, axis=1)


def _resized(pixels: Tensor, place: Layout) -> np.ndarray:
    image = Image.fromarray(np.uint8(np.round(pixels.numpy() * 255)))
    # The lowest bit of a photograph is noise, and an eighth of the file.
    return np.array(image.resize(place.boxes["photo"][2:], Image.Resampling.LANCZOS)) & 0xFE


def _hatched(image: np.ndarray, labels: np.ndarray, place: Layout) -> np.ndarray:
    """Discarded patches in grey under diagonal lines, which a grey of the photograph cannot be taken for."""
    y, x = np.indices(image.shape[:2])
    grey = np.where((x + y) % 6 < 1, HATCH, DISCARDED)
    discarded = _enlarged(labels < 0, place)
    image[discarded] = np.uint8(np.round(grey[discarded] * 255))[:, None]
    return image


def _bordered(image: np.ndarray, labels: np.ndarray, place: Layout) -> np.ndarray:
    """A line one pixel wide between patches of different clusters, where there is room for it."""
    if place.cell >= 5:
        wide = _enlarged(labels, place)
        image[:, 1:][wide[:, 1:] != wide[:, :-1]] = np.uint8(BORDER * 255)
        image[1:][wide[1:] != wide[:-1]] = np.uint8(BORDER * 255)
    return image
