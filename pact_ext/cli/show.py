"""pact-ext show: reduce the patches of one photograph, time each stage, draw and summarise the result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import ops
from ..config import PactConfig
from ..reduction import Reduction, reduce
from ..reference import split
from . import figure
from .errors import CommandError
from .output import check_picture, write
from .panels import Panels, panels
from .photo import Photo, read
from .timing import RUNS, milliseconds
from .tokens import Tokens

HONESTY = (
    "Hand-made descriptors (colour, texture, gradients) stand in for a model's keys and queries here;\n"
    "with a model's own, the same operators give exactly that model's reduction."
)


@dataclass(frozen=True)
class Shown:
    """What `run` draws and prints: the photograph, its scores, how many were kept, the reduction, the panels."""

    photo: Photo
    tokens: Tokens
    scores: Tensor
    kept: Tensor
    reduction: Reduction
    panels: Panels


def shown(photo: Photo, config: PactConfig) -> Shown:
    tokens = Tokens.of(photo)
    scores = ops.euti_scores(tokens.hidden, tokens.keys, tokens.queries, config.scale)
    kept, _ = split(scores, config.prune_ratio)
    reduction = reduce(tokens.hidden, tokens.keys, tokens.queries, config=config)
    return Shown(photo, tokens, scores, kept, reduction, panels(photo, tokens.mean_color, scores, reduction))


def run(image: Path, output: Path, patch: int, max_side: int, config: PactConfig) -> str:
    """Write the picture; return the summary."""
    if not 4 <= patch <= 64:
        raise CommandError(f"--patch must be in 4 to 64 pixels, got {patch}")
    if max_side < 2 * patch:
        raise CommandError(f"--max-side must be at least two patches, {2 * patch} pixels, got {max_side}")
    check_picture(output, [image])
    result = shown(read(image, patch, max_side), config)
    png = figure.render(result.panels, patch, len(result.kept), config)
    write(output, png)
    return _summary(image, output, len(png), result, milliseconds(result.tokens, result.kept, result.reduction, config))


def _summary(image: Path, output: Path, size: int, result: Shown, times: dict[str, float]) -> str:
    photo, reduction = result.photo, result.reduction
    discarded = int((reduction.labels < 0).sum())
    several = int((reduction.sizes > 1).sum())
    used = f"{photo.columns * photo.patch} x {photo.rows * photo.patch} px used"
    rows = {
        "photograph": f"{image}, {photo.size[0]} x {photo.size[1]} px",
        "grid": f"{photo.columns} x {photo.rows} patches of {photo.patch} x {photo.patch} px "
        f"({used}{', scaled down' if photo.scaled else ''})",
        "tokens in": f"{reduction.n_in}",
        "kept": f"{len(result.kept)} by importance",
        "tokens out": f"{reduction.n_out}, {several} of them for two patches or more",
        "discarded": f"{discarded}",
        "reduction": f"{100 * reduction.reduction_ratio:.1f} %",
    }
    lines = [f"{name:<13}{value}" for name, value in rows.items()]
    lines += ["", f"{'operator':<13}{'ms':>8}  (median of {RUNS} runs, {torch.get_num_threads()} threads)"]
    lines += [f"{name:<13}{value:>8.3f}" for name, value in times.items()]
    lines += ["", f"{'picture':<13}{output}, {size / 1e3:.0f} kB", "", HONESTY]
    return "\n".join(lines)
