"""What reduction saves in a whole model on the CPU: prefill, decoding and key-value cache, with and without it.

A LLaVA of middle size with random weights runs as it is and under several configurations of PACT in turn, or under
every method (`--methods`). Prints a table, and writes the record (JSON) and the same table in Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
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
from .method_cases import KEEP, METHOD_CASES
from .model_case import CASES, FULL, QUICK, Case, Shape, build, inputs
from .record import machine_facts, timing_of

HERE = Path(__file__).parent
ROUNDS, QUICK_ROUNDS = 7, 3
DECODED = 8  # tokens after each prefill


def parse(argv: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=first, epilog=rest)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK.visual} visual tokens, {QUICK.layers} layers, few rounds"
    )
    parser.add_argument("--methods", action="store_true", help=f"every method, at {KEEP:.0%} of the visual tokens")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"turns (default: {ROUNDS}, quick: {QUICK_ROUNDS})")
    parser.add_argument("--json", type=Path, metavar="PATH", help="the record (default: in .bench)")
    options = parser.parse_args(argv)
    name = ("methods" if options.methods else "model") + ("-quick" if options.quick else "")
    options.json = options.json or HERE.parent / ".bench" / f"{name}.json"
    return options


def cache_bytes(cache) -> int:
    """Of the keys and values of all layers."""
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


def prefill(model: nn.Module, prompt: dict[str, Tensor]) -> tuple[float, Any]:
    """Seconds from the language model's input to the last token's logits, without the vision tower; the output."""
    started: list[float] = []
    decoder = model.get_decoder()
    hook = decoder.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()), prepend=True)
    with hook:
        output = model(**prompt, use_cache=True, logits_to_keep=1)
    return time.perf_counter() - started[0], output


def decode(model: nn.Module, prompt: dict[str, Tensor], output, tokens: int) -> list[float]:
    """Seconds of each of so many tokens that follow a prefill."""
    mask, seconds = prompt["attention_mask"], []
    for _ in range(tokens):
        mask = torch.cat([mask, mask[:, -1:]], dim=1)
        start = time.perf_counter()
        output = model(
            input_ids=output.logits[:, -1:].argmax(-1),
            attention_mask=mask,
            past_key_values=output.past_key_values,
            use_cache=True,
        )
        seconds.append(time.perf_counter() - start)
    return seconds


@torch.inference_mode()
def run(
    shape: Shape, cases: Sequence[Case] = CASES, rounds: int = ROUNDS, decoded: int = DECODED, bar: tqdm | None = None
) -> list[dict[str, Any]]:
    """Measure the cases in turn, `rounds` times after one that warms up.

    Returns:
        For each case its method, the visual tokens that each layer sees and that are left, the share of operations that
        is left (`ideal`), the bytes of the cache after prefill, and timings of `prefill`, of one `token`, and of
        reducing (`reduce`).
    """
    model = build(shape)
    prompt = inputs(model, shape)
    seconds = [{"prefill": [], "token": [], "reduce": []} for _ in cases]
    found: list[dict[str, Any]] = [{} for _ in cases]
    for turn in range(rounds + 1):
        for number in [(turn + i) % len(cases) for i in range(len(cases))]:  # each is first in its turn
            case = cases[number]
            reduced = contextlib.nullcontext()
            if case.method is not None:
                reduced = pact_ext.apply(model, case.method, attention=case.attention)
            with reduced as handle:
                took, output = prefill(model, prompt)
                held = cache_bytes(output.past_key_values)
                tokens = decode(model, prompt, output, decoded)
            visual = shape.layers * [shape.visual] if handle is None else handle.report().visual_by_layer
            found[number] = {
                "method": None if handle is None else str(handle.method),
                "visual_by_layer": visual,
                "visual_after": visual[-1],
                "ideal": shape.ideal(visual),
                "cache_bytes": held,
            }
            if turn:
                seconds[number]["prefill"].append(took)
                seconds[number]["token"] += tokens
                if handle is not None:
                    seconds[number]["reduce"].append(handle.report().seconds)
            if bar is not None:
                bar.update()
    return [
        {
            "name": case.name,
            "attention": None if case.method is None else case.attention,
            **result,
            "timings": {name: timing_of(values) for name, values in times.items() if values},
        }
        for case, result, times in zip(cases, found, seconds, strict=True)
    ]


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    shape, rounds = (QUICK, QUICK_ROUNDS) if options.quick else (FULL, ROUNDS)
    rounds = options.rounds or rounds
    facts = {**machine_facts(), "transformers": transformers.__version__, "shape": asdict(shape)}
    cases = METHOD_CASES if options.methods else CASES
    total = (rounds + 1) * len(cases)
    with tqdm(total=total, file=sys.stderr, disable=None, leave=False, unit="run") as bar:
        record = {"facts": facts, "cases": run(shape, cases, rounds, bar=bar)}
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(model_table.markdown(record))
    print(model_table.plain(record))
    print(f"\nWritten: {options.json}, and beside it .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
