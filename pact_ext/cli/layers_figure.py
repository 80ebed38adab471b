"""Draws the distances of every layer as one PNG."""

from __future__ import annotations

import io

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, SUBTLE, BAR, CHOSEN = "#1a1a1a", "#555555", "#9db7d5", "#d6006c"


def render(known: dict) -> bytes:
    """The PNG's bytes, from the record that `pact-ext layers --json` prints."""
    with matplotlib.style.context("default"):  # whatever the user's matplotlibrc says
        figure = Figure(figsize=(8, 4), dpi=120, facecolor="white", layout="constrained")
        _draw(figure, known)
        file = io.BytesIO()
        FigureCanvasAgg(figure).print_png(file)
    return file.getvalue()


def _draw(figure: Figure, known: dict) -> None:
    axes = figure.add_subplot()
    layers = range(len(known["max"]))
    recommended, threshold = known["recommended"], known["threshold"]
    count = len(known["images"])
    median = "the only image" if count == 1 else f"median of {count} images"
    axes.bar(layers, known["median"], color=BAR, label=median)
    if recommended is not None:
        axes.bar(recommended, known["median"][recommended], color=CHOSEN, label="recommended")
    axes.plot(layers, known["max"], marker="_", markersize=9, linestyle="none", color=INK, label="maximum")
    axes.axhline(threshold, color=SUBTLE, linewidth=1, linestyle="--", label=f"threshold {threshold:.3g}")
    name = known["model"].rstrip("/").split("/")[-1]
    chosen = "no layer passes the threshold" if recommended is None else f"layer {recommended} is recommended"
    axes.set_title(f"{name}: {chosen}, the preset's is {known['preset']}", color=INK, fontsize=11)
    axes.set_xlabel("decoder layer", color=SUBTLE)
    axes.set_ylabel("largest cosine distance of visual keys", color=SUBTLE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
