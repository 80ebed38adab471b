"""pact-ext bench-model: what a reduction saves a whole model, in time and memory."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch

from .._version import __version__
from ..config import PactConfig
from ..models import apply
from ..models.random import SHAPES, keeping, random_inputs, random_model
from .errors import CommandError
from .opening import (
    PROMPT,
    add_config_option,
    add_method_option,
    add_model_options,
    hush,
    mendable,
    method_of,
    nonempty,
    opened,
    path_of,
    preset,
)
from .output import check_file, on_terminal, write

if TYPE_CHECKING:
    from ..methods import Method

VISUAL_TOKENS, TEXT_TOKENS = 2880, 64
MOST = 1_000_000  # of anything that is counted
KEEP = 0.3  # about what is published for LLaVA-OneVision-7B
ATTENTION = ("auto", "dense", "fused")


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "bench-model",
        help="time a model with and without the reduction",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Generates with a model as it is and with its visual tokens reduced, in turn, and prints the time\n"
        "to the first token, the time of each further one, and the memory: medians, and their ratios.\n\n"
        "--random times random weights in a model's shape, with no download. What a dc leaves of their\n"
        f"tokens says nothing about a trained model, so by default a set share is kept (--keep {KEEP}).",
        epilog="example:\n  pact-ext bench-model --random 7b --visual-tokens 2880\n"
        "  pact-ext bench-model --model llava-hf/llava-onevision-qwen2-7b-ov-hf photo.jpg",
    )
    parser.add_argument("images", metavar="IMAGE", type=path_of, nargs="*", help="with --model: images, one prompt")
    add_model_options(parser, required=False)
    parser.add_argument(
        "--random", metavar="SHAPE", type=nonempty, help=f"random weights in a shape: {', '.join(SHAPES)}"
    )
    for flag, default, what in (
        ("visual-tokens", VISUAL_TOKENS, "visual tokens of each row, with --random"),
        ("text-tokens", TEXT_TOKENS, "text tokens of each row, with --random"),
    ):
        parser.add_argument(f"--{flag}", metavar="N", type=int, help=f"{what} (default: {default})")
    for flag, default, what in (
        ("batch", 1, "rows, all with the same images where they are given"),
        ("new-tokens", 32, "tokens to generate"),
        ("runs", 5, "measured runs of each, after one to warm up"),
    ):
        parser.add_argument(f"--{flag}", metavar="N", type=int, default=default, help=f"{what} (default: %(default)s)")
    add_config_option(parser, f"the one that fits the model; with --random, --keep {KEEP}")
    add_method_option(parser, "--config, --keep, --prune-ratio, --dc and --layer")
    parser.add_argument(
        "--keep",
        metavar="RATIO",
        type=float,
        help="keep this share of the visual tokens, by importance alone; in place of --config, --prune-ratio and --dc",
    )
    parser.add_argument("--prune-ratio", metavar="X", type=float, help="share that the importance split drops, 0 to 1")
    parser.add_argument("--dc", metavar="X", type=float, help="cutoff of the clustering, >= 0")
    parser.add_argument("--layer", metavar="L", type=int, help="reduce at the input of this decoder layer (default: 4)")
    parser.add_argument(
        "--attention",
        metavar="ROUTE",
        choices=ATTENTION,
        default="auto",
        help="how the sizes of merged tokens reach attention: auto, dense or fused (default: %(default)s)",
    )
    parser.add_argument(
        "--attn-implementation",
        metavar="NAME",
        help="attention of the model: eager, sdpa or flash_attention_2 (default: the model's own)",
    )
    parser.add_argument("--json", metavar="FILE", type=path_of, help="write every measured value to this file too")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """Measure; write the JSON if asked to; return the table."""
    _check(arguments)
    config = _config(arguments)
    with mendable():
        name, model, inputs = _given(arguments) if arguments.random is None else _random(arguments)
        apply(model, config, attention=arguments.attention).remove()  # what does not fit shows now
    from ..models.benchmark import benchmark

    with _progress(2 * (arguments.runs + 1)) as step:
        record = benchmark(
            model,
            inputs,
            config,
            attention=arguments.attention,
            runs=arguments.runs,
            new_tokens=arguments.new_tokens,
            progress=step,
        )
    import transformers

    versions = {"pact_ext": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    record = {"model": name, "model_type": model.config.model_type, **versions, **record}
    if arguments.json is not None:
        write(arguments.json, (json.dumps(record, indent=2) + "\n").encode())
    return table(record)


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.model is None) == (arguments.random is None):
        raise CommandError("either --model or --random must be given")
    if arguments.model is not None and not arguments.images:
        raise CommandError("--model must come with an IMAGE")
    barred = ("visual_tokens", "text_tokens") if arguments.random is None else ("images", "prompt")
    for name in barred:
        if getattr(arguments, name) not in (None, []):
            flag = "IMAGE" if name == "images" else "--" + name.replace("_", "-")
            raise CommandError(f"{flag} must be left out with {'--model' if arguments.random is None else '--random'}")
    for name in ("visual_tokens", "text_tokens", "batch", "new_tokens", "runs"):
        count = getattr(arguments, name)
        if count is not None and not 1 <= count <= MOST:
            raise CommandError(f"--{name.replace('_', '-')} must be in 1 to {MOST}, got {count}")
    if arguments.keep is not None:
        for name in ("config", "prune_ratio", "dc"):
            if getattr(arguments, name) is not None:
                raise CommandError(f"--{name.replace('_', '-')} must be left out with --keep, which sets it")
    if arguments.json is not None:
        check_file(arguments.json, "--json", arguments.images)


def _config(arguments: argparse.Namespace) -> PactConfig | Method:
    if (method := method_of(arguments, ("config", "keep", "prune_ratio", "dc", "layer"))) is not None:
        return method
    layer = 4 if arguments.layer is None else arguments.layer
    published = (arguments.config, arguments.prune_ratio, arguments.dc) != (None, None, None)
    if arguments.keep is None and (arguments.random is None or published):
        changes = {name: getattr(arguments, name) for name in ("prune_ratio", "dc", "layer")}
        return preset(arguments.config, arguments.model, **changes)
    if arguments.keep is not None and not 0 < arguments.keep <= 1:
        raise CommandError(f"--keep must be in (0, 1], got {arguments.keep}")
    with mendable():
        return keeping(KEEP if arguments.keep is None else arguments.keep, layer)


def _random(arguments: argparse.Namespace):
    hush()
    visual = VISUAL_TOKENS if arguments.visual_tokens is None else arguments.visual_tokens
    text = TEXT_TOKENS if arguments.text_tokens is None else arguments.text_tokens
    place = {"device": arguments.device, "dtype": arguments.dtype}
    model = random_model(arguments.random, visual, **place, attn_implementation=arguments.attn_implementation)
    return f"random {arguments.random}", model, random_inputs(model, visual, text, arguments.batch)


def _given(arguments: argparse.Namespace):
    from .photo import pictures

    images = pictures(arguments.images)
    model, processor = opened(arguments.model, arguments.device, arguments.dtype, arguments.attn_implementation)
    from ..models.loading import prepare

    inputs = prepare(model, processor, images, PROMPT if arguments.prompt is None else arguments.prompt)
    return arguments.model, model, {name: torch.cat([x] * arguments.batch) for name, x in inputs.items()}


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[], object] | None]:
    """A bar on a terminal, where there is tqdm."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield None
        return
    with tqdm(total=steps, disable=not on_terminal(), leave=False, unit="run") as bar:
        yield bar.update


