"""The operators under pytest-benchmark, beside the eager reference, the compiled one, and the bare product."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from .cases import Case, Implementation, Inputs, center_count, make_call
from .memory import release_unused

SECONDS_PER_TURN = 0.2
MOST_ROUNDS = 10
LEAST_ROUNDS = {"ours": 3}  # everything else: one round after the warm-up, where a round takes long
WARM_UP_BELOW = 0.1  # seconds; a longer call finds the caches cold whatever ran before it


@lru_cache(maxsize=2)  # the two dtypes of the size at hand
def inputs_of(n: int, dk: int, dtype: torch.dtype) -> Inputs:
    """The inputs that every operator of one size shares."""
    return Inputs(n, dk, dtype)


class Warmed:
    """The calls of one case, each warmed and timed once roughly; kept from turn to turn."""

    def __init__(self, case: Case) -> None:
        torch._dynamo.reset()  # so that each case is compiled for its own shapes, and never past the recompile limit
        release_unused()  # else freed blocks of every size before this one add up to gigabytes
        self.case = case
        self.calls: dict[Implementation, tuple[Callable[[], Any], float]] = {}
        self.failed: set[Implementation] = set()

    def get(self, one: Implementation) -> tuple[Callable[[], Any], float]:
        """The call, and about how many seconds it takes."""
        if one in self.failed:
            pytest.skip("it failed in an earlier turn")
        if one not in self.calls:
            self.failed.add(one)
            call = make_call(self.case.op, one.name, inputs_of(self.case.n, self.case.dk, one.dtype))
            if one.name == "compiled":
                call()  # compiles
            start = time.perf_counter()
            call()
            self.calls[one] = call, time.perf_counter() - start
            self.failed.remove(one)
        return self.calls[one]


@lru_cache(maxsize=1)
def warmed(case: Case) -> Warmed:
    """The case being measured."""
    return Warmed(case)


def test_operator(benchmark: BenchmarkFixture, case: Case, turn: int, implementation: Implementation) -> None:
    """One turn of one implementation; the turns of a case are pooled afterwards."""
    call, seconds = warmed(case).get(implementation)
    rounds = min(MOST_ROUNDS, max(LEAST_ROUNDS.get(implementation.name, 1), math.ceil(SECONDS_PER_TURN / seconds)))
    benchmark.group = f"{case.op} n={case.n} dk={case.dk}"
    result = benchmark.pedantic(call, rounds=rounds, warmup_rounds=int(seconds < WARM_UP_BELOW))
    centers = None
    if implementation.name == "ours":
        centers = center_count(case.op, result, inputs_of(case.n, case.dk, implementation.dtype))
    benchmark.extra_info.update(case._asdict(), turn=turn, implementation=implementation.label, centers=centers)
