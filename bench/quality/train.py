"""Train the small model, from scratch, in three stages; goes on where it stopped.

    words  the decoder alone: scenes are told in words, a few patches each, so that steps are short
    eyes   tower and projector alone: each patch becomes the words that hold of it; may run beside `words`
    both   all of it, on whole pictures of 256 tokens

Each stage keeps its checkpoint and its log (JSON lines) in the folder.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from . import checkpoint
from .batches import HEAD, NOT_ASKED, embedded, pack, some_patches, told
from .evaluate import accuracy
from .model import build, logits, seen
from .scenes import HELD_OUT, Scene, scene
from .words import COLORS, GLYPHS, ID, LETTERS

TUNING = 800_000_000
"""Seeds from here to `HELD_OUT` are for looking at while training."""
WHAT = torch.tensor([ID[word] for word in ("nothing", "label", *GLYPHS, *LETTERS)])
TINT = torch.tensor([ID[word] for word in COLORS])


@dataclass(frozen=True)
class Stage:
    """How a stage is trained.

    Attributes:
        first_seed: of its scenes; a step takes the next `batch` of them.
        few: steps over which the most things in a scene grow from 2 to 5.
    """

    steps: int
    batch: int
    rate: float
    first_seed: int
    few: int = 0
    warm: int = 200


STAGES = {
    "words": Stage(steps=1000, batch=16, rate=1e-3, first_seed=0, few=600),
    "eyes": Stage(steps=6000, batch=16, rate=1e-3, first_seed=200_000_000),
    "both": Stage(steps=1000, batch=16, rate=4e-4, first_seed=400_000_000),
}
PATCHES = 40  # told in a step of `words`


def trained(model, stage: str) -> list[torch.nn.Parameter]:
    """What a stage changes. Word embeddings are what the eyes aim at, and stay as they are until `both`."""
    for parameter in model.parameters():
        parameter.requires_grad_(stage == "both")
    parts = {
        "words": (model.model.language_model.layers, model.model.language_model.norm, model.lm_head),
        "eyes": (model.model.vision_tower, model.model.multi_modal_projector),
        "both": (model,),
    }[stage]
    for part in parts:
        part.requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def aims(model, stage: str, scenes: list[Scene], random: np.random.Generator) -> Tensor:
    """The loss of a step."""
    words = model.get_input_embeddings().weight
    labels = torch.from_numpy(np.stack([told(one) for one in scenes]))
    if stage == "words":
        visual = np.stack([some_patches(one, random, PATCHES) for one in scenes])
        chosen = labels.gather(1, torch.from_numpy(visual)[..., None].expand(-1, -1, labels.shape[2]))
        tokens = embedded(chosen.to(words.device), words)
        spread = random.uniform(0, 0.3, (len(scenes), 1, 1)).astype(np.float32)
        noise = torch.from_numpy(random.standard_normal(tokens.shape, dtype=np.float32) * spread)
        return answers(model, tokens + noise.to(words.device), scenes, visual)
    labels = labels.to(words.device)
    tokens = seen(model, torch.from_numpy(np.stack([one.image for one in scenes])))
    if stage == "eyes":
        return likeness(tokens, labels, words)
    visual = np.arange(labels.shape[1])[None].repeat(len(scenes), 0)
    return answers(model, tokens, scenes, visual) + 0.1 * likeness(tokens, labels, words.detach())


def answers(model, tokens: Tensor, scenes: list[Scene], visual: np.ndarray) -> Tensor:
    """Cross-entropy of the answers' words."""
    words = model.get_input_embeddings()
    batch = pack([one.questions for one in scenes], visual, words.weight.device)
    head = words(batch.ids.new_tensor(HEAD)).expand(len(scenes), -1, -1)
    found = logits(model, torch.cat([head, tokens, words(batch.ids)], dim=1), batch.mask, batch.places)
    found = found[:, -batch.ids.shape[1] :]
    return F.cross_entropy(found.flatten(0, 1), batch.targets.flatten(), ignore_index=NOT_ASKED)


def likeness(tokens: Tensor, labels: Tensor, words: Tensor) -> Tensor:
    """How far visual tokens are from the words that hold of them, and from being told apart by them."""
    weight = torch.where(labels[..., 0] == ID["nothing"], 0.15, 1.0)
    square = (tokens - embedded(labels, words)).square().mean(dim=-1)
    what = F.cross_entropy((tokens @ words[WHAT].T / 8).flatten(0, 1), _place(labels[..., 0], WHAT), reduction="none")
    tint = F.cross_entropy(
        (tokens @ words[TINT].T / 8).flatten(0, 1),
        _place(labels[..., 2], TINT),
        reduction="none",
        ignore_index=NOT_ASKED,
    )
    total = 4 * square.flatten() + what + tint
    return (total * weight.flatten()).sum() / weight.sum()


