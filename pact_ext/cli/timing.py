"""How long each operator takes on the tokens of one photograph."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from torch import Tensor

from .. import ops
from ..config import PactConfig
from ..reduction import Reduction
from .tokens import Tokens

RUNS = 7


def milliseconds(tokens: Tokens, kept: Tensor, reduction: Reduction, config: PactConfig) -> dict[str, float]:
    """Median milliseconds of each operator on its own, and of the whole reduction.

    `dbdpc` computes the density itself, so the stages do not add up to the whole.
    """
    t, r = tokens, reduction
    kept_keys = t.keys[kept]
    density = {"dn": config.dn, "gaussian": config.gaussian}
    parameters = config.prune_ratio, config.dc, config.dn, config.alpha
    calls: dict[str, Callable] = {
        "importance": lambda: ops.euti_scores(t.hidden, t.keys, t.queries, config.scale),
        "density": lambda: ops.density(kept_keys, **density),
        "clustering": lambda: ops.dbdpc(kept_keys, config.dc, **density),
        "assignment": lambda: ops.assign(t.keys, r.centers, config.alpha * config.dc),
        "merging": lambda: ops.segment_mean(t.hidden, r.labels, r.n_out),
        "whole reduce": lambda: ops.reduce(
            t.hidden, t.keys, t.queries, t.keys, *parameters, scale=config.scale, gaussian=config.gaussian
        ),
    }
    return {name: _median(call) for name, call in calls.items()}


def _median(call: Callable) -> float:
    call()  # warms the caches and the thread pool
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
