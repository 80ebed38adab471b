"""What the hardware must do at least: the floor of each operator, and how long a 7B model prefills.

Floors are bytes once over the measured copy bandwidth, or operations over the measured rate of a large product in the
dtype of the input. No operator can be faster than its floor without doing less work.
"""

from __future__ import annotations

from dataclasses import dataclass

from pact_ext.reference import kept_count

from .cases import CHOSEN, CONFIG, HEAD_SIZE, ONE_ROW, model_shape

# dk: layers, hidden size, key/value width, feed-forward width
PREFILL_MODELS = {512: ("Qwen2-7B", 28, 3584, 512, 18944), 4096: ("LLaMA-7B", 32, 4096, 4096, 11008)}


@dataclass(frozen=True)
class Rates:
    """What this card was measured to do."""

    bytes_per_second: float
    flops_per_second: dict[str, float]  # by dtype

    def floor(self, work: Work, dtype: str) -> float:
        """Seconds: the stages of a pipeline one after the other, each bound by bytes or by operations."""
        return sum(
            max(moved / self.bytes_per_second, operations / self.flops_per_second[dtype])
            for moved, operations in work.stages
        )


@dataclass(frozen=True)
class Work:
    """Stages of (bytes, operations)."""

    stages: tuple[tuple[float, float], ...]

    @property
    def bytes(self) -> float:
        return sum(stage[0] for stage in self.stages)

    @property
    def operations(self) -> float:
        return sum(stage[1] for stage in self.stages)


def work(op: str, n: int, dk: int, element_size: int, centers: int | None) -> Work:
    """The least work of one call; `centers` as `bench.cases.center_count` gives it."""
    d, query_heads, _ = model_shape(dk)
    query_width = query_heads * (HEAD_SIZE if dk >= HEAD_SIZE else dk)
    c = centers or 0

    importance = ((n * (d + dk + query_width)) * element_size, 0.0)

    def pairs(tokens: int) -> tuple[float, float]:  # symmetric: half of the products
        return tokens * dk * element_size, float(tokens) * tokens * dk

    def nearest(tokens: int) -> tuple[float, float]:
        return (tokens + c) * dk * element_size, 2.0 * tokens * c * dk

    merging = ((n + c) * d * element_size, 0.0)
    if op == "euti_scores":
        return Work((importance,))
    if op in ("density", "max_distance", "dbdpc", "nearest_denser"):
        return Work((pairs(n),))
    if op in ("received_attention", ONE_ROW):
        rows = 1 if op == ONE_ROW else n
        visible = 1.0 if op == ONE_ROW else 0.5  # causal
        return Work((((rows * query_width + n * dk) * element_size, 2.0 * visible * rows * n * query_width),))
    if op in ("farthest_points", "dpp_select"):  # a pass over the keys for each choice
        steps = Work(((n * dk * element_size, 2.0 * n * dk),) * min(n, CHOSEN)).stages
        return Work((pairs(n), *steps) if op == "farthest_points" else steps)
    if op == "assign":
        return Work((nearest(n),))
    if op == "segment_mean":
        return Work((merging,))
    m = kept_count(n, CONFIG.prune_ratio)
    return Work((importance, pairs(m), nearest(n - m), merging))


def prefill_flops(n: int, dk: int) -> float:
    """Operations of the decoder layers of a 7B model over n tokens: matrix products, and causal attention."""
    _, layers, d, kv, feed_forward = PREFILL_MODELS[dk]
    parameters = d * (d + 2 * kv) + d * d + 3 * d * feed_forward
    attention = 2.0 * n * n * d  # QK^T and AV, half of each masked
    return layers * (2.0 * n * parameters + attention)
