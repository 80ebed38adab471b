"""Random calls, for as long as asked; every failure with the command that runs it again.

python tests/fuzz operators --minutes 10     # or models; without a kind, both in turn
python tests/fuzz operators --seed 1234      # this one call
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:1] = [str(FOLDER.parent), str(FOLDER.parents[1])]

from fuzz import worker  # noqa: E402

KINDS = ("operators", "models")


def fuzz(kind: str, seeds, seconds: float = float("inf"), most_failures: int = 10, say=print) -> int:
    """The number of failures."""
    process, end, failures = worker.Worker(kind), time.monotonic() + seconds, 0
    outcomes = collections.Counter()
    for seed in seeds:
        if time.monotonic() > end or failures == most_failures:
            break
        case, outcome, error = process.ask(seed)
        outcomes[outcome or "failed"] += 1
        if error:
            failures += 1
            say(f"FAILED  {Path(sys.executable)} tests/fuzz {kind} --seed {seed}")
            say(f"  {len(process.seeds) - 1} calls before it in its process\n  {case}\n  {error}")
    process.stop()
    say(f"{kind}: " + ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--seed", type=int, help="the first seed; alone, the only one")
    parser.add_argument("--count", type=int, help="how many calls")
    parser.add_argument("--minutes", type=float, help="of each kind, 1 unless --seed or --count is given")
    parser.add_argument("--worker", metavar="KIND", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        worker.serve(given.worker)
        return 0
    first = int(time.time()) * 1000 if given.seed is None else given.seed
    count, minutes = given.count, given.minutes
    if count is None and minutes is None:
        count, minutes = (1, None) if given.seed is not None else (None, 1)
    seeds = range(first, first + (count or 10**12))
    seconds = float("inf") if minutes is None else 60 * minutes
    return sum(fuzz(kind, seeds, seconds) for kind in ([given.kind] if given.kind else KINDS)) > 0


if __name__ == "__main__":
    sys.exit(main())
