"""Draws what `pact-ext demo` found as one PNG: picture, importance, clusters, answers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib.style
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..drawing.plot import plot_tokens

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .demo import Shown

WIDTH, HEIGHT, SIDE, MARGIN, GAP = 16.2, 4.25, 3.5, 0.2, 0.25  # inches
COLUMNS = 0.0, 0.56, 0.79  # of the answers' width
INK, SUBTLE, RIGHT, WRONG = "#1a1a1a", "#555555", "#1b7f3b", "#c0182b"


def render(result: Shown, layer: int, grid: tuple[int, int]) -> bytes:
    """The PNG's bytes. The scores are those of `layer`, the tokens lie on `grid` by rows and columns."""
    reduction = result.reduction
    panels = (
        ("Picture", f"{reduction.n_in} visual tokens", np.asarray(result.example.image)),
        ("Importance", f"EUTI by the model's own keys and queries, layer {layer}", None),
        (
            "Clusters" if (reduction.sizes > 1).any() else "Kept",
            f"{reduction.n_out} tokens are left, a colour for each",
            np.asarray(plot_tokens(result.example.image, reduction, grid)),
        ),
    )
    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(WIDTH, HEIGHT), dpi=100, facecolor="white")
        for number, (title, subtitle, image) in enumerate(panels):
            axes = _axes(figure, MARGIN + number * (SIDE + GAP), SIDE, title, subtitle)
            if image is None:
                axes.imshow(result.scores.reshape(grid).numpy(), cmap="inferno", interpolation="nearest")
            else:
                axes.imshow(image, interpolation="nearest")
        left = MARGIN + len(panels) * (SIDE + GAP)
        _answers(_axes(figure, left, WIDTH - left, "Answers", "green is right"), result)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _axes(figure: Figure, left: float, width: float, title: str, subtitle: str) -> Axes:
    axes = figure.add_axes((left / WIDTH, MARGIN / HEIGHT, width / WIDTH, SIDE / HEIGHT))
    axes.set_axis_off()
    axes.text(0, 1.085, title, transform=axes.transAxes, fontsize=12, weight="bold", color=INK, va="bottom")
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color=SUBTLE, va="bottom")
    return axes


def _answers(axes: Axes, result: Shown) -> None:
    def say(column: int, line: float, text: str, color: str) -> None:
        axes.text(COLUMNS[column], line, text, transform=axes.transAxes, fontsize=9, color=color, va="top")

    say(1, 0.97, "all tokens", SUBTLE)
    say(2, 0.97, f"{result.reduction.n_out} tokens", SUBTLE)
    questions = result.example.questions
    for number, question in enumerate(questions):
        line = 0.88 - number * 0.88 / max(9, len(questions))
        say(0, line, question.said, INK)
        for column, answered in ((1, result.stock), (2, result.reduced)):
            answer = answered.texts[number]
            say(column, line, answer, RIGHT if answer == question.answer else WRONG)
