"""What a step of the training is made of: drawn from its number alone, on the CPU, in processes beside if there are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .batches import pack, some_patches, told
from .scenes import scene

PATCHES = 40  # told in a step of `words`
AHEAD = 4  # steps that each process draws before they are asked for


@dataclass(frozen=True)
class Stage:
    """How a stage is trained.

    Attributes:
        first_seed: of its scenes; a step takes the next `batch` of them.
        few: steps over which the most things in a scene grow from 2 to 5.
        needles: share of scenes with a small thing. It is 0.35 where answers are counted.
    """

    steps: int
    batch: int
    rate: float
    first_seed: int
    few: int = 0
    warm: int = 200
    needles: float = 0.7

    def rate_at(self, step: int) -> float:
        """The learning rate: rises, then falls along a cosine."""
        if step < self.warm:
            return self.rate * (step + 1) / self.warm
        share = min(1.0, (step - self.warm) / max(1, self.steps - self.warm))
        return self.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


STAGES = {
    "words": Stage(steps=1000, batch=16, rate=1e-3, first_seed=0, few=600),
    "eyes": Stage(steps=6000, batch=16, rate=1e-3, first_seed=200_000_000),
    "both": Stage(steps=1000, batch=16, rate=4e-4, first_seed=400_000_000),
}


@dataclass(frozen=True)
class Steps(torch.utils.data.Dataset):
    """The steps of a stage, by number.

    Attributes:
        name: of the stage.
        first: seed of its first scene.
        width: of a token.
    """

    name: str
    stage: Stage
    first: int
    width: int

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        """``labels [B, V, 4]`` int16, word ids that hold of each patch, or -1.

        `eyes` and `both` have ``images [B, 128, 128, 3]`` uint8 and all patches, `words` has some, and
        ``noise [B, V, width]`` float32; `words` and `both` have questions, the ``ids, targets, blocks, places`` of a
        `Batch`.
        """
        stage, random = self.stage, np.random.default_rng((self.first, number))
        most = 5 if not stage.few else min(5, 2 + 3 * number // stage.few)
        begin = self.first + number * stage.batch
        scenes = [scene(begin + i, most, stage.needles) for i in range(stage.batch)]
        labels = np.stack([told(one) for one in scenes]).astype(np.int16)
        visual = np.arange(labels.shape[1])[None].repeat(len(scenes), 0)
        drawn = {}
        if self.name == "words":
            visual = np.stack([some_patches(one, random, PATCHES) for one in scenes])
            labels = np.take_along_axis(labels, visual[..., None], axis=1)
            spread = random.uniform(0, 0.3, (len(scenes), 1, 1)).astype(np.float32)
            drawn["noise"] = random.standard_normal((*visual.shape, self.width), dtype=np.float32) * spread
        else:
            drawn["images"] = np.stack([one.image for one in scenes])
        if self.name != "eyes":
            batch = pack([one.questions for one in scenes], visual)
            drawn |= {part: getattr(batch, part).numpy() for part in ("ids", "targets", "blocks", "places")}
        return {"labels": labels, **drawn}

    def after(self, done: int, workers: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """The steps from a number on, to the last, drawn ahead by so many processes."""
        numbers = range(done, self.stage.steps)
        if not workers:
            return map(self.__getitem__, numbers)
        # As arrays, through pipes: tensors would go through /dev/shm, which is small in containers.
        loader = torch.utils.data.DataLoader(
            self,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=AHEAD,
            collate_fn=_as_they_are,
            generator=torch.Generator(),
        )
        return iter(loader)


def _as_they_are(drawn: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return drawn
