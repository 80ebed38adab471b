"""Scenes as what the model is trained on: visual tokens, then every question of a scene beside the others.

Questions of a scene share its visual tokens and do not see each other: each stands where it would stand alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .questions import Question
from .scenes import GRID, Scene
from .words import CELLS, ID, MARKS, ORDINALS, ids_of

HEAD = ids_of("<bos> user :")
PLACES = GRID**2
NOT_ASKED = -100


def told(scene: Scene) -> np.ndarray:
    """``[256, 4]`` word ids that hold of each patch: what it is, its cell, and two more or -1."""
    found = np.full((PLACES, 4), -1)
    found[:, 0] = ID["nothing"]
    rows, columns = np.divmod(np.arange(PLACES), GRID)
    cells = np.array([ID[name] for name in CELLS])
    found[:, 1] = cells[(2 * rows + 1) * 3 // (2 * GRID) * 3 + (2 * columns + 1) * 3 // (2 * GRID)]
    for one in scene.things:
        places = list(one.patches)
        found[places, 0], found[places, 1], found[places, 2] = ID[one.glyph], cells[one.cell], ID[one.color]
        found[places, 3] = ID[MARKS[2]] if one.small else -1
    if scene.word:
        found[list(scene.label), 0] = ID["label"]
        for letter, ordinal, places in zip(scene.word, ORDINALS, scene.letters, strict=True):
            found[list(places), 0], found[list(places), 2] = ID[letter], ID[ordinal]
        found[list(scene.label), 1] = cells[scene.word_cell]
    return found


@dataclass(frozen=True)
class Batch:
    """Of B scenes, padded on the right.

    Attributes:
        ids: ``[B, T]`` of the questions and answers, one after the other.
        targets: ``[B, T]``, the next token where it belongs to an answer, else -100.
        blocks: ``[B, T]``, the number of the question that each token is of, or -1.
        places: ``[B, q]`` position ids, with the head and V visual tokens before.
        kinds: of each scene, of each of its questions, the kind, and where its answer's targets are.
    """

    ids: Tensor
    targets: Tensor
    blocks: Tensor
    places: Tensor
    kinds: list[list[tuple[str, slice]]]

    @property
    def mask(self) -> Tensor:
        """``[B, q, q]`` bool, which token sees which."""
        rows, longest = self.ids.shape
        total, device = self.places.shape[1], self.ids.device
        mask = torch.ones(total, total, dtype=torch.bool, device=device).tril().repeat(rows, 1, 1)
        same = self.blocks[:, :, None] == self.blocks[:, None, :]
        mask[:, total - longest :, total - longest :] &= same | torch.eye(longest, dtype=torch.bool, device=device)
        return mask

    def to(self, device: torch.device | str) -> Batch:
        parts = (self.ids, self.targets, self.blocks, self.places)
        return Batch(*(moved(each, device) for each in parts), self.kinds)


def moved(tensor: Tensor, device: torch.device | str) -> Tensor:
    """On a device, without waiting for it."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def pack(asked: Sequence[Sequence[Question]], visual: np.ndarray) -> Batch:
    """Questions of B scenes, behind visual tokens at the patches ``[B, V]``; on the CPU."""
    heads = len(HEAD)
    rows, kinds = [], []
    for questions in asked:
        ids, targets, blocks, places, found = [], [], [], [], []
        for number, question in enumerate(questions):
            own = ids_of(f"{question.text} assistant :")
            if question.before is not None:
                earlier = f"{question.before.text} assistant : {question.before.answer} <eos> user : "
                own = ids_of(earlier) + own
            answer = [*ids_of(question.answer), ID["<eos>"]]
            start = len(ids) + len(own) - 1
            found.append((question.kind, slice(start, start + len(answer))))
            targets += [NOT_ASKED] * (len(own) - 1) + answer + [NOT_ASKED]
            ids += own + answer
            blocks += [number] * (len(own) + len(answer))
            places += range(heads + PLACES, heads + PLACES + len(own) + len(answer))
        rows.append((ids, targets, blocks, places))
        kinds.append(found)
    longest = max(len(ids) for ids, *_ in rows)
    padded = [np.array([row[part] + [pad] * (longest - len(row[part])) for row in rows]) for part, pad in _PADDING]
    ids, targets, blocks, text_places = map(torch.from_numpy, padded)
    places = torch.cat(
        [torch.arange(heads).expand(len(rows), -1), heads + torch.from_numpy(visual), text_places], dim=1
    )
    return Batch(ids, targets, blocks, places, kinds)


_PADDING = ((0, ID["<pad>"]), (1, NOT_ASKED), (2, -1), (3, 0))


def some_patches(scene: Scene, random: np.random.Generator, count: int) -> np.ndarray:
    """Of a scene `count` patches, ascending: a few of each thing and letter, and others."""
    chosen: set[int] = set()
    for places, most in [*((one.patches, 5) for one in scene.things), *((places, 3) for places in scene.letters)]:
        chosen.update(int(i) for i in random.permutation(places)[: int(random.integers(1, most))])
    others = [i for i in random.permutation(PLACES) if i not in chosen]
    return np.sort([*chosen, *others[: count - len(chosen)]][:count])


def embedded(told: Tensor, words: Tensor) -> Tensor:
    """What patches are told to be, ``[..., 4]`` word ids or -1, as sums of embeddings."""
    return (words[told.clamp(min=0)] * (told >= 0)[..., None]).sum(dim=-2)
