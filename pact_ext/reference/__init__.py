"""The operators in plain PyTorch: the oracle that every backend is checked against.

Speed is no concern here, clarity is: full n x n matrices and sequential loops. float16, bfloat16 and float32 inputs are
computed in float32; float64 inputs in float64. Nothing here imports anything else of this package.

Shapes: n visual tokens, d hidden size, Hq query heads, Hk key/value heads (Hq a multiple of Hk), dh head size,
dk = Hk * dh. Keys are ``[n, dk]`` or ``[n, Hk, dh]`` throughout.
"""

from .attention import received_attention
from .budget import reduce_to
from .packed import dbdpc_packed, euti_scores_packed, number_through, reduce_packed, reduce_padded, reduce_to_packed
from .pact import (
    assign,
    dbdpc,
    density,
    density_from_distance,
    euti_scores,
    kept_count,
    largest,
    log_sizes,
    max_distance,
    merged_position_ids,
    nearest_center,
    pairwise_distance,
    reduce,
    segment_mean,
    select_centers,
    split,
)
from .selection import dpp_select, farthest_points, nearest_denser

__all__ = [
    "assign",
    "dbdpc",
    "dbdpc_packed",
    "density",
    "density_from_distance",
    "dpp_select",
    "euti_scores",
    "euti_scores_packed",
    "farthest_points",
    "kept_count",
    "largest",
    "log_sizes",
    "max_distance",
    "merged_position_ids",
    "nearest_center",
    "nearest_denser",
    "number_through",
    "pairwise_distance",
    "received_attention",
    "reduce",
    "reduce_packed",
    "reduce_padded",
    "reduce_to",
    "reduce_to_packed",
    "segment_mean",
    "select_centers",
    "split",
]
