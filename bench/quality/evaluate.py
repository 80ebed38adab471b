"""How many questions the small model answers right, by kind and of all.

Asks every question of the scenes that were never trained on, of one model or several; writes JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from .batches import HEAD, embedded, pack, told
from .model import logits, seen
from .options import FOLDER, load
from .scenes import HELD_OUT, Scene, scene
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
        found, targets = found.cpu(), batch.targets.cpu()
        for row, questions in enumerate(batch.kinds):
            for kind, where in questions:
                right[kind] += bool((found[row, where] == targets[row, where]).all())
                asked[kind] += 1
    result = {kind: right[kind] / asked[kind] for kind in sorted(asked)}
    return {**result, "all": sum(right.values()) / sum(asked.values())}


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.quality.evaluate", description=first, epilog=rest)
    parser.add_argument("models", type=Path, nargs="+", help="folders of trained models")
    parser.add_argument("--scenes", type=int, default=2000, help="how many that were never trained on")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=FOLDER / "accuracy.json")
    given = parser.parse_args(argv)
    scenes = [scene(HELD_OUT + number) for number in range(given.scenes)]
    found = {str(folder): accuracy(load(folder, given.device), scenes) for folder in given.models}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"scenes": given.scenes, "first_seed": HELD_OUT, "models": found}
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    for folder, kinds in found.items():
        print(folder, *(f"{kind} {share:.3f}" for kind, share in kinds.items()), sep="  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
