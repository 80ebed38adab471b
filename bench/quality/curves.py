"""Accuracy against the tokens that are kept: every method at every budget, on scenes that were never trained on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from ..method_cases import methods_at
from .asking import Answers, Asked, answers
from .jobs import Jobs
from .options import load
from .part import Part
from .scenes import HELD_OUT, Scene, scene

KEEPS = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.02)
LAYER, LATER = 2, (1, 2, 4)  # of six layers
DRAWS = 1000  # of the bootstrap
TIMED = 128  # questions, four batches: asked unreduced before each method, for its time to be compared with


def exam(scenes: int, first: int = HELD_OUT, each: int | None = None) -> tuple[list[Scene], list[Asked]]:
    """Scenes from a seed on, with one question of each kind that a scene has, or of `each` kinds in turn."""
    found, asked = [scene(first + number) for number in range(scenes)], []
    for number, one in enumerate(found):
        kinds = {question.kind: question for question in reversed(one.questions)}
        names = sorted(kinds)
        count = len(names) if each is None else min(each, len(names))
        asked += [Asked(number, kinds[names[(number + i) % len(names)]]) for i in range(count)]
    return found, asked


def interval(right: np.ndarray, owners: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The middle 95 % of the accuracies of scenes drawn anew."""
    scenes = np.unique(owners, return_inverse=True)[1]
    sums, counts = np.bincount(scenes, right), np.bincount(scenes)
    drawn = np.random.default_rng(seed).integers(0, len(counts), (DRAWS, len(counts)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), (0.025, 0.975))
    return float(low), float(high)


class Sitting:
    """A model at an exam: what it answers as it is, and reduced.

    Args:
        batch: questions at once.
        timed: also how long a prefill takes, beside the unreduced model asked a moment before; of no meaning where
            others use the device too.
    """

    def __init__(self, model, scenes: Sequence[Scene], asked: Sequence[Asked], batch: int = 32, timed: bool = True):
        self.model, self.scenes, self.asked, self.batch, self.timed = model, scenes, asked, batch, timed

    @classmethod
    def of(cls, folder: Path, device: str, exam_of: tuple, batch: int, timed: bool) -> Sitting:
        """Of a model's folder; `exam_of` are the arguments of `exam`."""
        return cls(load(folder, device), *exam(*exam_of), batch, timed)

    @functools.cached_property
    def stock(self) -> Answers:
        return self.ask()

    def ask(self, method=None, first: int | None = None) -> Answers:
        """All questions, or only the first."""
        return answers(self.model, self.scenes, self.asked[:first], method, self.batch)

    def point(self, name: str, keep: float | None, said: str, method=None, around=contextlib.nullcontext) -> dict:
        """Accuracy of all and by kind, its interval, agreement and divergence KL(stock || reduced) of the first word
        with the model as it is, visual tokens in the last layer and on the mean of all, the time of a prefill as a
        share of the unreduced one's a moment before (None where it is not timed), and which questions were answered
        right.

        Args:
            method: that acts, None for the model as it is.
            said: what the record calls it.
            around: makes a context for the model to be asked in.
        """
        stock = self.stock
        if method is None:
            found, share = stock, 1.0 if self.timed else None
        else:
            beside = self.ask(first=TIMED) if self.timed else None
            with around():
                found = self.ask(method)
            share = None if beside is None else found.share_of_time(beside)
        right, owners = found.right(self.asked), np.array([one.scene for one in self.asked])
        kinds = np.array([one.question.kind for one in self.asked])
        divergence = (stock.first.exp() * (stock.first - found.first)).sum(dim=-1)
        return {
            "name": name,
            "keep": keep,
            "method": said,
            "visual": found.visual[-1],
            "visual_mean": float(np.mean(found.visual)),
            "accuracy": float(right.mean()),
            "interval": interval(right, owners),
            "by_kind": {kind: float(right[kinds == kind].mean()) for kind in np.unique(kinds).tolist()},
            "agreement": float(np.mean([a == b for a, b in zip(found.texts, stock.texts, strict=True)])),
            "divergence": float(divergence.mean()),
            "prefill": share,
            "right": right.astype(int).tolist(),
        }


class Point(NamedTuple):
    """Of a curve: the method by its name, a budget, and what `pact_ext.apply` is given ("": the model as it is)."""

    name: str
    keep: float
    method: str


STOCK = Point("stock", 1.0, "")


def measure(sitting: Sitting, point: Point) -> dict[str, Any]:
    return sitting.point(*point, point.method or None)


def points(
    keeps: Sequence[float], names: Sequence[str], tuned: Mapping[str, str] = MappingProxyType({})
) -> list[Point]:
    """The model as it is, then methods by their names, each at every budget.

    Args:
        tuned: what is added to a method's arguments, by its name.
    """
    return [STOCK] + [
        Point(name, keep, methods_at(keep, LAYER, LATER)[name] + tuned.get(name, ""))
        for name in names
        for keep in keeps
    ]


def run(jobs: Jobs, wanted: Sequence[Point], part: Part) -> list[dict]:
    """Entries of the points, as `Sitting.point` describes them. What is in the part is not measured again, and a method
    that is the same at several budgets is measured once.

    Where it stops early, budgets are whole: the points of one are measured before those of the next.
    """
    done = {one["method"]: one for one in part.entries}
    keeps = list(dict.fromkeys(one.keep for one in wanted))
    missing: dict[str, Point] = {}
    for one in sorted(wanted, key=lambda one: keeps.index(one.keep)):
        if one.method not in done:
            missing.setdefault(one.method, one)
    for point, entry in tqdm(jobs.run(measure, missing.values()), total=len(missing), disable=None):
        done[point.method] = entry
        part.add(entry)
    return [{**done[one.method], "name": one.name, "keep": one.keep} for one in wanted]


def where_downsampling_fails(entries: Sequence[dict], asked: Sequence[Asked]) -> list[dict]:
    """The same curves, each point over only the scenes of which downsampling to as many tokens gets a question wrong
    that the model as it is gets right."""
    stock = np.array(entries[0]["right"], bool)
    lost = {
        one["keep"]: {asked[i].scene for i in np.flatnonzero(stock & ~np.array(one["right"], bool))}
        for one in entries
        if one["name"] == "downsample"
    }
    found = []
    for one in entries[1:]:
        scenes = lost.get(one["keep"], set())
        among = np.array([question.scene in scenes for question in asked])
        if among.any():
            right = np.array(one["right"], bool)[among]
            owners = np.array([question.scene for question in asked])[among]
            found.append(
                {**one, "accuracy": float(right.mean()), "interval": interval(right, owners), "scenes": len(scenes)}
            )
    return found
