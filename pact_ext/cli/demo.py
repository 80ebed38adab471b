"""pact-ext demo: the small trained model asked about a picture, with all its visual tokens and with few."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import CommandError
from .opening import add_method_option, hush, mendable, method_of, path_of
from .output import check_picture, write

if TYPE_CHECKING:
    from torch import Tensor

    from ..methods import Method
    from ..reduction import Reduction
    from ..small import Example

LAYER, KEEP = 2, 0.25  # of six layers; of 256 tokens
GRID = 16, 16
RUNS = 5


@dataclass(frozen=True)
class Answered:
    """How a model answered: the words, the key-value cache in bytes, milliseconds of a prefill."""

    texts: list[str]
    cache: int
    milliseconds: float


@dataclass(frozen=True)
class Shown:
    """What is drawn and printed.

    Attributes:
        scores: ``[256]``, importance by the keys and queries of layer `LAYER` (EUTI).
        reduction: of the first question's prompt; the picture's tokens are the same for all, its text is not.
    """

    example: Example
    method: Method
    stock: Answered
    reduced: Answered
    scores: Tensor
    reduction: Reduction


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="ask a small trained model about a picture, with all its visual tokens and with few",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Runs the small vision-language model of this package, which needs no download, on a picture it\n"
        "was not trained on: every question with all 256 visual tokens and with those a method leaves.\n"
        "Prints the answers, tokens, time and cache, and draws the picture, the importance of its tokens,\n"
        "their clusters and the answers.",
        epilog="example:\n  pact-ext demo --method fastv --keep 0.1 --scene 2",
    )
    add_method_option(parser, "PACT with an exact budget")
    parser.add_argument(
        "--keep", metavar="SHARE", type=float, help=f"share of the visual tokens that is left (default: {KEEP})"
    )
    parser.add_argument("--scene", metavar="N", type=int, default=0, help="which picture, from 0 (default: 0)")
    parser.add_argument(
        "--output", metavar="PNG", type=path_of, default=Path("pact-demo.png"), help="(default: %(default)s)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> str:
    """Write the picture; return the summary."""
    check_picture(arguments.output)
    method = _method(arguments)
    from . import demo_figure

    result = shown(method, arguments.scene)
    write(arguments.output, demo_figure.render(result, LAYER, GRID))
    return summary(result, arguments.output)


def _method(arguments: argparse.Namespace) -> Method:
    from ..config import PactConfig
    from ..methods import Pact

    method = method_of(arguments, ())
    if method is None:
        method = Pact(PactConfig(layer=LAYER), keep=KEEP)
    if arguments.keep is None:
        return method
    if not isinstance(getattr(method, "keep", ()), int | float | None):
        raise CommandError(f"--keep must be left out with {method.name}, which has no single budget")
    with mendable():
        return dataclasses.replace(method, keep=arguments.keep)


def shown(method: Method, scene: int) -> Shown:
    from .. import small
    from ..models import apply

    hush()
    examples = small.examples()
    if not 0 <= scene < len(examples):
        raise CommandError(f"--scene must be in 0 to {len(examples) - 1}, got {scene}")
    example = examples[scene]
    model, processor = small.load()
    turns = [example.turns(question) for question in example.questions]
    prompts = processor.apply_chat_template(turns, add_generation_prompt=True)
    inputs = processor(images=[example.image] * len(turns), text=prompts, padding=True, return_tensors="pt")
    stock = answered(model, processor, inputs)
    with mendable(), apply(model, method) as handle:
        reduced = answered(model, processor, inputs)
        reduction = handle.last[0]
    return Shown(example, method, stock, reduced, importance(model, inputs), reduction)


def answered(model, processor, inputs: dict[str, Tensor]) -> Answered:
    import torch

    with torch.inference_mode():
        out = model.generate(**inputs, return_dict_in_generate=True)
        found = processor.batch_decode(out.sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            model(**inputs, logits_to_keep=1)
            seconds.append(time.perf_counter() - start)
    layers = out.past_key_values.layers
    cache = sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
    return Answered(found, cache, 1e3 * sorted(seconds)[RUNS // 2])


def importance(model, inputs: dict[str, Tensor]) -> Tensor:
    """EUTI scores of the first row's visual tokens, by a method that looks and leaves everything."""
    import torch

    from .. import ops
    from ..methods import Method, Selection
    from ..models import apply

    scores: list[Tensor] = []

    class Look(Method):
        needs = frozenset({"keys", "queries"})

        def sites(self, layers: int) -> Sequence[int]:
            return (LAYER,)

        def select(self, view) -> Selection:
            scores.append(ops.euti_scores(view.hidden, view.keys, view.queries))
            return Selection(torch.arange(len(view)))

    with apply(model, Look()), torch.inference_mode():
        model(**inputs, logits_to_keep=1)
    return scores[0]


def summary(result: Shown, output: Path) -> str:
    stock, reduced, reduction = result.stock, result.reduced, result.reduction
    width = max(len(question.said) for question in result.example.questions) + 2
    lines = [f"{'question':<{width}}{'right':<15}{'all tokens':<15}{'reduced':<15}"]
    for question, full, few in zip(result.example.questions, stock.texts, reduced.texts, strict=True):
        mark = "" if few == question.answer else "lost" if full == question.answer else "wrong"
        lines.append(f"{question.said:<{width}}{question.answer:<15}{full:<15}{few:<15}{mark}".rstrip())
    rows = {
        "method": str(result.method),
        "tokens": f"{reduction.n_in} -> {reduction.n_out} visual tokens",
        "prefill": f"{stock.milliseconds:.1f} -> {reduced.milliseconds:.1f} ms, all questions at once "
        f"(median of {RUNS})",
        "cache": f"{stock.cache / 2**20:.2f} -> {reduced.cache / 2**20:.2f} MiB",
        "picture": str(output),
    }
    return "\n".join([*lines, "", *(f"{name:<10}{value}" for name, value in rows.items())])
