"""A record of `bench.model` as a table, aligned for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from .model_case import Shape, describe
from .table import NOTHING, facts_line, median, number

Entry = dict[str, Any]

Column = Callable[[Entry, Entry, Shape], str]
"""The cell of a case, from it, the stock model's case and the shape."""


def quotient(entry: Entry, stock: Entry, name: str) -> float | None:
    """Of the medians of a case and of the stock model, in the same run."""
    above, below = median(entry, name), median(stock, name)
    return None if above is None or not below else above / below


def _reduction(entry: Entry, stock: Entry, shape: Shape) -> str:
    return f"{100 * (1 - entry['visual_after'] / shape.visual):.1f} %"


def _share(entry: Entry, stock: Entry, shape: Shape) -> str:
    reducing = median(entry, "reduce")
    return NOTHING if reducing is None else f"{100 * reducing / median(entry, 'prefill'):.1f} %"


COLUMNS: dict[str, Column] = {
    "configuration": lambda e, s, shape: e["name"],
    "attention": lambda e, s, shape: e["attention"] or NOTHING,
    "visual": lambda e, s, shape: f"{e['visual_after']:g}",
    "mean": lambda e, s, shape: f"{sum(e['visual_by_layer']) / shape.layers:.0f}",
    "reduction": _reduction,
    "prefill ms": lambda e, s, shape: number(median(e, "prefill")),
    "/stock": lambda e, s, shape: number(quotient(e, s, "prefill")),
    "ideal": lambda e, s, shape: number(e["ideal"]),
    "reduce ms": lambda e, s, shape: number(median(e, "reduce")),
    "of prefill": _share,
    "cache MiB": lambda e, s, shape: f"{e['cache_bytes'] / 2**20:.1f}",
    "cache/stock": lambda e, s, shape: number(e["cache_bytes"] / s["cache_bytes"]),
    "token ms": lambda e, s, shape: number(median(e, "token")),
    "token/stock": lambda e, s, shape: number(quotient(e, s, "token")),
}

CARD_COLUMNS: dict[str, Column] = {
    "peak MiB": lambda e, s, shape: f"{e['peak_bytes'] / 2**20:.0f}",
    "sdpa": lambda e, s, shape: ", ".join(f"{name} {count}" for name, count in sorted(e["backends"].items())),
}
"""Behind those, of a record that was measured on a card."""

NOTES = (
    "Medians of interleaved turns. visual: tokens in the last layer; mean: of all layers. prefill: from the language",
    "model's input to the last token's logits, reducing included, the vision tower not. ideal: operations that are",
    "left (products, causal attention) over the stock model's, reducing for free. reduce: the part of prefill spent",
    "on choosing and merging, with the attention that is made anew for it. cache: keys and values of all layers after",
    "prefill. token: one decoding step. The weights are random: how much a dc reduces, and what the model would",
    "answer, says nothing about a trained one.",
)


CARD_NOTES = (
    "Times by device events. peak: what prefill allocates at most beyond weights and prompt. sdpa: what attention ran",
    "on in prefill, and in how many layers.",
)


def columns(record: dict) -> dict[str, Column]:
    return COLUMNS | (CARD_COLUMNS if "gpu" in record["facts"] else {})


def sizes(record: dict) -> list[Shape]:
    """The shapes that were measured, which differ in their visual tokens."""
    shape = Shape(**record["facts"]["shape"])
    return [replace(shape, visual=visual) for visual in dict.fromkeys(entry["visual"] for entry in record["cases"])]


def rows(record: dict, shape: Shape | None = None) -> list[list[str]]:
    """Of the cases of one shape, by default the first."""
    shape = shape or Shape(**record["facts"]["shape"])
    entries = [entry for entry in record["cases"] if entry["visual"] == shape.visual]
    stock = next((entry for entry in entries if entry["method"] is None), None)
    if stock is None:
        return []
    return [[cell(entry, stock, shape) for cell in columns(record).values()] for entry in entries]


def _head(record: dict) -> str:
    facts = record["facts"]
    return f"{_card(facts)}{facts_line(record)}, transformers {facts['transformers']}"


def _card(facts: dict) -> str:
    if "gpu" not in facts:
        return ""
    before, after = facts["clocks_before"], facts["clocks_after"]
    return (
        f"{facts['gpu']}, driver {before.get('driver', NOTHING)}, clocks {before.get('clocks.sm', NOTHING)} before and "
        f"{after.get('clocks.sm', NOTHING)} after; "
    )


def _notes(record: dict) -> list[str]:
    if "gpu" not in record["facts"]:
        return [*NOTES]
    kernels = [f"{e['name']}, {e['visual']}: {', '.join(e['kernels'])}" for e in record["cases"] if e.get("kernels")]
    return [*NOTES, *CARD_NOTES, *(f"Kernels of attention, {line}." for line in kernels)]


def plain(record: dict) -> str:
    """For a terminal: columns aligned, what is measured to the left, numbers to the right."""
    text = [_head(record)]
    for shape in sizes(record):
        lines = [list(columns(record)), *rows(record, shape)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text += [describe(shape), ""]
        for line in lines:
            left, right = map(str.ljust, line[:2], widths[:2]), map(str.rjust, line[2:], widths[2:])
            text.append("  ".join([*left, *right]))
        text.append("")
    return "\n".join([*text, *_notes(record)])


def markdown(record: dict) -> str:
    """For a README."""
    names, text = columns(record), [_head(record)]
    for shape in sizes(record):
        text += [describe(shape), "", "| " + " | ".join(names) + " |", "|---|---" + "|---:" * (len(names) - 2) + "|"]
        text += ["| " + " | ".join(row) + " |" for row in rows(record, shape)]
        text.append("")
    return "\n".join([*text, *_notes(record), ""])