def _place(ids: Tensor, among: Tensor) -> Tensor:
    """Where among some ids each one is; -100 for others."""
    found = ids.flatten()[:, None] == among.to(ids.device)
    return torch.where(found.any(dim=1), found.int().argmax(dim=1), NOT_ASKED)


def rate_at(stage: Stage, step: int) -> float:
    """The learning rate: rises, then falls along a cosine."""
    if step < stage.warm:
        return stage.rate * (step + 1) / stage.warm
    share = min(1.0, (step - stage.warm) / max(1, stage.steps - stage.warm))
    return stage.rate * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))


def run(
    name: str,
    stage: Stage,
    out: Path,
    *,
    seed: int = 0,
    until: float = math.inf,
    every: int = 200,
    look: int = 48,
    device: str = "cpu",
    halves: bool = False,
) -> int:
    """Train a stage until its last step, or that moment (time.time()); returns the steps done.

    Args:
        every: so many steps it saves, and logs how well it does on `look` scenes.
        halves: products of matrices in bfloat16; nearly twice as fast where the processor has them.

    Raises:
        ValueError: a damaged checkpoint, one of other arguments, or a stage whose turn has not come.
    """
    path, arguments = out / f"{name}.pt", {"seed": seed, "batch": stage.batch, "rate": stage.rate, "steps": stage.steps}
    model = build(seed, "sdpa_float32").to(device)
    parameters = trained(model, name)
    optimizer = torch.optim.AdamW(parameters, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02)
    state = checkpoint.read(path)
    if state is None:
        done = 0
        if name == "both":
            begin_both(model, out)
    else:
        if state["arguments"] != arguments:
            raise ValueError(f"{path} was trained with {state['arguments']}, not with {arguments}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["step"]
    first = stage.first_seed + seed * 20_000_000
    if first + stage.steps * stage.batch >= TUNING:
        raise ValueError(
            f"seeds must stay below {TUNING}, and {HELD_OUT} above all, got {first + stage.steps * stage.batch}"
        )
    model.train()
    losses, started = [], time.time()
    with tqdm(total=stage.steps, initial=done, desc=name, file=sys.stderr, disable=None) as bar:
        while done < stage.steps and time.time() < until:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(stage, done)
            most = 5 if not stage.few else min(5, 2 + 3 * done // stage.few)
            scenes = [scene(first + done * stage.batch + i, most) for i in range(stage.batch)]
            with torch.autocast(model.device.type, torch.bfloat16, enabled=halves):
                loss = aims(model, name, scenes, np.random.default_rng((first, done)))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
            done += 1
            bar.update()
            bar.set_postfix(loss=f"{losses[-1]:.3f}")
            if done % every == 0 or done == stage.steps:
                save(path, model, optimizer, done, arguments)
                log(out / f"{name}.jsonl", name, done, losses, time.time() - started, model, look)
                losses, started = [], time.time()
    save(path, model, optimizer, done, arguments)
    return done


def begin_both(model, out: Path) -> None:
    """The decoder of `words`, tower and projector of `eyes`."""
    for name in ("words", "eyes"):
        state = checkpoint.read(out / f"{name}.pt")
        if state is None:
            raise ValueError(f"{out} must hold words.pt and eyes.pt before `both` begins, and {name}.pt is missing")
        mine = ("model.vision_tower", "model.multi_modal_projector")
        part = {key: value for key, value in state["model"].items() if key.startswith(mine) == (name == "eyes")}
        model.load_state_dict(part, strict=False)


def save(path: Path, model, optimizer, step: int, arguments: dict) -> None:
    checkpoint.write(
        path,
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "arguments": arguments},
    )


def log(path: Path, name: str, step: int, losses: list[float], seconds: float, model, look: int) -> None:
    entry = {"stage": name, "step": step, "loss": sum(losses) / len(losses), "seconds_per_step": seconds / len(losses)}
    model.eval()
    entry |= accuracy(model, [scene(TUNING + i) for i in range(look)], name)
    model.train()
    with path.open("a") as file:
        file.write(json.dumps(entry) + "\n")


def main(argv: list[str] | None = None) -> int:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.train",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path(".quality"), help="folder of checkpoints and logs")
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the scenes")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many; call again to go on")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16, where the processor has them")
    options = parser.parse_args(argv)
    until = time.time() + 60 * options.minutes
    for name in STAGES if options.stage == "all" else [options.stage]:
        how = {"seed": options.seed, "until": until, "device": options.device, "halves": options.bfloat16}
        if run(name, STAGES[name], options.out, **how) < STAGES[name].steps:
            break
    return 0


if __name__ == "__main__":
    sys.exit(main())
