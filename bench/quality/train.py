"""Train the small model, from scratch, in three stages; goes on where it stopped.

    words  the decoder alone: scenes are told in words, a few patches each, so that steps are short
    eyes   tower and projector alone: each patch becomes the words that hold of it; may run beside `words`
    both   all of it, on whole pictures of 256 tokens

Each stage keeps its checkpoint and its log (JSON lines) in the folder.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from tqdm import tqdm

from . import checkpoint
from .batches import HEAD, NOT_ASKED, Batch, embedded, moved
from .evaluate import accuracy
from .model import build, logits, seen
from .scenes import HELD_OUT, scene
from .steps import STAGES, Stage, Steps
from .words import COLORS, GLYPHS, ID, LETTERS

TUNING = 800_000_000
"""Seeds from here to `HELD_OUT` are for looking at while training."""
SMALL = 8.0
"""How much more than another thing's a small thing's patch counts in `likeness`: it has two, another has twelve."""


@functools.cache
def _fixed(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of all that a patch can show, of the colours, and of what is before the picture; once on each device."""
    what, tint = ("nothing", "label", *GLYPHS, *LETTERS), COLORS
    ids = ([ID[word] for word in what], [ID[word] for word in tint], HEAD)
    return tuple(torch.tensor(one, device=device) for one in ids)


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


def aims(model, stage: str, drawn: Mapping[str, Tensor]) -> Tensor:
    """The loss of a step, of what `Steps` draws of it, on the model's device."""
    words = model.get_input_embeddings().weight
    labels = drawn["labels"].long()
    if stage == "words":
        return answers(model, embedded(labels, words) + drawn["noise"], drawn)
    tokens = seen(model, drawn["images"])
    if stage == "eyes":
        return likeness(tokens, labels, words)
    return answers(model, tokens, drawn) + 0.1 * likeness(tokens, labels, words.detach())


