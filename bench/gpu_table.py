"""A GPU record as a table and as a plot, and the goals of the project held against it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .gpu_model import PREFILL_MODELS

Entry = dict[str, Any]
NOTHING = "-"
BOUND_BY_BYTES = ("euti_scores", "segment_mean")

GOALS = (
    # op, n, dtype, what, the bound (dk 512)
    ("reduce", 8192, "bfloat16", "times the floor", 5.0),
    ("dbdpc", 4506, "float32", "of the eager reference", 0.05),
    ("dbdpc", 4506, "bfloat16", "of the published algorithm", 0.05),
    ("dbdpc", 4506, "float32", "of the bare product", 1.0),
    ("reduce", 16384, "float32", "MiB beyond inputs and outputs", 80.0),
    ("reduce", 16384, "bfloat16", "MiB beyond inputs and outputs", 80.0),
)


def median(entry: Entry, name: str = "ours") -> float | None:
    """Microseconds; None when that implementation was not measured."""
    timing = entry["timings"].get(name)
    return None if timing is None else timing["median_us"]


def quotient(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else above / below


def _number(value: float | None, digits: int = 3) -> str:
    """Significant digits, never an exponent."""
    if value is None:
        return NOTHING
    decimals = max(0, digits - len(f"{abs(value):.0f}")) if abs(value) >= 1 else digits
    return f"{value:.{decimals}f}"


def rate(entry: Entry) -> str:
    """What was achieved, counted in the least work: TB/s where bytes bind, TFLOP/s where operations do."""
    microseconds = median(entry)
    if microseconds is None:
        return NOTHING
    if entry["op"] in BOUND_BY_BYTES:
        return f"{entry['bytes'] / microseconds / 1e6:.2f} TB/s"
    return f"{entry['operations'] / microseconds / 1e6:.1f} TFLOP/s"


def _spread(entry: Entry) -> str:
    timing = entry["timings"].get("ours")
    return NOTHING if timing is None else f"{_number(timing['p10_us'])} to {_number(timing['p90_us'])}"


def _prefill(entry: Entry) -> str:
    share = quotient(median(entry), entry["prefill_us"])
    return f"{100 * share:.2f} %" if share is not None and entry["op"] == "reduce" else NOTHING


def _against(name: str) -> Callable[[Entry], str]:
    return lambda entry: _number(quotient(median(entry), median(entry, name)))


COLUMNS: dict[str, Callable[[Entry], str]] = {
    "operator": lambda entry: entry["op"],
    "n": lambda entry: str(entry["n"]),
    "dk": lambda entry: str(entry["dk"]),
    "dtype": lambda entry: entry["dtype"],
    "centers": lambda entry: NOTHING if entry["centers"] is None else str(entry["centers"]),
    "us": lambda entry: _number(median(entry)),
    "10 to 90 %": _spread,
    "/published": _against("published"),
    "/eager": _against("eager"),
    "/compiled": _against("compiled"),
    "/mm": _against("mm"),
    "achieved": rate,
    "/floor": lambda entry: _number(quotient(median(entry), entry["floor_us"])),
    "MiB": lambda entry: _number(entry["memory_mib"].get("ours")),
    "MiB eager": lambda entry: _number(entry["memory_mib"].get("eager")),
    "of prefill": _prefill,
}

NOTES = (
    "us: median by device events, L2 cache cold. /published: that over PACT as its authors' public code computes it",
    "(bench/published.py); /eager, /compiled: over the plain PyTorch reference, and the same under torch.compile;",
    "/mm: over torch.mm of the n x n x dk product in the same dtype (float32 without TF32); below 1 is faster.",
    "achieved: the least work over the time. /floor: the time over the least work at this card's measured rates. MiB:",
    "peak memory of a call beyond inputs and outputs. of prefill: the time over an estimate, not a measurement, of the",
    "prefill of n tokens: operations of the decoder layers of "
    + " (dk 512) or ".join(model[0] for model in PREFILL_MODELS.values())
    + " (dk 4096) over the measured bfloat16",
    "rate. An empty field was not measured, for want of time or of memory.",
)


def value_of(entry: Entry, what: str) -> float | None:
    """The number that a goal is about."""
    return {
        "times the floor": quotient(median(entry), entry["floor_us"]),
        "of the eager reference": quotient(median(entry), median(entry, "eager")),
        "of the published algorithm": quotient(median(entry), median(entry, "published")),
        "of the bare product": quotient(median(entry), median(entry, "mm")),
        "MiB beyond inputs and outputs": entry["memory_mib"].get("ours"),
    }[what]


def reach(record: dict) -> list[str]:
    """One line for each goal: the measured number, and whether it is met."""
    entries = {(e["op"], e["n"], e["dtype"]): e for e in record["cases"] if e["dk"] == 512}
    lines = []
    for op, n, dtype, what, bound in GOALS:
        entry = entries.get((op, n, dtype))
        value = None if entry is None else value_of(entry, what)
        verdict = "not measured" if value is None else f"{value:.3g}, {'met' if value <= bound else 'missed'}"
        lines.append(f"{op} n={n} dk=512 {dtype}: {what} (goal: at most {bound:g}): {verdict}")
    return lines


def _facts(record: dict) -> str:
    f = record["facts"]
    commit = NOTHING if f["commit"] is None else f["commit"][:12] + " (changed)" * bool(f["changed_since_commit"])
    before, after = f["clocks_before"], f["clocks_after"]
    rates = f["rates"]
    flops = ", ".join(f"{rate / 1e12:.0f} TFLOP/s {dtype}" for dtype, rate in rates["flops_per_second"].items())
    return (
        f"{f['gpu']} (sm_{f['capability'].replace('.', '')}), driver {before.get('driver', NOTHING)}, "
        f"torch {f['torch']}, pact_ext {f['pact_ext']}, commit {commit}, {f['time']}. "
        f"Clocks as read: {before.get('clocks.sm', NOTHING)} before, {after.get('clocks.sm', NOTHING)} after, "
        f"of {before.get('clocks.max.sm', NOTHING)}. "
        f"Measured: {rates['bytes_per_second'] / 1e12:.2f} TB/s copied, {flops}."
    )


def rows(record: dict) -> list[list[str]]:
    return [[cell(entry) for cell in COLUMNS.values()] for entry in record["cases"]]


def plain(record: dict) -> str:
    """For a terminal."""
    lines = [list(COLUMNS), *rows(record)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = ["  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines]
    return "\n".join([_facts(record), "", *aligned, "", *NOTES, "", *reach(record)])


def markdown(record: dict) -> str:
    """For the repository."""
    head = ["| " + " | ".join(COLUMNS) + " |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    body = ["| " + " | ".join(row) + " |" for row in rows(record)]
    return "\n".join([_facts(record), "", *head, *body, "", *NOTES, "", *(f"- {line}" for line in reach(record)), ""])


def plot(record: dict, target: Path) -> Path:
    """Microseconds over n of `dbdpc` and `reduce`, dk 512, beside what they are compared with."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained", sharey=True)
    labels = {
        "ours": "pact_ext",
        "mm": "torch.mm, n x n x dk",
        "published": "the authors' algorithm",
        "eager": "reference",
        "compiled": "reference, compiled",
    }
    for axis, op in zip(axes, ("dbdpc", "reduce"), strict=True):
        for dtype, line in (("bfloat16", "-"), ("float32", "--")):
            cases = [e for e in record["cases"] if (e["op"], e["dk"], e["dtype"]) == (op, 512, dtype)]
            for number, (name, label) in enumerate(labels.items()):
                points = [(e["n"], median(e, name)) for e in cases if median(e, name) is not None]
                if points:
                    axis.loglog(
                        *zip(*points, strict=True), line, marker="o", color=f"C{number}", label=f"{label}, {dtype}"
                    )
            if cases:
                axis.loglog(
                    [e["n"] for e in cases], [e["floor_us"] for e in cases], line, color="0.6", label=f"floor, {dtype}"
                )
        axis.set(title=f"{op}, dk 512", xlabel="tokens")
        axis.grid(True, which="both", alpha=0.2)
    axes[0].set_ylabel("microseconds")
    axes[1].legend(fontsize=7)
    figure.suptitle(record["facts"]["gpu"])
    figure.savefig(target, dpi=150)
    return target
