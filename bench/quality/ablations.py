"""What each part of PACT is worth on the small model, and how far apart its keys are in each layer.

Parts are compared at equal budgets, parameters of the published method by the tokens they leave. Writes the record
(JSON) and a table (Markdown); like the curves, it may stop at any moment and go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from tqdm import tqdm

from pact_ext import PactConfig
from pact_ext.methods import Method, Pact, Selection, View
from pact_ext.models.layers import default_threshold, layer_distances, median, recommend

from . import options
from .asking import inputs
from .curves import LAYER, STOCK, Point, Sitting, exam
from .curves import measure as point
from .jobs import Jobs
from .part import Part
from .seating import facts, seated

KEEPS = (0.5, 0.25, 0.1, 0.05)
BASE = PactConfig(layer=LAYER)
LOOKED_AT = 100  # scenes, for the keys' distances


class Case(NamedTuple):
    """What is changed, and the method that it makes; `renumber`: positions count what is left, not what there was."""

    name: str
    method: Method
    renumber: bool = False


class Unweighed(Method):
    """A method whose merged tokens count as one in attention, however many they stand for."""

    def __init__(self, method: Method) -> None:
        self.method, self.needs = method, method.needs
        self.name = method.name

    def sites(self, layers: int) -> tuple[int, ...]:
        return self.method.sites(layers)

    def select(self, view: View) -> Selection:
        found = self.method.select(view)
        return dataclasses.replace(found, sizes=torch.ones_like(found.kept))


def parts(keep: float) -> list[Case]:
    """At a budget: all of PACT, and less of it."""

    def pact(**changes) -> Pact:
        return Pact(dataclasses.replace(BASE, **changes), keep=keep)

    return [
        Case("pact", pact()),
        Case("importance alone (EUTI)", pact(cluster=False)),
        Case("clustering alone (DBDPC)", pact(prune=False)),
        Case("no recovery", pact(recover=False)),
        Case("no merging", pact(merge=False)),
        Case("no proportional attention", Unweighed(pact())),
        Case("renumbered positions", pact(), renumber=True),
        *(Case(f"layer {layer}", pact(layer=layer)) for layer in (0, 1, 3, 4)),
        *(Case(f"prune_ratio {ratio}", pact(prune_ratio=ratio)) for ratio in (0.2, 0.7)),
    ]


def parameters() -> list[Case]:
    """Of the method as published, whose budget is for the data to say."""
    changes = [
        {"prune_ratio": 0.45},
        *({"dc": dc} for dc in (0.05, 0.1, 0.3, 0.45)),
        {"gaussian": False},
        *({"alpha": alpha} for alpha in (0.0, 1.0, 2.5)),
        *({"prune_ratio": ratio} for ratio in (0.2, 0.7)),
    ]
    return [
        Case("published, " + ", ".join(f"{k} {v}" for k, v in one.items()), Pact(dataclasses.replace(BASE, **one)))
        for one in changes
    ]


@contextlib.contextmanager
def renumbered(model, layer: int) -> Iterator[None]:
    """From a layer on, positions are numbers of columns: what a reduction has left moves together."""
    decoder = model.get_decoder()

    def renumber(number: int):
        def hook(module, args, kwargs):
            past = kwargs["past_key_values"].get_seq_length(number)
            hidden = args[0] if args else kwargs["hidden_states"]
            ids = torch.arange(past, past + hidden.shape[1], device=hidden.device)[None]
            return args, {**kwargs, "position_embeddings": decoder.rotary_emb(hidden, ids)}

        return hook

    hooks = [
        decoder.layers[number].self_attn.register_forward_pre_hook(renumber(number), with_kwargs=True)
        for number in range(layer, len(decoder.layers))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def distances(model, scenes: int = LOOKED_AT) -> dict:
    """Of the keys of visual tokens, the largest in each layer, the median over held-out scenes; the layer that
    `pact-ext layers` would choose."""
    found, asked = exam(scenes, each=1)
    each = torch.stack([layer_distances(model, inputs(found, [one], model.device)) for one in asked])
    threshold = default_threshold(BASE)
    return {"median": median(each).tolist(), "threshold": threshold, "recommended": recommend(each, threshold)}


def measure(sitting: Sitting, task: tuple[float | None, Case] | Point) -> dict:
    """The entry of a case at a budget, or of a curve's point."""
    if isinstance(task, Point):
        return point(sitting, task)
    keep, case = task
    site = case.method.sites(sitting.model.config.text_config.num_hidden_layers)[0]
    around = partial(renumbered, sitting.model, site) if case.renumber else contextlib.nullcontext
    return sitting.point(case.name, keep, case.name, case.method, around)


def run(jobs: Jobs, keeps: Sequence[float], part: Part) -> list[dict]:
    """Entries as of the curves; keep is None where the data decides."""
    cases = [(keep, case) for keep in keeps for case in parts(keep)] + [(None, case) for case in parameters()]
    wanted = {STOCK[:2]: STOCK} | {(case.name, keep): (keep, case) for keep, case in cases}
    done = {(one["name"], one["keep"]): one for one in part.entries}
    missing = [task for key, task in wanted.items() if key not in done]
    for _, entry in tqdm(jobs.run(measure, missing), total=len(missing), disable=None):
        done[entry["name"], entry["keep"]] = entry
        part.add(entry)
    return [done[key] for key in wanted]


def markdown(entries: list[dict], keeps, keys: dict) -> str:
    by = {(one["name"], one["keep"]): one for one in entries}
    lines = [f"| | {' | '.join(f'{keep:.0%}' for keep in keeps)} |", "|---|" + "---:|" * len(keeps)]
    for case in parts(0.5):
        lines.append(
            f"| {case.name} | " + " | ".join(f"{by[case.name, keep]['accuracy']:.3f}" for keep in keeps) + " |"
        )
    lines += ["", "| | tokens left | accuracy |", "|---|---:|---:|"]
    for case in parameters():
        one = by[case.name, None]
        lines.append(f"| {case.name} | {one['visual']:.1f} | {one['accuracy']:.3f} |")
    lines += ["", "| layer | largest distance of two keys |", "|---:|---:|"]
    lines += [f"| {layer} | {distance:.3f} |" for layer, distance in enumerate(keys["median"])]
    lines += ["", f"Recommended at {keys['threshold']:.3f}: layer {keys['recommended']}."]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = options.parser("python -m bench.quality.ablations", __doc__)
    options.curves(parser, KEEPS)
    given = parser.parse_args(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    with seated(given) as (jobs, asked, part):
        entries = run(jobs, given.keep, part("ablations.part.jsonl"))
    keys = distances(options.load(given.model, given.device), min(LOOKED_AT, given.scenes))
    record = {"facts": facts(given), "questions": len(asked), "ablations": entries, "keys": keys}
    (given.out / "ablations.json").write_text(json.dumps(record) + "\n")
    table = markdown(entries, given.keep, keys)
    (given.out / "ablations.md").write_text(table)
    print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
