"""What the commands that run a model share: their options, and opening what those name."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import PRESETS, PactConfig
from .errors import CommandError
from .output import on_terminal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin

    from ..methods import Method

PROMPT = "Describe the image."


def nonempty(text: str) -> str:
    """An argument that names something: when it is empty, a variable of the shell was."""
    if not text:
        raise argparse.ArgumentTypeError("must be a name, got an empty one")
    return text


def path_of(text: str) -> Path:
    return Path(nonempty(text))


def add_model_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """--model, --prompt, --device and --dtype."""
    parser.add_argument(
        "--model",
        metavar="NAME_OR_PATH",
        type=nonempty,
        required=required,
        help="a vision-language model: a folder, or a name on the Hugging Face hub",
    )
    parser.add_argument("--prompt", metavar="TEXT", help=f'what the model is asked (default: "{PROMPT}")')
    add_device_options(parser)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda or cuda:N (default: the first card, else the CPU)")
    parser.add_argument(
        "--dtype", metavar="NAME", help="bfloat16, float16 or float32 (default: bfloat16 on a card, float32 on the CPU)"
    )


def add_config_option(parser: argparse.ArgumentParser, default: str) -> None:
    presets = ", ".join(sorted(PRESETS))
    parser.add_argument(
        "--config", metavar="NAME", type=nonempty, help=f"published parameters: {presets} (default: {default})"
    )


def add_method_option(parser: argparse.ArgumentParser, instead: str) -> None:
    parser.add_argument(
        "--method",
        metavar="NAME[:ARGUMENT=VALUE,...]",
        type=nonempty,
        help=f"another method than PACT, of those that pact-ext methods lists; in place of {instead}",
    )


def method_of(arguments: argparse.Namespace, barred: tuple[str, ...]) -> Method | None:
    """What --method names, if it was given; the `barred` arguments must not be then."""
    if arguments.method is None:
        return None
    for name in barred:
        if getattr(arguments, name) is not None:
            raise CommandError(
                f"--{name.replace('_', '-')} must be left out with --method, which has its own arguments"
            )
    from ..methods import coerce

    with mendable():
        return coerce(arguments.method)


@contextlib.contextmanager
def mendable() -> Iterator[None]:
    """What the library says about a name, a device or a value is the user's to mend."""
    try:
        yield
    except ValueError as error:
        raise CommandError(re.sub(r"^(pact_ext[\w.]*|PactConfig): ", "", str(error))) from None


def opened(
    name: str, device: str | None, dtype: str | None, attn_implementation: str | None = None
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A model and its processor. What transformers has to say meanwhile is left out; bars show on a terminal."""
    from ..models.loading import load

    hush()
    with mendable():
        return load(name, device=device, dtype=dtype, attn_implementation=attn_implementation)


def hush() -> None:
    """Only errors of transformers and of the hub reach stderr. Without them, does nothing."""
    try:
        from huggingface_hub.utils import disable_progress_bars
        from huggingface_hub.utils import logging as hub
        from transformers import logging
    except ImportError:
        return
    logging.set_verbosity_error()
    hub.set_verbosity_error()
    if not on_terminal():
        logging.disable_progress_bar()
        disable_progress_bars()


def preset(name: str | None, model: str | None = None, **changes) -> PactConfig:
    """A preset by name, else the one that fits a model, with the changes that are not None."""
    with mendable():
        if name is None and model is not None:
            from ..models.loading import preset_for

            hush()
            name = preset_for(model)
        given = {key: value for key, value in changes.items() if value is not None}
        return PactConfig.preset(name or "llava-onevision-7b", **given)
