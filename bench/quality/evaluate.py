"""How many questions the small model answers right."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from .batches import HEAD, embedded, pack, told
from .model import logits, seen
from .scenes import Scene
from .words import ID


@torch.no_grad()
def accuracy(model, scenes: list[Scene], stage: str = "both") -> dict[str, float]:
    """By kind, and of all. An answer is right when each of its words is the likeliest after those before it.

    Args:
        stage: "words": the scenes are told in words; "eyes": no questions, but the share of things' patches whose glyph
            is the nearest word.
    """
    words = model.get_input_embeddings().weight
    right, asked = Counter(), Counter()
    for first in range(0, len(scenes), 16):
        some = scenes[first : first + 16]
        labels = torch.from_numpy(np.stack([told(one) for one in some])).to(words.device)
        tokens = embedded(labels, words)
        if stage != "words":
            tokens = seen(model, torch.from_numpy(np.stack([one.image for one in some])))
        if stage == "eyes":
            for part, column in (("glyph", 0), ("color", 2)):
                there = (labels[..., 2] >= 0) & (labels[..., 0] != ID["label"])
                known = labels[..., column][there].unique()
                nearest = known[(tokens[there] @ words[known].T).argmax(dim=-1)]
                right[part] += int((nearest == labels[..., column][there]).sum())
                asked[part] += int(there.sum())
            continue
        visual = np.arange(labels.shape[1])[None].repeat(len(some), 0)
        batch = pack([one.questions for one in some], visual).to(words.device)
        head = model.get_input_embeddings()(batch.ids.new_tensor(HEAD)).expand(len(some), -1, -1)
        embeds = torch.cat([head, tokens, model.get_input_embeddings()(batch.ids)], dim=1)
        found = logits(model, embeds, batch.mask, batch.places)[:, -batch.ids.shape[1] :].argmax(dim=-1)
        for row, questions in enumerate(batch.kinds):
            for kind, where in questions:
                right[kind] += bool((found[row, where] == batch.targets[row, where]).all())
                asked[kind] += 1
    result = {kind: right[kind] / asked[kind] for kind in sorted(asked)}
    return {**result, "all": sum(right.values()) / sum(asked.values())}
