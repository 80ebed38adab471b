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

import torch
import transformers

from ..method_cases import methods_at
from ..record import machine_facts
from . import plots
from .curves import KEEPS, exam, run, where_downsampling_fails
from .part import Part
from .scenes import HELD_OUT


def parse(argv: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=first, epilog=rest)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("--scenes", type=int, default=2000, help="how many that were never trained on")
    parser.add_argument("--each", type=int, metavar="N", help="questions of a scene (default: one of each kind)")
    parser.add_argument("--keep", type=float, nargs="+", default=KEEPS, metavar="SHARE", help="budgets")
    parser.add_argument("--methods", nargs="+", choices=list(methods_at(0.5)), metavar="NAME", help="only those")
    parser.add_argument("--tuned", type=Path, metavar="JSON", help="what bench.quality.tuning has found")
    parser.add_argument("--out", type=Path, default=Path(".bench/quality"), help="folder (default: .bench/quality)")
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
    options = parse(argv)
    model = transformers.AutoModelForImageTextToText.from_pretrained(options.model, dtype=torch.float32).eval()
    scenes, asked = exam(options.scenes, each=options.each)
    options.out.mkdir(parents=True, exist_ok=True)
    found = {} if options.tuned is None else json.loads(options.tuned.read_text())["methods"]
    tuned = {name: one["best"] for name, one in found.items()}
    part = Part(options.out / "part.jsonl", model, asked)
    entries = run(model, scenes, asked, options.keep, options.methods, tuned, part.entries, part.add)
    facts = {**machine_facts(), "transformers": transformers.__version__, "scenes": len(scenes), "first_seed": HELD_OUT}
    record = {"facts": facts, "questions": len(asked), "curves": entries}
    (options.out / "curves.json").write_text(json.dumps(record) + "\n")
    table = markdown(entries, list(options.keep))
    (options.out / "curves.md").write_text(table)
    plots.curves(entries, options.out / "accuracy.png", "visual_mean", "visual tokens, mean of all layers")
    plots.curves(entries, options.out / "time.png", "prefill", "time of a prefill, as a share of the unreduced")
    hard = where_downsampling_fails(entries, asked)
    if hard:
        plots.curves([entries[0], *hard], options.out / "hard.png", "visual_mean", "visual tokens, mean of all layers")
    print(table)
    print(f"Written: {options.out}/curves.json, .md and plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
