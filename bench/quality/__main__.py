"""What reduction costs in answers: every method at every budget on the small model, beside random and downsampling.

Writes the record (JSON), a table (Markdown), and plots: accuracy against tokens kept, against time, and over only the
scenes that downsampling fails. It may stop at any moment: what is measured stays in the folder, and the same call goes
on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from ..method_cases import methods_at
from . import options, plots
from .curves import KEEPS, points, run, where_downsampling_fails
from .seating import facts, seated


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = options.parser("python -m bench.quality", __doc__)
    options.curves(parser, KEEPS)
    options.methods(parser, list(methods_at(0.5)))
    parser.add_argument("--tuned", type=Path, metavar="JSON", help="what bench.quality.tuning has found")
    return parser.parse_args(argv)


def markdown(entries: list[dict], keeps: list[float]) -> str:
    """Accuracy by method and budget, the best of each budget in bold."""
    stock, by = entries[0], {(one["name"], one["keep"]): one for one in entries[1:]}
    names = list(dict.fromkeys(one["name"] for one in entries[1:]))
    best = {keep: max(by[name, keep]["accuracy"] for name in names) for keep in keeps}
    lines = [
        f"Unreduced: {stock['accuracy']:.3f} ({stock['interval'][0]:.3f} to {stock['interval'][1]:.3f}).",
        "",
        "| method | " + " | ".join(f"{keep:.0%}" for keep in keeps) + " |",
        "|---|" + "---:|" * len(keeps),
    ]
    for name in names:
        cells = [f"{by[name, keep]['accuracy']:.3f}" for keep in keeps]
        marked = [
            f"**{cell}**" if by[name, keep]["accuracy"] == best[keep] else cell
            for cell, keep in zip(cells, keeps, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(marked) + " |")
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    given = parse(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    found = {} if given.tuned is None else json.loads(given.tuned.read_text())["methods"]
    wanted = points(given.keep, options.chosen(given), {name: one["best"] for name, one in found.items()})
    with seated(given) as (jobs, asked, part):
        entries = run(jobs, wanted, part("part.jsonl"))
    record = {"facts": facts(given), "questions": len(asked), "curves": entries}
    (given.out / "curves.json").write_text(json.dumps(record) + "\n")
    table = markdown(entries, sorted(given.keep, reverse=True))
    (given.out / "curves.md").write_text(table)
    plots.curves(entries, given.out / "accuracy.png", "visual_mean", "visual tokens, mean of all layers")
    if all(one["prefill"] is not None for one in entries):
        plots.curves(entries, given.out / "time.png", "prefill", "time of a prefill, as a share of the unreduced")
    hard = where_downsampling_fails(entries, asked)
    if hard:
        plots.curves([entries[0], *hard], given.out / "hard.png", "visual_mean", "visual tokens, mean of all layers")
    print(table)
    print(f"Written: {given.out}/curves.json, .md and plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