def table(record: dict) -> str:
    """A record as `run` prints it: medians of the times."""
    from ..models.benchmark import median

    report, config = record["report"], record["config"]
    before, after = sum(report["visual_in"]), sum(report["visual_out"])
    rows = {
        "model": f"{record['model']} ({record['model_type']}), {record['dtype']} on {record['device']}",
        "prompt": f"{record['batch']} x {record['prompt_tokens']} tokens, {before} of them visual",
        "reduction": f"{before} -> {after} visual tokens ({100 * report['reduction_ratio']:.1f} % gone) at the "
        f"input of layer {report['layer']} of {report['layers']}, {record['attention']} attention",
        "parameters": f"prune_ratio {config['prune_ratio']:g}, dc {config['dc']:g}" if config else record["method"],
        "runs": f"{record['runs']} of {record['new_tokens']} new tokens",
    }
    lines = [f"{name:<12}{value}" for name, value in rows.items()]
    lines += ["", f"{'median':<24}{'stock':>10}{'reduced':>10}{'ratio':>8}"]
    for key, name, unit in (
        ("first_token_seconds", "first token, ms", 1e3),
        ("reduction_seconds", "  spent reducing, ms", 1e3),
        ("token_seconds", "each further token, ms", 1e3),
        ("cache_bytes", "key-value cache, MiB", 2**-20),
        ("peak_bytes", "peak memory, MiB", 2**-20),
    ):
        stock, reduced = (median(record[variant].get(key)) for variant in ("stock", "reduced"))
        if reduced is not None:
            ratio = record["ratio"].get(key)
            cells = "" if stock is None else f"{stock * unit:.2f}", f"{reduced * unit:.2f}"
            lines.append(f"{name:<24}{cells[0]:>10}{cells[1]:>10}{'' if ratio is None else f'{ratio:.3f}':>8}".rstrip())
    if record["stock"]["peak_bytes"] is None:
        lines += ["", "Peak memory is told apart on a card only; on the CPU the cache is what can be compared."]
    return "\n".join(lines)
