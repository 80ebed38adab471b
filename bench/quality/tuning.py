"""The same small tuning for every method: at most six settings each, on scenes that nothing else is measured on.

The layer at which a method acts is not among them: it sets what is saved, and stays as in the curves. Writes JSON,
which `python -m bench.quality --tuned` takes.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from itertools import product
from pathlib import Path

from tqdm import tqdm

from ..method_cases import methods_at
from . import options
from .curves import LATER, LAYER, Sitting
from .jobs import Jobs

FIRST = 850_000_000
"""Seeds from here on are for tuning: neither trained on, nor looked at while training, nor held out."""
KEEP = 0.25
PACT = {"prune_ratio": (0.2, 0.45, 0.7), "dc": (0.1, 0.21)}
SETTINGS: dict[str, dict[str, tuple]] = {
    "pact": PACT,
    "pact, last row's scores": PACT,
    "tome": {"heads": ("mean", "joined")},
    "prumerge": {"neighbors": (8, 16, 32), "tower_layer": (-2, -1)},
    "prumerge+": {"neighbors": (8, 16, 32), "tower_layer": (-2, -1)},
    "hired": {"alpha": (0.0, 0.25, 0.5, 0.75, 1.0)},
    "trim": {"negate": (False, True)},
    "dpc": {"dn": (0.5, 1.0, 2.0), "gaussian": (True, False)},
    "agglomerative": {"linkage": ("single", "average", "complete")},
    "divprune": {"start": ("farthest", "isolated")},
    "cdpruner": {"negate": (False, True), "theta": (None, 0.5, 0.9)},
    "dart": {"pivots": (2, 4, 8), "text_pivots": (2, 4)},
}
"""Of the names in `methods_at`, what is tried. The others have nothing to tune but their layer and their budget (or,
where the data decides, what moves it)."""


def suffixes(name: str) -> list[str]:
    """What is added to a method's arguments, for each of its settings; later arguments replace earlier ones."""
    values = SETTINGS.get(name, {})
    return ["".join(f";{k}={v}" for k, v in zip(values, some, strict=True)) for some in product(*values.values())]


def measure(sitting: Sitting, task: tuple[str, str]) -> float:
    """The accuracy of a method, by its name, with what is added to its arguments."""
    name, added = task
    return float(sitting.ask(methods_at(KEEP, LAYER, LATER)[name] + added).right(sitting.asked).mean())


def tune(jobs: Jobs, names: list[str]) -> dict[str, dict]:
    """Of each method the best setting (the first of equals) and the accuracy of all, at a quarter of the tokens."""
    tasks = [(name, one) for name in names for one in suffixes(name)]
    scores = dict(tqdm(jobs.run(measure, tasks), total=len(tasks), disable=None))
    tuned = {}
    for name in names:
        tried = {one: scores[name, one] for one in suffixes(name)}
        tuned[name] = {"best": max(tried, key=tried.get), "tried": tried}
    return tuned


def main(argv: list[str] | None = None) -> int:
    parser = options.parser("python -m bench.quality.tuning", __doc__)
    options.jobs(parser)
    parser.add_argument("--scenes", type=int, default=150)
    parser.add_argument("--each", type=int, metavar="N", default=2, help="questions of a scene (default: 2)")
    options.methods(parser, list(SETTINGS))
    parser.add_argument("--out", type=Path, default=options.FOLDER / "tuned.json", help="other methods in it stay")
    given = parser.parse_args(argv)
    exam_of = (given.scenes, FIRST, given.each)
    with Jobs(given.jobs, partial(Sitting.of, given.model, given.device, exam_of, given.batch, False)) as jobs:
        tuned = tune(jobs, options.chosen(given))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"first_seed": FIRST, "scenes": given.scenes, "each": given.each, "keep": KEEP}
    earlier = json.loads(given.out.read_text()) if given.out.exists() else {}
    others = earlier.get("methods", {}) if record.items() <= earlier.items() else {}
    given.out.write_text(json.dumps({**record, "methods": others | tuned}, indent=1) + "\n")
    for name, one in tuned.items():
        print(f"{name:<26}{one['best'] or '-':<40}{max(one['tried'].values()):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
