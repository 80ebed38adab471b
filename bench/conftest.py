"""Lets ``pytest bench`` choose its cases, and puts the facts of the machine into pytest-benchmark's JSON."""

from __future__ import annotations

import pytest

from .cases import IMPLEMENTATIONS, OPERATORS, SIZES, WIDTHS, Case, passes
from .record import machine_facts


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--bench-ops``, ``--bench-n`` and ``--bench-dk``, each a list with commas."""
    group = parser.getgroup("bench", "operators and sizes to benchmark")
    for name, default in (("ops", OPERATORS), ("n", SIZES), ("dk", WIDTHS)):
        group.addoption(
            f"--bench-{name}", default=",".join(map(str, default)), metavar="A,B", help="default: %(default)s"
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every case, and within a case the implementations in turns, so that a slow minute slows all of them."""
    if "implementation" not in metafunc.fixturenames:
        return

    def chosen(name: str) -> list[str]:
        return metafunc.config.getoption(f"--bench-{name}").split(",")

    cases = [Case(op, int(n), int(dk)) for n in chosen("n") for dk in chosen("dk") for op in chosen("ops")]
    turns = [(case, turn, one) for case in cases for turn in range(passes(case)) for one in IMPLEMENTATIONS]
    names = [f"{case.op}-{case.n}-{case.dk}-{one.label.replace(' ', '-')}-{turn}" for case, turn, one in turns]
    metafunc.parametrize(("case", "turn", "implementation"), turns, ids=names)


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """Beside what pytest-benchmark notes: what the figures of this project depend on."""
    machine_info["pact_ext"] = machine_facts()
