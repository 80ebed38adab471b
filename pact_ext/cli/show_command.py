"""The arguments of pact-ext show: of a photograph's patches (`show`), or of a model's visual tokens (`show_model`)."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from ..config import PactConfig
from .errors import CommandError
from .opening import (
    PROMPT,
    add_config_option,
    add_method_option,
    add_model_options,
    mendable,
    method_of,
    path_of,
    preset,
)

SHOW_CONFIG = PactConfig(prune_ratio=0.45, dc=0.06, dn=2.0, alpha=1.5, gaussian=True)
"""Defaults of `pact-ext show`: dc is fitted to its hand-made descriptors; the rest is as published."""
PATCH, MAX_SIDE = 14, 672  # pixels
PARAMETERS = ("prune_ratio", "dc", "dn", "alpha", "gaussian")


def add_parser(commands) -> None:
    show = commands.add_parser(
        "show",
        help="reduce the patches of a photograph and draw what happened",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Cuts a photograph into patches, reduces them with torch.ops.pact as a vision-language model's\n"
        "visual tokens would be, and draws four panels: the photograph, the importance of each\n"
        "patch, the clusters, and the photograph rebuilt from the merged tokens.\n\n"
        "Hand-made descriptors (colour, texture, gradients) stand in for a model's keys and queries,\n"
        "so the default of --dc is fitted to them; a preset's is fitted to its model.\n\n"
        "With --model the photograph goes through that model, and its own visual tokens are drawn;\n"
        "the defaults are then those of the preset that fits the model.",
        epilog="example:\n  pact-ext show photo.jpg --output reduced.png --prune-ratio 0.6 --dc 0.1\n"
        "  pact-ext show photo.jpg --model llava-hf/llava-onevision-qwen2-7b-ov-hf",
    )
    show.add_argument("image", metavar="IMAGE", type=path_of, help="an image file of any size and mode Pillow reads")
    show.add_argument(
        "--output",
        metavar="PNG",
        type=path_of,
        default=Path("pact-show.png"),
        help="the picture to write (default: %(default)s)",
    )
    add_config_option(show, "those below")
    add_method_option(show, "--config and the parameters below, with --model")
    for flag, what in (
        ("prune-ratio", "share of the patches that the importance split drops, 0 to 1"),
        ("dc", "cutoff of the clustering: centres are farther apart than this cosine distance, >= 0"),
        ("dn", "normalisation of the density, > 0"),
        ("alpha", "a dropped patch nearer than ALPHA * DC to a centre joins its cluster, >= 0"),
    ):
        default = getattr(SHOW_CONFIG, flag.replace("-", "_"))
        show.add_argument(f"--{flag}", metavar="X", type=float, help=f"{what} (default: {default})")
    show.add_argument(
        "--gaussian",
        action=argparse.BooleanOptionalAction,
        help="density exp(-(d/dn)^2), as in the published code, or exp(-d/dn), as in the paper (default: --gaussian)",
    )
    # Their defaults are filled in later: with --model, having been given is an error.
    show.add_argument(
        "--patch",
        metavar="PX",
        type=int,
        help=f"side of a patch in pixels, 4 to 64 (default: {PATCH}; not with --model)",
    )
    show.add_argument(
        "--max-side",
        metavar="PX",
        type=int,
        help="a larger photograph is scaled down to this longer side; at most 16384 patches may result "
        f"(default: {MAX_SIDE}, so at most 48 x 48 patches of 14; not with --model)",
    )
    add_model_options(show, required=False)
    show.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    given = {name: getattr(arguments, name) for name in PARAMETERS if getattr(arguments, name) is not None}
    if arguments.model is None:
        return _patches(arguments, given)
    for name in ("patch", "max_side"):
        if getattr(arguments, name) is not None:
            flag = "--" + name.replace("_", "-")
            raise CommandError(f"{flag} must be left out with --model, whose processor cuts the photograph")
    config = method_of(arguments, ("config", *PARAMETERS)) or preset(arguments.config, arguments.model, **given)
    from . import show_model

    prompt = PROMPT if arguments.prompt is None else arguments.prompt
    return show_model.run(
        arguments.image, arguments.output, arguments.model, config, prompt, arguments.device, arguments.dtype
    )


def _patches(arguments: argparse.Namespace, given: dict) -> str:
    for name in ("prompt", "device", "dtype", "method"):
        if getattr(arguments, name) is not None:
            raise CommandError(f"--{name} must be left out without --model, which it is about")
    from . import show

    with mendable():
        chosen = SHOW_CONFIG if arguments.config is None else preset(arguments.config)
        config = dataclasses.replace(chosen, **given)
    patch = PATCH if arguments.patch is None else arguments.patch
    max_side = MAX_SIDE if arguments.max_side is None else arguments.max_side
    return show.run(arguments.image, arguments.output, patch, max_side, config)
