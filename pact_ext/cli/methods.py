"""pact-ext methods: what there is to reduce with."""

from __future__ import annotations

import argparse


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "methods",
        help="the methods of reduction, by name",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Lists the methods that --method and pact_ext.apply take by name, at their defaults: where they\n"
        "act in a decoder of 32 layers, what they need besides the hidden states, whether the number\n"
        "of tokens is known beforehand, whether an engine can serve them, and the paper.",
        epilog="example:\n  pact-ext bench-model --random 7b --method fastv:keep=0.25",
    )
    parser.set_defaults(run=lambda arguments: run())


def run() -> str:
    from ..methods import facts

    rows = [("name", "acts at", "needs", "count", "served", "source")]
    rows += [(*fact[:4], "yes" if fact.servable else "no", fact.source) for fact in facts()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
