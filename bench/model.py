"""What reduction saves in a whole model: prefill, decoding, key-value cache, and on a card memory, with and without it.

A LLaVA with random weights runs as it is and under several configurations of PACT in turn, or under every method
(`--methods`): on the CPU one of middle size, on a card (`--device cuda`) one of the shape of LLaVA-OneVision-7B, in
bfloat16. Prints a table, and writes the record (JSON) and the same table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

import pact_ext

from . import model_table
from .gpu import RESULTS, why_not
from .gpu_timing import clocks, gpu_facts, record_name
from .method_cases import KEEP, METHOD_CASES
from .model_case import CARD, CARD_SIZES, CASES, FULL, PACT, QUICK, Case, Shape, build, inputs
from .model_timing import Peak, attention_backends, attention_kernels, between, moment
from .record import machine_facts, timing_of

HERE = Path(__file__).parent
ROUNDS, QUICK_ROUNDS, CARD_ROUNDS = 7, 3, 5
CARD_SECONDS, QUICK_SECONDS = 75, 25
DECODED = 8  # tokens after each prefill


def parse(argv: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=first, epilog=rest)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"few rounds; on the CPU {QUICK.visual} visual tokens, {QUICK.layers} layers",
    )
    parser.add_argument("--methods", action="store_true", help=f"every method, at {KEEP:.0%}% of the visual tokens")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns (default: {ROUNDS}, quick: {QUICK_ROUNDS})")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    sizes = ", ".join(map(str, CARD_SIZES))
    parser.add_argument(
        "--visual", type=int, nargs="+", metavar="N", help=f"visual tokens of a row (on a card: {sizes})"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="rows (default: %(default)s)")
    seconds = f"time allowed on a card (default: {CARD_SECONDS}, quick: {QUICK_SECONDS})"
    parser.add_argument("--seconds", type=float, metavar="S", help=seconds)
    parser.add_argument("--commit", help="what is measured, where git cannot tell")
    parser.add_argument("--json", type=Path, metavar="PATH", help="the record (default: in .bench, or bench/results)")
    return parser.parse_args(argv)


def target_of(options: argparse.Namespace, facts: dict[str, Any]) -> Path:
    """Where the record goes."""
    name = ("methods" if options.methods else "model") + ("-quick" if options.quick else "")
    if options.json:
        return options.json
    if options.device == "cuda":
        return RESULTS / f"{record_name(facts['gpu'])}-{name}.json"
    return HERE.parent / ".bench" / f"{name}.json"


def cache_bytes(cache) -> int:
    """Of the keys and values of all layers."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def prefill(model: nn.Module, prompt: dict[str, Tensor]) -> tuple[float, Any]:
    """Seconds from the language model's input to the last token's logits, without the vision tower; the output."""
    started: list[Any] = []
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(lambda *_: started.append(moment(model.device)), prepend=True)
    with hook:
        output = model(**prompt, use_cache=True, logits_to_keep=1)
    return between(started[0], moment(model.device)), output


