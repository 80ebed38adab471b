"""pact-ext layers: how far apart a model's visual keys are in each layer, and the layer to reduce at."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from ..models.families import core_of, family_of
from ..models.loading import prepare
from .errors import CommandError
from .opening import (
    PROMPT,
    add_config_option,
    add_method_option,
    add_model_options,
    mendable,
    method_of,
    opened,
    path_of,
    preset,
)
from .output import check_picture, write


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "layers",
        help="find the layer to reduce a model's visual tokens at",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs a model over images and prints, for every decoder layer, the largest cosine distance\n"
        "between the keys of two visual tokens, before rotary embedding: the maximum and the median over\n"
        "the images. Recommends the earliest layer whose median passes the threshold: in earlier layers\n"
        "the tokens are too much alike to tell apart, and every later layer saves less.",
        epilog="example:\n  pact-ext layers --model llava-hf/llava-onevision-qwen2-7b-ov-hf photos/*.jpg",
    )
    parser.add_argument(
        "images", metavar="IMAGE", type=path_of, nargs="+", help="image files, one run of the model for each"
    )
    add_model_options(parser, required=True)
    parser.add_argument(
        "--threshold",
        metavar="X",
        type=float,
        help="a distance of 0 to 2 (default: 2 dc (2 - dc) with the preset's dc, 0.752 for 0.21: "
        "the farthest that two tokens of one cluster can be from each other)",
    )
    add_config_option(parser, "the one that fits the model")
    add_method_option(parser, "--config, to tell its layer from the recommended one")
    parser.add_argument("--output", metavar="PNG", type=path_of, help="draw the distances too (needs matplotlib)")
    parser.add_argument("--json", action="store_true", help="print one JSON object (default: a table)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """Measure; draw if asked to; return the table, or the JSON."""
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 2:
        raise CommandError(f"--threshold must be a cosine distance, 0 to 2, got {arguments.threshold}")
    if arguments.output is not None:
        check_picture(arguments.output, arguments.images)
        from . import layers_figure
    from ..models.layers import default_threshold, layer_distances, median, recommend
    from .photo import pictures

    images = pictures(arguments.images)
    method, config = method_of(arguments, ("config",)), preset(arguments.config, arguments.model)
    model, processor = opened(arguments.model, arguments.device, arguments.dtype)

    prompt = PROMPT if arguments.prompt is None else arguments.prompt
    with mendable():
        distances = torch.stack([layer_distances(model, prepare(model, processor, [i], prompt)) for i in images])
    core = core_of(model)
    first = family_of(core, "pact-ext layers").first_layer(core)
    threshold = default_threshold(config) if arguments.threshold is None else arguments.threshold
    known = {
        "model": str(arguments.model),
        "model_type": model.config.model_type,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "images": [str(path) for path in arguments.images],
        "prompt": prompt,
        "threshold": threshold,
        "max": distances.amax(dim=0).tolist(),
        "median": median(distances).tolist(),
        "distances": distances.tolist(),
        "first_layer": first,
        "recommended": recommend(distances, threshold, first),
        "preset": config.layer if method is None else method.sites(distances.shape[1])[0],
    }
    if arguments.output is not None:
        write(arguments.output, layers_figure.render(known))
    return json.dumps(known, indent=2) if arguments.json else _table(known, arguments.output)


def _table(known: dict, output: Path | None) -> str:
    recommended, first = known["recommended"], known["first_layer"]
    lines = [
        f"{'model':<13}{known['model']} ({known['model_type']}), {known['dtype']} on {known['device']}",
        f"{'images':<13}{len(known['images'])}",
        f"{'threshold':<13}{known['threshold']:.3f}",
        "",
        f"{'layer':<7}{'max':>7}{'median':>9}",
    ]
    for layer, (largest, middle) in enumerate(zip(known["max"], known["median"], strict=True)):
        marks = _marks(layer, recommended, known["preset"], first)
        lines.append(f"{layer:>5}  {largest:>7.3f}{middle:>9.3f}{'  ' if marks else ''}{', '.join(marks)}")
    if recommended is None:
        lines += ["", "No layer's median passes the threshold; lower --threshold, or prune without clustering."]
    elif recommended != known["preset"]:
        lines += ["", f"To reduce there: PactConfig.preset(..., layer={recommended})"]
    if output is not None:
        lines += ["", f"{'picture':<13}{output}"]
    return "\n".join(lines)


def _marks(layer: int, recommended: int | None, preset: int, first: int) -> Sequence[str]:
    marks = ["recommended"] if layer == recommended else []
    marks += ["preset"] if layer == preset else []
    return [*marks, "cannot be reduced"] if layer < first else marks
