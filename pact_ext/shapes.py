"""Shape functions: what the operators return for tensors without data, under torch.compile, torch.export and on meta.

They raise for what the host can see in the words of csrc/arguments.h, so that a call fails alike on every device. A
size or number that a compiler knows only as a symbol passes, without a guard: the operator itself sees it later.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.library import get_ctx, register_fake

FLOATING = (torch.float32, torch.float16, torch.bfloat16)
MOST = 2**31 - 1
LARGEST = torch.finfo(torch.float32).max
WHOLE = ("num_segments", "count", "first", "capacity")  # numbers that are integers


def fails(condition) -> bool:
    """Whether the condition is known to be false."""
    if isinstance(condition, bool):
        return not condition
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # slow to import, and not needed eagerly

    return statically_known_true(torch.sym_not(condition))


def in_words(value) -> str:
    """A number, dtype or shape as C++ writes it."""
    if isinstance(value, torch.Size):
        return f"[{', '.join(map(str, value))}]"
    if isinstance(value, float):
        return next((short for p in range(6, 18) if float(short := f"{value:.{p}g}") == value), "nan")
    return str(value).removeprefix("torch.")


class Argument(NamedTuple):
    """One argument of one operator, and its checks."""

    op: str
    name: str
    value: Tensor | float | int | None

    def fail(self, wanted: str, got) -> NoReturn:
        raise RuntimeError(f"pact::{self.op}: {self.name} must {wanted}, got {in_words(got)}")

    def check_number(self, wanted: str, *conditions) -> None:
        if any(map(fails, conditions)):
            self.fail(f"be {wanted}", self.value if self.name in WHOLE else float(self.value))

    def check_dtype(self, wanted: str, *dtypes: torch.dtype) -> None:
        if self.value is None:
            self.fail("be a tensor", None)
        if self.value.dtype not in dtypes:
            self.fail(f"be {wanted}", self.value.dtype)

    def check_floating(self) -> None:
        self.check_dtype("float32, float16 or bfloat16", *FLOATING)

    def check_shape(self, wanted: str, *ranks: int) -> None:
        shape = self.value.shape
        if len(shape) not in ranks:
            self.fail(f"be {wanted}", shape)
        # Of several sequences, some may have no rows, and so all.
        if any(fails(size != 0) for size in (shape[1:] if self.op.endswith(("_packed", "_padded")) else shape)):
            raise RuntimeError(f"pact::{self.op}: {self.name} must not be empty, got {in_words(shape)}")
        if fails(shape[0] <= MOST):
            self.fail("have fewer than 2^31 rows", shape)

    def check_keys(self) -> None:
        self.check_floating()
        self.check_shape("[n, dk] or [n, Hk, dh]", 2, 3)

    def check_beside(self, other: Argument, dtype: bool = False, rows: bool = True) -> None:
        """The device of `other`, and its dtype and rows when asked for."""
        ours, theirs = self.value, other.value
        if ours.device != theirs.device:
            self.fail(f"be on the device of {other.name}, {theirs.device}", ours.device)
        if dtype and ours.dtype != theirs.dtype:
            self.fail(f"have the dtype of {other.name}, {in_words(theirs.dtype)}", ours.dtype)
        if rows and fails(ours.shape[0] == theirs.shape[0]):
            self.fail(f"have as many rows as {other.name}, {theirs.shape[0]}", ours.shape)


def check_per_token(argument: Argument, other: Argument) -> None:
    """A float32 number per token."""
    argument.check_dtype("float32", torch.float32)
    argument.check_shape("[n]", 1)
    argument.check_beside(other)


def check_count(op: str, count: int, keys: Tensor) -> None:
    if fails(count >= 1) or fails(count <= keys.shape[0]):
        Argument(op, "count", count).fail(f"be at least 1 and at most the rows of keys, {keys.shape[0]}", count)


def check_cutoff(op: str, dc: float) -> None:
    Argument(op, "dc", dc).check_number(">= 0", dc >= 0)


def check_normalisation(op: str, dn: float) -> None:
    Argument(op, "dn", dn).check_number("> 0 and finite", dn > 0, dn < math.inf)


def check_scale(op: str, scale: float | None) -> None:
    if scale is not None:
        Argument(op, "scale", scale).check_number("finite in float32", scale >= -LARGEST, scale <= LARGEST)


def check_heads(keys: Argument, queries: Argument) -> None:
    keys.check_keys()
    queries.check_floating()
    queries.check_shape("[n, Hq * dh] or [n, Hq, dh]", 2, 3)
    k, q = keys.value.shape[1:], queries.value.shape[1:]
    key_width, query_width = math.prod(k), math.prod(q)
    size = k[1] if len(k) == 2 else q[1] if len(q) == 2 else key_width
    if len(q) == 2 and fails(q[1] == size):
        queries.fail(f"have the head size of keys, {size}", queries.value.shape)
    heads = all(isinstance(width, int) for width in (size, key_width, query_width))
    if heads and (key_width % size or query_width % size or query_width // size % (key_width // size)):
        shape = in_words(keys.value.shape)
        wanted = f"have a whole multiple of the heads of keys, heads of {size} for keys {shape}"
        queries.fail(wanted, queries.value.shape)


def check_importance(op: str, hidden: Tensor, keys: Tensor, queries: Tensor) -> Argument:
    h, k, q = Argument(op, "hidden", hidden), Argument(op, "keys", keys), Argument(op, "queries", queries)
    h.check_floating()
    h.check_shape("[n, d]", 2)
    check_heads(k, q)
    for other in (k, q):
        other.check_beside(h, dtype=True)
    return h


def check_sequences(op: str, cu_seqlens: Tensor, rows: Tensor) -> None:
    """Where each sequence begins, and where the last ends: on the host, if the rows are anywhere."""
    bounds = Argument(op, "cu_seqlens", cu_seqlens)
    bounds.check_dtype("int32", torch.int32)
    if cu_seqlens.ndim != 1 or fails(cu_seqlens.shape[0] >= 1):
        bounds.fail("be [B + 1]", cu_seqlens.shape)
    check_on_host(bounds, rows)


def check_on_host(numbers: Argument, rows: Tensor) -> None:
    if not (numbers.value.is_cpu or rows.is_meta):
        numbers.fail("be on the CPU, which sizes the results by it", numbers.value.device)


def euti_scores(hidden, keys, queries, scale=None, op="euti_scores"):
    check_importance(op, hidden, keys, queries)
    check_scale(op, scale)
    return hidden.new_empty(hidden.shape[0], dtype=torch.float32)


def density(keys, dn, *, gaussian=False):
    Argument("density", "keys", keys).check_keys()
    check_normalisation("density", dn)
    return keys.new_empty(keys.shape[0], dtype=torch.float32)


def check_dbdpc(op: str, keys: Tensor, dc: float, dn: float) -> None:
    Argument(op, "keys", keys).check_keys()
    check_cutoff(op, dc)
    check_normalisation(op, dn)


def clustered(keys):
    return keys.new_empty(new_size(), dtype=torch.int64), keys.new_empty(keys.shape[0], dtype=torch.int64)


def dbdpc(keys, dc, dn, *, gaussian=False):
    check_dbdpc("dbdpc", keys, dc, dn)
    return clustered(keys)


def assign(keys, centers, max_distance):
    k, c = Argument("assign", "keys", keys), Argument("assign", "centers", centers)
    k.check_keys()
    c.check_dtype("int64", torch.int64)
    c.check_shape("[c]", 1)
    c.check_beside(k, rows=False)
    Argument("assign", "max_distance", max_distance).check_number("a number", max_distance == max_distance)
    n = keys.shape[0]
    return keys.new_empty(n, dtype=torch.int64), keys.new_empty(n, dtype=torch.float32)


def segment_mean(x, labels, num_segments):
    rows, label = Argument("segment_mean", "x", x), Argument("segment_mean", "labels", labels)
    rows.check_floating()
    rows.check_shape("[n, d]", 2)
    label.check_dtype("int64", torch.int64)
    label.check_shape("[n]", 1)
    label.check_beside(rows)
    segments = Argument("segment_mean", "num_segments", num_segments)
    segments.check_number("in [1, 2^31)", num_segments >= 1, num_segments <= MOST)
    return x.new_empty(num_segments, x.shape[1]), labels.new_empty(num_segments)


def max_distance(keys):
    Argument("max_distance", "keys", keys).check_keys()
    return keys.new_empty((), dtype=torch.float32)


def check_reduce(op, hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale):
    h = check_importance(op, hidden, keys, queries)
    clustered = Argument(op, "cluster_keys", cluster_keys)
    clustered.check_keys()
    clustered.check_beside(h, dtype=True)
    Argument(op, "prune_ratio", prune_ratio).check_number("in [0, 1]", prune_ratio >= 0, prune_ratio <= 1)
    check_cutoff(op, dc)
    check_normalisation(op, dn)
    Argument(op, "alpha", alpha).check_number(">= 0 and finite", alpha >= 0, alpha < math.inf)
    check_scale(op, scale)
    if scores is not None:
        check_per_token(Argument(op, "scores", scores), h)


def reduced(hidden, count):
    return (
        hidden.new_empty(count, hidden.shape[1]),
        hidden.new_empty(count, dtype=torch.int64),
        hidden.new_empty(count, dtype=torch.int64),
        hidden.new_empty(hidden.shape[0], dtype=torch.int64),
    )


def reduce(hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, *, scores=None, scale=None, gaussian=False):
    check_reduce("reduce", hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale)
    return reduced(hidden, new_size())


def reduce_to(
    hidden, keys, queries, cluster_keys, count, prune_ratio, dc, dn, alpha, *, scores=None, scale=None, gaussian=False
):
    check_reduce("reduce_to", hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale)
    Argument("reduce_to", "count", count).check_number("in [1, 2^31)", count >= 1, count <= MOST)
    return reduced(hidden, torch.sym_min(count, hidden.shape[0]))


def received_attention(queries, keys, *, rows=None, first=None, causal=True, scale=None):
    op = "received_attention"
    q, k = Argument(op, "queries", queries), Argument(op, "keys", keys)
    q.check_floating()
    check_heads(k, q)
    k.check_beside(q, dtype=True, rows=False)
    if rows is not None:
        r = Argument(op, "rows", rows)
        r.check_dtype("int64", torch.int64)
        r.check_shape("[r]", 1)
        r.check_beside(q, rows=False)
    if first is not None:
        Argument(op, "first", first).check_number("in [0, 2^31)", first >= 0, first <= MOST)
    elif causal and fails(queries.shape[0] <= keys.shape[0]):
        wanted = f"have at most as many rows as keys, {keys.shape[0]}, when `first` does not place them"
        q.fail(wanted, queries.shape)
    check_scale(op, scale)
    return keys.new_empty(keys.shape[0], dtype=torch.float32)


def nearest_denser(keys, density):
    k = Argument("nearest_denser", "keys", keys)
    k.check_keys()
    check_per_token(Argument("nearest_denser", "density", density), k)
    n = keys.shape[0]
    return keys.new_empty(n, dtype=torch.float32), keys.new_empty(n, dtype=torch.int64)


def farthest_points(keys, count, *, first=None):
    op = "farthest_points"
    Argument(op, "keys", keys).check_keys()
    check_count(op, count, keys)
    n = keys.shape[0]
    if first is not None and (fails(first >= 0) or fails(first < n)):
        Argument(op, "first", first).fail(f"be a row of keys, in [0, {n})", first)
    return keys.new_empty(count, dtype=torch.int64)


def dpp_select(keys, relevance, count):
    k = Argument("dpp_select", "keys", keys)
    k.check_keys()
    check_per_token(Argument("dpp_select", "relevance", relevance), k)
    check_count("dpp_select", count, keys)
    return keys.new_empty(count, dtype=torch.int64)


# --- Packed sequences ------------------------------------------------------------------------------------------------


def euti_scores_packed(hidden, keys, queries, cu_seqlens, scale=None):
    scores = euti_scores(hidden, keys, queries, scale, "euti_scores_packed")
    check_sequences("euti_scores_packed", cu_seqlens, hidden)
    return scores


def dbdpc_packed(keys, cu_seqlens, dc, dn, *, gaussian=False):
    check_dbdpc("dbdpc_packed", keys, dc, dn)
    check_sequences("dbdpc_packed", cu_seqlens, keys)
    return *clustered(keys), torch.empty_like(cu_seqlens)


def reduce_packed(
    hidden,
    keys,
    queries,
    cluster_keys,
    cu_seqlens,
    prune_ratio,
    dc,
    dn,
    alpha,
    *,
    scores=None,
    scale=None,
    gaussian=False,
):
    op = "reduce_packed"
    check_reduce(op, hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale)
    check_sequences(op, cu_seqlens, hidden)
    return *reduced(hidden, new_size()), torch.empty_like(cu_seqlens)


def reduce_to_packed(
    hidden,
    keys,
    queries,
    cluster_keys,
    cu_seqlens,
    counts,
    prune_ratio,
    dc,
    dn,
    alpha,
    *,
    scores=None,
    scale=None,
    gaussian=False,
):
    op, number = "reduce_to_packed", Argument("reduce_to_packed", "counts", counts)
    check_reduce(op, hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale)
    check_sequences(op, cu_seqlens, hidden)
    number.check_dtype("int32", torch.int32)
    if counts.ndim != 1:
        number.fail("be [B]", counts.shape)
    sequences = cu_seqlens.shape[0] - 1
    if fails(counts.shape[0] == sequences):
        number.fail(f"have as many numbers as there are sequences in cu_seqlens, {sequences}", counts.shape)
    check_on_host(number, hidden)
    return *reduced(hidden, new_size()), torch.empty_like(cu_seqlens)


def reduce_padded(
    hidden,
    keys,
    queries,
    cluster_keys,
    cu_seqlens,
    capacity,
    prune_ratio,
    dc,
    dn,
    alpha,
    *,
    scores=None,
    scale=None,
    gaussian=False,
):
    op = "reduce_padded"
    check_reduce(op, hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale)
    check_sequences(op, cu_seqlens, hidden)
    sequences = cu_seqlens.shape[0] - 1
    if fails(capacity >= 1) or fails(capacity * torch.sym_max(1, sequences) <= MOST):
        most = MOST // max(1, sequences)
        Argument(op, "capacity", capacity).fail(f"be in [1, {most}] for {sequences} sequences", capacity)
    whole = partial(hidden.new_empty, dtype=torch.int64)
    return (
        hidden.new_empty(sequences, capacity, hidden.shape[1]),
        whole((sequences, capacity)),
        whole((sequences, capacity)),
        whole(hidden.shape[0]),
        hidden.new_empty(sequences, dtype=torch.int32),
    )


def new_size():
    """How many centers there are is known only from the data: an unbacked symbolic size."""
    return get_ctx().new_dynamic_size()


def register() -> None:
    """Hand them to torch, once the operators are loaded."""
    for function in (
        *(euti_scores, density, dbdpc, assign, segment_mean, max_distance, reduce, reduce_to),
        *(received_attention, nearest_denser, farthest_points, dpp_select),
        *(euti_scores_packed, dbdpc_packed, reduce_packed, reduce_to_packed, reduce_padded),
    ):
        register_fake(f"pact::{function.__name__}", function)