def answers(model, tokens: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy of the answers' words."""
    words = model.get_input_embeddings()
    batch = Batch(*(drawn[part] for part in ("ids", "targets", "blocks", "places")), [])
    head = words(_fixed(tokens.device)[2]).expand(len(tokens), -1, -1)
    found = logits(model, torch.cat([head, tokens, words(batch.ids)], dim=1), batch.mask, batch.places)
    found = found[:, -batch.ids.shape[1] :]
    return F.cross_entropy(found.flatten(0, 1), batch.targets.flatten(), ignore_index=NOT_ASKED)


def likeness(tokens: Tensor, labels: Tensor, words: Tensor) -> Tensor:
    """How far visual tokens are from the words that hold of them, and from being told apart by them."""
    kinds, colors, _ = _fixed(tokens.device)
    weight = torch.where(labels[..., 0] == ID["nothing"], 0.15, 1.0)
    weight = torch.where(labels[..., 3] == ID["small"], SMALL, weight)
    square = (tokens - embedded(labels, words)).square().mean(dim=-1)
    what, tint = (
        F.cross_entropy(
            (tokens @ words[among].T / 8).flatten(0, 1),
            _place(labels[..., column], among),
            reduction="none",
            ignore_index=NOT_ASKED,
        )
        for column, among in ((0, kinds), (2, colors))
    )
    total = 4 * square.flatten() + what + tint
    return (total * weight.flatten()).sum() / weight.sum()


def _place(ids: Tensor, among: Tensor) -> Tensor:
    """Where among some ids each one is; -100 for others."""
    found = ids.flatten()[:, None] == among
    return torch.where(found.any(dim=1), found.int().argmax(dim=1), NOT_ASKED)


def run(
    name: str,
    stage: Stage,
    out: Path,
    *,
    seed: int = 0,
    until: float = math.inf,
    fit: bool = False,
    every: int = 200,
    look: int = 48,
    device: str = "cpu",
    halves: bool = False,
    workers: int = 0,
    start: Path | None = None,
) -> int:
    """Train a stage until its last step, or that moment (time.time()); returns the steps done.

    Args:
        fit: take as many of the stage's steps as there is time for, as the first of them show.
        every: so many steps it saves, and logs how well it does on `look` scenes.
        halves: products of matrices in bfloat16; nearly twice as fast where the processor has them.
        workers: processes that draw scenes ahead; the same scenes with any number.
        start: weights to begin from, a checkpoint or a model's folder, in place of new ones or the earlier stages'.

    Raises:
        ValueError: a damaged checkpoint, one of other arguments, or a stage whose turn has not come.
    """
    path, cuda = out / f"{name}.pt", torch.device(device).type == "cuda"
    torch.backends.cuda.enable_cudnn_sdp(False)  # which plans anew for each length
    model = build(seed, "sdpa" if cuda else "sdpa_float32").to(device)
    parameters = trained(model, name)
    optimizer = torch.optim.AdamW(parameters, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.02, fused=cuda)
    state = checkpoint.read(path)
    if state is not None and fit:
        stage, fit = replace(stage, steps=state["arguments"]["steps"]), False
    arguments = {"seed": seed, "batch": stage.batch, "rate": stage.rate, "steps": stage.steps}
    arguments |= {"needles": stage.needles, "small": SMALL, "start": None if start is None else str(start)}
    if state is None:
        done = 0
        if start is not None:
            model.load_state_dict(weights(start))
        elif name == "both":
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
    steps = Steps(name, stage, first, model.config.text_config.hidden_size).after(done, workers)
    losses, started, clock = [], time.time(), 0.0
    with tqdm(total=stage.steps, initial=done, desc=name, file=sys.stderr, disable=None) as bar:
        while done < stage.steps and time.time() < until:
            for group in optimizer.param_groups:
                group["lr"] = stage.rate_at(done)
            drawn = {part: moved(torch.from_numpy(value), device) for part, value in next(steps).items()}
            with torch.autocast(model.device.type, torch.bfloat16, enabled=halves):
                loss = aims(model, name, drawn)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.detach())
            done += 1
            bar.update()
            if fit and done in (stage.warm // 2, stage.warm):  # the rate has not yet turned on how many steps there are
                losses[-1].item()  # which waits for the device
                before, clock = clock, time.perf_counter()
                if done == stage.warm:
                    each = (clock - before) / (done - stage.warm // 2)
                    bar.total = steps_in(until - time.time(), each, done, stage.steps)
                    stage = replace(stage, steps=bar.total)
                    arguments["steps"] = stage.steps
            if done % every == 0 or done == stage.steps:
                found = torch.stack(losses).tolist()
                bar.set_postfix(loss=f"{found[-1]:.3f}")
                save(path, model, optimizer, done, arguments)
                log(out / f"{name}.jsonl", name, done, found, time.time() - started, model, look)
                losses, started = [], time.time()
    save(path, model, optimizer, done, arguments)
    return done


def steps_in(seconds: float, each: float, done: int, most: int) -> int:
    """How many steps a stage has, if as many more are taken as there are seconds for; a tenth is left for the rest."""
    return max(done, min(most, done + int(0.9 * seconds / each)))


def weights(path: Path) -> dict[str, Tensor]:
    """Of a checkpoint, or of a folder that `from_pretrained` loads."""
    if path.is_dir():
        return transformers.AutoModelForImageTextToText.from_pretrained(path, dtype=torch.float32).state_dict()
    state = checkpoint.read(path)
    if state is None:
        raise ValueError(f"there is no {path} to begin from")
    return state["model"]


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
    parser.add_argument("--until", type=float, default=math.inf, help="stop at that moment, in seconds since 1970")
    parser.add_argument("--fit", action="store_true", help="as many of the steps as there is time for")
    parser.add_argument("--steps", type=by_stage, default={}, metavar="STAGE=N,...", help="where not as published")
    parser.add_argument("--batch", type=by_stage, default={}, metavar="STAGE=N,...", help="scenes of a step")
    parser.add_argument("--start", type=Path, help="checkpoint or model to begin from (with one --stage)")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw scenes ahead (default: none)")
    parser.add_argument("--every", type=int, default=200, help="steps between looks (default: 200)")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--bfloat16", action="store_true", help="products in bfloat16, where the processor has them")
    options = parser.parse_args(argv)
    if options.stage == "all" and (options.fit or options.start is not None):
        parser.error("--fit and --start are for one --stage")
    until = min(options.until, time.time() + 60 * options.minutes)
    how = {name: getattr(options, name) for name in ("seed", "fit", "every", "device", "workers", "start")}
    for name in STAGES if options.stage == "all" else [options.stage]:
        stage = STAGES[name]
        stage = replace(stage, steps=options.steps.get(name, stage.steps), batch=options.batch.get(name, stage.batch))
        if run(name, stage, options.out, until=until, halves=options.bfloat16, **how) < stage.steps:
            break
    return 0


def by_stage(text: str) -> dict[str, int]:
    """Of "words=1000,both=3000"."""
    found = {name: number for name, _, number in (one.partition("=") for one in text.split(","))}
    if not found.keys() <= STAGES.keys() or not all(one.isdecimal() and int(one) for one in found.values()):
        raise argparse.ArgumentTypeError(
            f"STAGE=N,... with N above 0 and of the stages {', '.join(STAGES)}, got {text}"
        )
    return {name: int(number) for name, number in found.items()}


if __name__ == "__main__":
    sys.exit(main())
