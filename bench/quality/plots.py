"""Curves of accuracy, in two panels: methods that act before the decoder, and those that act inside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

BASELINES = {"random": "0.55", "downsample": "0.25"}  # grey, thick, in both panels
OURS = {"pact": "C3"}
OTHERS = ("C0", "C1", "C2", "C4", "C5", "C6", "C8", "C9")
PANELS = ("before the decoder", "inside the decoder")


def panels(entries: Sequence[dict]) -> list[list[dict]]:
    """Of each panel its entries. Where all layers have the tokens of the last one, nothing happens inside."""
    found: list[list[dict]] = [[], []]
    for one in entries:
        inside = one["visual_mean"] > 1.001 * one["visual"]
        for number in (0, 1) if one["name"] in BASELINES else (int(inside),):
            found[number].append(one)
    return found


def curves(entries: Sequence[dict], path: Path, across: str, label: str) -> None:
    """Accuracy of every method against one of the numbers of its entries, with intervals; the first entry is the model
    as it is."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(13, 6), layout="constrained")
    for axes, title, own in zip(figure.subplots(1, 2), PANELS, panels(entries[1:]), strict=True):
        axes.axhline(entries[0]["accuracy"], color="0.6", linestyle=":", label="unreduced")
        names = sorted({one["name"] for one in own}, key=lambda name: (name not in BASELINES, name))
        for number, name in enumerate(names):
            points = sorted((one for one in own if one["name"] == name), key=lambda one: one[across])
            x, y = [one[across] for one in points], [one["accuracy"] for one in points]
            thick = BASELINES | OURS
            color = thick.get(name, OTHERS[number % len(OTHERS)])
            marker = "osv^DPX"[number % 7]
            axes.plot(x, y, label=name, marker=marker, markersize=5, color=color, linewidth=3 if name in thick else 1.2)
            low, high = ([one["interval"][side] for one in points] for side in range(2))
            axes.fill_between(x, low, high, alpha=0.08, color=color, linewidth=0)
        others = [one for one in own if one["name"] not in BASELINES]
        if others:  # the baselines may fall out of the picture: what is compared fills it
            axes.set_ylim(
                min(one["interval"][0] for one in others) - 0.02, max(one["interval"][1] for one in entries) + 0.01
            )
            least = min(one[across] for one in others)
            axes.set_xlim(0.95 * least, 1.05 * max(one[across] for one in own))
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel("accuracy")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", ncols=2, loc="lower right")
    figure.savefig(path, dpi=100)
