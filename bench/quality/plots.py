"""Curves of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BASELINES = {"random": "0.45", "downsample": "0.2"}  # grey, thick


def curves(entries: Sequence[dict], path: Path, across: str, label: str) -> None:
    """Accuracy of every method against one of the numbers of its entries, with intervals; the first entry is the model
    as it is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(entries[0]["accuracy"], color="0.7", linestyle=":", label="unreduced")
    names = list(dict.fromkeys(one["name"] for one in entries[1:]))
    for number, name in enumerate(names):
        points = sorted((one for one in entries[1:] if one["name"] == name), key=lambda one: one[across])
        x, y = [one[across] for one in points], [one["accuracy"] for one in points]
        style = {"color": BASELINES.get(name, f"C{number % 10}"), "linewidth": 2.5 if name in BASELINES else 1.2}
        axes.plot(x, y, label=name, marker="osv^D"[number % 5], markersize=4, **style)
        low, high = ([one["interval"][side] for one in points] for side in range(2))
        axes.fill_between(x, low, high, alpha=0.08, color=style["color"], linewidth=0)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy")
    axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=120)
