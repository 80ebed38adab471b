"""A record of `bench.model` as a table, aligned for a terminal or in Markdown."""

from __future__ import annotations

from collections.abc import Callable
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
    "visual": lambda e, s, shape: str(e["visual_after"]),
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

NOTES = (
    "Medians of interleaved turns. visual: tokens in the last layer; mean: of all layers. prefill: from the language",
    "model's input to the last token's logits, reducing included, the vision tower not. ideal: operations that are",
    "left (products, causal attention) over the stock model's, reducing for free. reduce: the part of prefill spent",
    "on choosing and merging, with the attention that is made anew for it. cache: keys and values of all layers after",
    "prefill. token: one decoding step. The weights are random: how much a dc reduces, and what the model would",
    "answer, says nothing about a trained one.",
)


def rows(record: dict) -> list[list[str]]:
    shape = Shape(**record["facts"]["shape"])
    stock = next(entry for entry in record["cases"] if entry["method"] is None)
    return [[cell(entry, stock, shape) for cell in COLUMNS.values()] for entry in record["cases"]]


def _head(record: dict) -> list[str]:
    facts = record["facts"]
    return [f"{facts_line(record)}, transformers {facts['transformers']}", describe(Shape(**facts["shape"]))]


def plain(record: dict) -> str:
    """For a terminal: columns aligned, what is measured to the left, numbers to the right."""
    lines = [list(COLUMNS), *rows(record)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        "  ".join([*map(str.ljust, line[:2], widths[:2]), *map(str.rjust, line[2:], widths[2:])]) for line in lines
    ]
    return "\n".join([*_head(record), "", *aligned, "", *NOTES])


def markdown(record: dict) -> str:
    """For a README."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|---|---" + "|---:" * (len(COLUMNS) - 2) + "|"]
    body = ["| " + " | ".join(row) + " |" for row in rows(record)]
    return "\n".join([*_head(record), "", *head, *body, "", *NOTES, ""])
