"""Accuracy against the tokens that are kept: every method at every budget, on scenes that were never trained on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from ..method_cases import methods_at
from .asking import Answers, Asked, answers
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


def entry(
    name: str, keep: float, method: str, found: Answers, stock: Answers, beside: Answers, asked: Sequence[Asked]
) -> dict[str, Any]:
    """A point of a curve; `beside` answered the first questions unreduced just before."""
    right, owners = found.right(asked), np.array([one.scene for one in asked])
    kinds = np.array([one.question.kind for one in asked])
    divergence = (stock.first.exp() * (stock.first - found.first)).sum(dim=-1)
    return {
        "name": name,
        "keep": keep,
        "method": method,
        "visual": found.visual[-1],
        "visual_mean": float(np.mean(found.visual)),
        "accuracy": float(right.mean()),
        "interval": interval(right, owners),
        "by_kind": {kind: float(right[kinds == kind].mean()) for kind in np.unique(kinds).tolist()},
        "agreement": float(np.mean([a == b for a, b in zip(found.texts, stock.texts, strict=True)])),
        "divergence": float(divergence.mean()),
        "prefill": found.share_of_time(beside),
        "right": right.astype(int).tolist(),
    }


def run(
    model,
    scenes: Sequence[Scene],
    asked: Sequence[Asked],
    keeps: Sequence[float] = KEEPS,
    only=None,
    tuned: Mapping[str, str] = MappingProxyType({}),
    known: Sequence[dict] = (),
    tell: Callable[[dict], None] = lambda entry: None,
) -> list[dict]:
    """The model as it is, then every method (or `only` those names) at every budget.

    Args:
        tuned: what is added to a method's arguments, by its name.
        known: entries of an earlier run that need not be measured again.
        tell: what is done with each entry as soon as it is there.

    Returns:
        Of each: accuracy of all and by kind, its interval, agreement and divergence KL(stock || reduced) of the first
        word with the model as it is, visual tokens in the last layer and on the mean of all, the time of a prefill as a
        share of the unreduced one's a moment before, and which questions were answered right.
    """
    stock = answers(model, scenes, asked)
    found = [entry("stock", 1.0, "", stock, stock, stock, asked)]
    done = {(one["name"], one["keep"]): one for one in known}
    names = list(only or methods_at(0.5))
    for name, keep in tqdm([(name, keep) for name in names for keep in keeps], disable=None):
        method = methods_at(keep, LAYER, LATER)[name] + tuned.get(name, "")
        if (name, keep) not in done or done[name, keep]["method"] != method:
            beside = answers(model, scenes, asked[:TIMED])
            answered = answers(model, scenes, asked, method)
            done[name, keep] = entry(name, keep, method, answered, stock, beside, asked)
            tell(done[name, keep])
        found.append(done[name, keep])
    return found


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
