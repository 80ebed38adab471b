"""A record as a table, aligned for a terminal or in Markdown, and the goals of the project held against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Entry = dict[str, Any]
NOTHING = "-"

GOALS = (
    # op, n, dk, what is divided by what (or the memory of one), the bound; "of <op>", that operator's at the same size
    ("dbdpc", 4506, 512, ("ours float32", "mm float32"), 0.75),
    ("dbdpc", 4506, 512, ("ours float32", "eager float32"), 0.35),
    ("dbdpc", 4506, 512, ("ours bfloat16", "ours float32"), 1.0),
    ("reduce", 8192, 512, ("ours float32",), 64.0),
    ("reduce_to", 8192, 512, ("ours float32", "ours float32 of reduce"), 1.15),
    ("received_attention", 2880, 512, ("ours float32", "eager float32"), 0.35),
    ("received_attention:row", 2880, 512, ("ours float32", "mm float32"), 1.5),
    ("nearest_denser", 2880, 512, ("ours float32", "ours float32 of density"), 1.3),
    ("farthest_points", 2880, 512, ("ours float32", "eager float32"), 0.25),
    ("dpp_select", 2880, 512, ("ours float32", "eager float32"), 0.25),
)


def median(entry: Entry, name: str) -> float | None:
    """Milliseconds; None when that implementation was not measured."""
    timing = entry["timings"].get(name)
    return None if timing is None else timing["median_ms"]


def quotient(numerator: float | None, denominator: float | None) -> float | None:
    """None when either was not measured."""
    return None if numerator is None or denominator is None else numerator / denominator


def ratio(entry: Entry, above: str, below: str) -> float | None:
    """Quotient of two medians of one case."""
    return quotient(median(entry, above), median(entry, below))


def number(value: float | None) -> str:
    """Three significant digits, never an exponent."""
    if value is None:
        return NOTHING
    for bound, digits in ((1, 3), (10, 2), (100, 1)):
        if abs(value) < bound:
            return f"{value:.{digits}f}"
    return f"{value:.0f}"


def _rounds(entry: Entry) -> str:
    counts = (entry["timings"].get(f"{name} float32", {}).get("rounds") for name in ("ours", "mm", "eager", "compiled"))
    return "/".join(NOTHING if count is None else str(count) for count in counts)


def _memory(name: str) -> Callable[[Entry], str]:
    def cell(entry: Entry) -> str:
        value = entry["memory_mib"].get(name)
        return NOTHING if value is None else f"{value:.1f}"

    return cell


def _ratio(above: str, below: str) -> Callable[[Entry], str]:
    return lambda entry: number(ratio(entry, above, below))


COLUMNS: dict[str, Callable[[Entry], str]] = {
    "operator": lambda entry: entry["op"],
    "n": lambda entry: str(entry["n"]),
    "dk": lambda entry: str(entry["dk"]),
    "centers": lambda entry: NOTHING if entry["centers"] is None else str(entry["centers"]),
    "f32 ms": lambda entry: number(median(entry, "ours float32")),
    "bf16 ms": lambda entry: number(median(entry, "ours bfloat16")),
    "bf16/f32": _ratio("ours bfloat16", "ours float32"),
    "f32/mm": _ratio("ours float32", "mm float32"),
    "bf16/mm": _ratio("ours bfloat16", "mm bfloat16"),
    "f32/eager": _ratio("ours float32", "eager float32"),
    "f32/compiled": _ratio("ours float32", "compiled float32"),
    "rounds": _rounds,
    "MiB": _memory("ours float32"),
    "MiB eager": _memory("eager float32"),
}

NOTES = (
    "f32 ms, bf16 ms: medians of this library. Ratios are quotients of medians, below 1 is faster.",
    "mm: torch.mm of the n x n x dk product alone, in the same dtype (received_attention:row, attention of the last",
    "query: torch.sum of the keys, which reads them once). eager: the plain PyTorch reference, float32;",
    "compiled: the same under torch.compile, warm. rounds: ours/mm/eager/compiled, pooled over interleaved turns.",
    "MiB: peak memory of one float32 call beyond inputs and outputs; eager: only up to n * n * dk = 4e10.",
)


def rows(record: dict) -> list[dict[str, str]]:
    """The cells of each case, by column."""
    return [{title: cell(entry) for title, cell in COLUMNS.items()} for entry in record["cases"]]


def facts_line(record: dict) -> str:
    facts = record["facts"]
    commit = NOTHING if facts["commit"] is None else facts["commit"][:12] + " (changed)" * facts["changed_since_commit"]
    return (
        f"{facts['cpu']}, {facts['threads']} threads of {facts['cores']} cores, {facts['isa']}, "
        f"torch {facts['torch']}, pact_ext {facts['pact_ext']}, commit {commit}, "
        f"load {facts['load']} at the start, {facts['time']}"
    )


def reach(record: dict) -> list[str]:
    """One line for each goal: the measured number, and whether it is met."""
    entries = {(entry["op"], entry["n"], entry["dk"]): entry for entry in record["cases"]}
    lines = []
    for op, n, dk, names, bound in GOALS:
        entry = entries.get((op, n, dk))
        if len(names) == 2:
            what = f"{op} n={n} dk={dk}: {names[0]} / {names[1]}"
            below, _, other = names[1].partition(" of ")
            beside = entries.get((other or op, n, dk))
            value = (
                None if entry is None or beside is None else quotient(median(entry, names[0]), median(beside, below))
            )
        else:
            what = f"{op} n={n} dk={dk}: MiB beyond inputs and outputs, {names[0]}"
            value = None if entry is None else entry["memory_mib"].get(names[0])
        verdict = (
            "not measured in this run" if value is None else f"{value:.3f}, {'met' if value <= bound else 'missed'}"
        )
        lines.append(f"{what} (goal: at most {bound:g}): {verdict}")
    return lines


def plain(record: dict) -> str:
    """For a terminal: columns aligned, the operator to the left, numbers to the right."""
    lines = [list(COLUMNS), *([*row.values()] for row in rows(record))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([facts_line(record), "", *aligned, "", *NOTES, "", *reach(record)])


def markdown(record: dict) -> str:
    """For a README."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    body = ["| " + " | ".join(row.values()) + " |" for row in rows(record)]
    goals = [f"- {line}" for line in reach(record)]
    return "\n".join([facts_line(record), "", *head, *body, "", *NOTES, "", *goals, ""])
