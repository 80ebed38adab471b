"""Whether methods rank alike on models of several training seeds: what `bench.quality` found on each, side by side.

Kendall's tau-b between the rankings of two seeds is 1 where all pairs of methods come in the same order, 0 where as
many do as do not. An order that all seeds agree on is listed where each of them shows it by more than `--margin`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path


def accuracies(record: dict, keep: float) -> dict[str, float]:
    """By method, at a budget."""
    return {one["name"]: one["accuracy"] for one in record["curves"][1:] if one["keep"] == keep}


def tau(a: Sequence[float], b: Sequence[float]) -> float:
    """Kendall's tau-b of two scores of the same things; NaN where one of them ties all."""
    pairs = [(x - y, u - v) for (x, u), (y, v) in itertools.combinations(zip(a, b, strict=True), 2)]
    alike = sum((p > 0) == (q > 0) and p * q != 0 for p, q in pairs)
    unlike = sum(p * q < 0 for p, q in pairs)
    untied = math.sqrt(sum(p != 0 for p, _ in pairs) * sum(q != 0 for _, q in pairs))
    return (alike - unlike) / untied if untied else math.nan


def compared(records: Sequence[dict], keep: float, margin: float) -> dict:
    """Of the methods that every record has at that budget."""
    found = [accuracies(record, keep) for record in records]
    names = [name for name in found[0] if all(name in one for one in found)]
    scores = {name: [one[name] for one in found] for name in names}
    names.sort(key=lambda name: -sum(scores[name]))
    pairs = list(itertools.combinations(names, 2))
    return {
        "keep": keep,
        "accuracy": {name: scores[name] for name in names},
        "tau": [
            [i, j, tau([scores[name][i] for name in names], [scores[name][j] for name in names])]
            for i, j in itertools.combinations(range(len(records)), 2)
        ],
        "pairs": len(pairs),
        "sure": [
            [a, b]
            for a, b in pairs
            if all(x > y + margin for x, y in zip(scores[a], scores[b], strict=True))
            or all(y > x + margin for x, y in zip(scores[a], scores[b], strict=True))
        ],
    }


def markdown(given: Sequence[str], unreduced: Sequence[float], budgets: Sequence[dict], margin: float) -> str:
    lines = []
    for one in budgets:
        ranked = [sorted(one["accuracy"], key=lambda name, i=i: -one["accuracy"][name][i]) for i in range(len(given))]
        lines += [f"At {one['keep']:.0%} of the tokens; in brackets its rank.", ""]
        lines += ["| method | " + " | ".join(given) + " |", "|---|" + "---:|" * len(given)]
        lines += ["| unreduced | " + " | ".join(f"{100 * share:.1f}" for share in unreduced) + " |"]
        for name, shares in one["accuracy"].items():
            cells = (f"{100 * share:.1f} ({ranked[i].index(name) + 1})" for i, share in enumerate(shares))
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        taus = ", ".join(f"{value:.2f} ({given[i]}, {given[j]})" for i, j, value in one["tau"])
        said = f"Kendall's tau-b: {taus}. All order {len(one['sure'])} of {one['pairs']} pairs alike"
        lines += ["", f"{said}, each by more than {100 * margin:g} points.", ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.quality.rankings", description=first, epilog=rest)
    parser.add_argument("records", type=Path, nargs="+", metavar="JSON", help="curves.json of each seed")
    parser.add_argument("--keep", type=float, nargs="+", default=(0.25, 0.1), metavar="SHARE", help="budgets")
    parser.add_argument("--margin", type=float, default=0.01, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder: rankings.json and rankings.md")
    given = parser.parse_args(argv)
    records = [json.loads(path.read_text()) for path in given.records]
    exams = {(one["questions"], one["facts"]["first_seed"], one["facts"]["scenes"]) for one in records}
    if len(exams) > 1:
        parser.error("the records are of different questions")
    names = [path.parent.name for path in given.records]
    unreduced = [record["curves"][0]["accuracy"] for record in records]
    budgets = [compared(records, keep, given.margin) for keep in given.keep]
    given.out.mkdir(parents=True, exist_ok=True)
    facts = {"models": names, "unreduced": unreduced, "margin": given.margin, "budgets": budgets}
    (given.out / "rankings.json").write_text(json.dumps({"facts": records[0]["facts"], **facts}, indent=1) + "\n")
    table = markdown(names, unreduced, budgets, given.margin)
    (given.out / "rankings.md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