def decode(model: nn.Module, prompt: dict[str, Tensor], output, tokens: int) -> list[float]:
    """Seconds of each of so many tokens that follow a prefill."""
    mask, seconds = prompt["attention_mask"], []
    for _ in range(tokens):
        mask = torch.cat([mask, mask[:, -1:]], dim=1)
        start = moment(model.device)
        output = model(
            input_ids=output.logits[:, -1:].argmax(-1),
            attention_mask=mask,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        seconds.append(between(start, moment(model.device)))
    return seconds


def reducing(model: nn.Module, case: Case) -> contextlib.AbstractContextManager:
    """The model as the case has it, with its handle or None."""
    if case.method is None:
        return contextlib.nullcontext()
    return pact_ext.apply(model, case.method, attention=case.attention)


@torch.inference_mode()
def run(
    shape: Shape,
    cases: Sequence[Case] = CASES,
    rounds: int = ROUNDS,
    decoded: int = DECODED,
    bar: tqdm | None = None,
    device: str = "cpu",
    deadline: float = float("inf"),
) -> list[dict[str, Any]]:
    """Measure the cases in turn, `rounds` times after one that warms up, or until the monotonic clock is at `deadline`.

    Returns:
        For each case its method, the visual tokens of a row before, in each layer and in the end, the share of
        operations that is left (`ideal`), the bytes of the cache after prefill, on a card what prefill allocates at
        most, the backends of attention, and timings of `prefill`, of one `token`, and of reducing (`reduce`). Without
        the cases that were not reached in time.
    """
    model = build(shape, device)
    prompt = inputs(model, shape)
    seconds = [{"prefill": [], "token": [], "reduce": []} for _ in cases]
    found: list[dict[str, Any]] = [{} for _ in cases]
    order = [(turn, (turn + i) % len(cases)) for turn in range(rounds + 1) for i in range(len(cases))]
    for turn, number in order:  # each is first in its turn
        if time.monotonic() > deadline:
            break
        output = None
        with reducing(model, cases[number]) as handle:
            peak = Peak(model.device)
            took, output = prefill(model, prompt)
            allocated, held = peak.bytes(), cache_bytes(output.past_key_values)
            tokens = decode(model, prompt, output, decoded)
            report = None if handle is None else handle.report(synchronize=True)
            if not turn:
                found[number]["backends"] = attention_backends(model, prompt)
        visual = shape.layers * [shape.visual]
        if report is not None:
            visual = [count if shape.batch == 1 else count / shape.batch for count in report.visual_by_layer]
        found[number] |= {
            "method": None if handle is None else str(handle.method),
            "visual": shape.visual,
            "visual_by_layer": visual,
            "visual_after": visual[-1],
            "ideal": shape.ideal(visual),
            "cache_bytes": held,
            "peak_bytes": allocated,
        }
        if turn:
            seconds[number]["prefill"].append(took)
            seconds[number]["token"] += tokens
            if report is not None:
                seconds[number]["reduce"].append(report.seconds)
        if bar is not None:
            bar.update()
    if device == "cuda":
        for case, result in zip(cases, found, strict=True):
            if case.method in (None, PACT):
                with reducing(model, case):
                    result["kernels"] = attention_kernels(model, prompt)
    return [
        {
            "name": case.name,
            "attention": None if case.method is None else case.attention,
            **result,
            "timings": {name: timing_of(values) for name, values in times.items() if values},
        }
        for case, result, times in zip(cases, found, seconds, strict=True)
        if times["prefill"]
    ]


def main(argv: list[str] | None = None) -> int:
    begun = time.monotonic()
    options = parse(argv)
    on_card = options.device == "cuda"
    if on_card and (problem := why_not()):
        print(f"Nothing is measured and nothing written: {problem}.", file=sys.stderr)
        return 1
    shape, rounds = (QUICK, QUICK_ROUNDS) if options.quick else (FULL, ROUNDS)
    sizes = [shape.visual]
    if on_card:
        shape, rounds = CARD, QUICK_ROUNDS if options.quick or options.methods else CARD_ROUNDS
        sizes = CARD_SIZES[:1] if options.quick or options.methods else CARD_SIZES
    rounds, sizes = options.rounds or rounds, options.visual or sizes
    shape = dataclasses.replace(shape, visual=sizes[0], batch=options.batch)
    facts = gpu_facts(options.commit) if on_card else machine_facts()
    facts |= {"transformers": transformers.__version__, "shape": asdict(shape)}
    cases = METHOD_CASES if options.methods else CASES
    allowed = options.seconds or (QUICK_SECONDS if options.quick else CARD_SECONDS)
    entries, total = [], (rounds + 1) * len(cases) * len(sizes)
    with tqdm(total=total, file=sys.stderr, disable=None, leave=False, unit="run") as bar:
        for number, visual in enumerate(sizes, 1):
            deadline = begun + allowed * number / len(sizes) if on_card else float("inf")
            own = dataclasses.replace(shape, visual=visual)
            entries += run(own, cases, rounds, bar=bar, device=options.device, deadline=deadline)
            if on_card:
                torch.cuda.empty_cache()
    if on_card:
        facts["clocks_after"] = clocks()
    record, target = {"facts": facts, "cases": entries}, target_of(options, facts)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(record, indent=1) + "\n")
    target.with_suffix(".md").write_text(model_table.markdown(record))
    print(model_table.plain(record))
    print(f"\nWritten: {target}, and beside it .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
