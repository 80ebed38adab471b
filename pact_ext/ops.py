"""The operators of torch.ops.pact, typed and documented.

Shapes: n visual tokens, d hidden size, Hq query heads, Hk key/value heads (Hq a multiple of Hk), dh head size,
dk = Hk * dh. Keys are ``[n, dk]`` or ``[n, Hk, dh]``. Tensors may be float32, float16 or bfloat16 and have any
strides; sums and distances are float32 or better whatever the dtype. Nothing is differentiable: reduction is an
inference-time step.

Every operator raises RuntimeError on bad input, naming the operator, the argument, what was expected and what it
got: wrong rank, sizes that do not agree, an unsupported dtype, tensors on different devices, an empty input, a
scalar out of range, and on the CPU also NaN, Inf, or an index out of range in the data. Memory that runs out is a
RuntimeError that names the operator and the allocation; on CUDA a torch.OutOfMemoryError, which `torch.ops.pact`
itself, behind an interface without types of exception, has to raise as RuntimeError.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import _library, shapes

_library.load()
shapes.register()
_ops = torch.ops.pact


def _call(op, *args, **kwargs):
    """The operator's results. Of exceptions, only RuntimeError comes through torch's stable ABI."""
    try:
        return op(*args, **kwargs)
    except RuntimeError as error:
        if "CUDA out of memory" in str(error):
            raise torch.OutOfMemoryError(str(error)) from None
        raise


def euti_scores(hidden: Tensor, keys: Tensor, queries: Tensor, scale: float | None = None) -> Tensor:
    """Importance of each token: Efficient Unimportant Tokens Identification, eq. 1 and 2 of the paper.

        s[i] = ||h[i]||_2 * mean over heads j of softmax over tokens i of (scale * <K[i, j // (Hq/Hk)], mean(Q[:, j])>)

    Args:
        hidden: ``[n, d]`` hidden states.
        keys: ``[n, Hk, dh]`` keys before rotary embedding. Two-dimensional keys and queries are one head, or take
            the head size of the other when that is three-dimensional.
        queries: ``[n, Hq, dh]`` queries before rotary embedding.
        scale: factor of the logits; None is 1/sqrt(dh), as in the published code; the paper's equation has 1.0.

    Returns:
        Scores, float32 ``[n]``, all >= 0.
    """
    return _call(_ops.euti_scores, hidden, keys, queries, scale)


def density(keys: Tensor, dn: float, *, gaussian: bool = False) -> Tensor:
    """Local density of each token, eq. 6: the sum over all tokens j, itself included, of exp(-dist[i, j] / dn).

    dist is the cosine distance, eq. 5. The terms are summed exactly (each rounded to a multiple of 2^-32), so the
    result depends neither on the order of the tokens nor on the number of threads.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
        dn: normalisation, > 0.
        gaussian: exp(-(dist/dn)^2) instead, as in the published code.

    Returns:
        Density, float32 ``[n]``, in [1, n].
    """
    return _call(_ops.density, keys, dn, gaussian=gaussian)


def dbdpc(keys: Tensor, dc: float, dn: float, *, gaussian: bool = False) -> tuple[Tensor, Tensor]:
    """Distance-Bounded Density-Peak Clustering, algorithm 2 of the paper.

    Walking the tokens by `density` descending, then index ascending, a token becomes a centre when it is farther
    than dc from every centre so far; then each token joins its nearest centre (on a tie, the lower token index).
    Centres are pairwise more than dc apart, and every token is within dc of its own.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``, usually after rotary embedding.
        dc: cutoff, cosine distance, >= 0.
        dn: normalisation of the density, > 0.
        gaussian: density exp(-(dist/dn)^2) instead of exp(-dist/dn).

    Returns:
        centers: int64 ``[c]``, ascending token indices.
        labels: int64 ``[n]``, a position in `centers` for each token.
    """
    return _call(_ops.dbdpc, keys, dc, dn, gaussian=gaussian)


def assign(keys: Tensor, centers: Tensor, max_distance: float) -> tuple[Tensor, Tensor]:
    """Nearest centre of every token, by cosine distance; on a tie the centre with the lower token index.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
        centers: int64 ``[c]``, token indices in [0, n).
        max_distance: a token at this distance or beyond gets label -1; infinity for no limit.

    Returns:
        labels: int64 ``[n]``, a position in `centers`, or -1.
        distances: float32 ``[n]``, the distance to the nearest centre, whatever the label.
    """
    return _call(_ops.assign, keys, centers, max_distance)


def segment_mean(x: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Mean of the rows of each segment, eq. 10: float32 sums in ascending row index, rounded once.

    Args:
        x: ``[n, d]`` rows.
        labels: int64 ``[n]``, a segment in [0, num_segments) for each row, or -1 for none.
        num_segments: number of segments, >= 1.

    Returns:
        means: ``[num_segments, d]`` in the dtype of x; zeros for a segment without rows.
        counts: int64 ``[num_segments]``.
    """
    return _call(_ops.segment_mean, x, labels, num_segments)


def max_distance(keys: Tensor) -> Tensor:
    """The largest cosine distance between two tokens, a float32 scalar in [0, 2]: how spread a layer's keys are.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
    """
    return _call(_ops.max_distance, keys)


def reduce(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PACT, algorithm 3 of the paper: split by importance, cluster the kept tokens, recover, merge.

    Keeps the n - ceil(prune_ratio * (n - 1)) tokens with the largest score (ties: lower index), clusters them with
    `dbdpc`, lets each dropped token join its nearest centre when that is nearer than alpha * dc, and averages the
    hidden states of each cluster. No n x n float array is ever made.

    Args:
        hidden: ``[n, d]`` hidden states.
        keys, queries: as in `euti_scores`, before rotary embedding.
        cluster_keys: ``[n, dk]`` or ``[n, Hk, dh]``, what the clustering compares: keys after rotary embedding.
        prune_ratio: in [0, 1].
        dc, dn, gaussian: as in `dbdpc`.
        alpha: recovery factor, >= 0; 0 recovers nothing.
        scores: float32 ``[n]``, another importance measure in place of EUTI.
        scale: as in `euti_scores`.

    Returns:
        merged: ``[c, d]`` in the dtype of hidden.
        sizes: int64 ``[c]``, members of each cluster, recovered ones included.
        centers: int64 ``[c]``, ascending token indices.
        labels: int64 ``[n]``, a position in `centers`, or -1 for a discarded token.
    """
    return _call(
        _ops.reduce,
        hidden,
        keys,
        queries,
        cluster_keys,
        prune_ratio,
        dc,
        dn,
        alpha,
        scores=scores,
        scale=scale,
        gaussian=gaussian,
    )


def reduce_to(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    count: int,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PACT with an exact budget: `reduce` to K = min(n, count) tokens. Ours, not the published method.

    Shapes are known beforehand, and on CUDA nothing is read back: it can be captured in a graph. The importance split
    keeps at least K tokens. With C centres found: when C > K, the K with the largest clusters stay (ties: higher
    density, then lower index), and the others' members join the nearest that stays, dropped tokens only when nearer
    than alpha * dc; when C < K, the K - C kept tokens farthest from their own centre (ties: lower index) become
    centres, and kept tokens choose their nearest anew; when C = K it is `reduce`. K = n returns every token.

    Args:
        count: tokens wanted, >= 1.
        hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale, gaussian: as in `reduce`.

    Returns:
        merged ``[K, d]``, sizes ``[K]``, centers ``[K]``, labels ``[n]``: as those of `reduce`.
    """
    return _call(
        _ops.reduce_to,
        hidden,
        keys,
        queries,
        cluster_keys,
        count,
        prune_ratio,
        dc,
        dn,
        alpha,
        scores=scores,
        scale=scale,
        gaussian=gaussian,
    )


def received_attention(
    queries: Tensor,
    keys: Tensor,
    *,
    rows: Tensor | None = None,
    first: int | None = None,
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """What each key receives: softmax attention averaged over heads and over the chosen query rows.

    The matrix of weights is never made. One row, FastV's last or a tower's CLS token, is one pass over the keys.

    Args:
        queries: ``[q, Hq, dh]``, as attention sees them (after rotary embedding, in a decoder).
        keys: ``[n, Hk, dh]``. Two-dimensional keys and queries are one head, or take the head size of the other.
        rows: int64 ``[r]``, indices of queries, in any order, each counted as often as it comes; None is all of them.
        first: place of the first query among the keys: query i stands at place first + i. None: n - q, so that the last
            stands beside the last key.
        causal: a query sees the keys up to its own place only.
        scale: factor of the logits; None is 1/sqrt(dh). Logits beyond float32 count as its largest number; on CUDA,
            where products are summed in float32, one whose terms alone are beyond may be NaN, and all of its row.

    Returns:
        float32 ``[n]``, all >= 0, of sum 1.
    """
    return _call(_ops.received_attention, queries, keys, rows=rows, first=first, causal=causal, scale=scale)


def nearest_denser(keys: Tensor, density: Tensor) -> tuple[Tensor, Tensor]:
    """For each token the nearest of those that outrank it by (density descending, index ascending): the delta of
    density-peak clustering (Rodriguez & Laio 2014), by cosine distance.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
        density: float32 ``[n]``, of any sign.

    Returns:
        distances: float32 ``[n]``; of the token that none outranks, the largest of its distances to any token.
        indices: int64 ``[n]``, ties to the lower index; -1 for the token that none outranks.
    """
    return _call(_ops.nearest_denser, keys, density)


def farthest_points(keys: Tensor, count: int, *, first: int | None = None) -> Tensor:
    """Farthest-point selection: always the token whose smallest cosine distance to the chosen is largest, ties to the
    lower index.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
        count: tokens to choose, in [1, n].
        first: the token to start at; None is the lower one of the farthest pair, the lexicographically first of these.

    Returns:
        int64 ``[count]``, token indices in order of choice.
    """
    return _call(_ops.farthest_points, keys, count, first=first)


def dpp_select(keys: Tensor, relevance: Tensor, count: int) -> Tensor:
    """Greedy MAP of a determinantal point process: relevant tokens that differ from each other (Chen et al. 2018).

    The kernel is r_i cos(i, j) r_j with the relevance r. Each step takes the token that multiplies the determinant by
    most, ties to the lower index; once that gain is at most 1e-6 of the first step's, the rest comes by relevance.

    Args:
        keys: ``[n, dk]`` or ``[n, Hk, dh]``.
        relevance: float32 ``[n]``, of any sign (the kernel does not see a common one).
        count: tokens to choose, in [1, n].

    Returns:
        int64 ``[count]``, token indices in order of choice.
    """
    return _call(_ops.dpp_select, keys, relevance, count)


# --- Several sequences in one call, one behind the other, as variable-length attention takes them. Each comes out with
# the bits it has alone. On CUDA the host waits once for all of them, for `reduce_to_packed` and `reduce_padded` never.
#
# cu_seqlens: int32 [B + 1] on the CPU, whatever the device: sequence b is the rows [cu_seqlens[b], cu_seqlens[b + 1]).
# It begins with 0, ends with the number of rows, and a sequence may have none.
# cu_centers: the same of the merged tokens: those of sequence b are [cu_centers[b], cu_centers[b + 1]).


def euti_scores_packed(
    hidden: Tensor, keys: Tensor, queries: Tensor, cu_seqlens: Tensor, scale: float | None = None
) -> Tensor:
    """`euti_scores` of B sequences, each on its own.

    Args:
        hidden, keys, queries, scale: as in `euti_scores`, n the rows of all sequences together.
        cu_seqlens: int32 ``[B + 1]`` on the CPU, where each sequence begins, and where the last ends.

    Returns:
        Scores, float32 ``[n]``.
    """
    return _call(_ops.euti_scores_packed, hidden, keys, queries, cu_seqlens, scale)


def dbdpc_packed(
    keys: Tensor, cu_seqlens: Tensor, dc: float, dn: float, *, gaussian: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`dbdpc` of B sequences, each on its own.

    Args:
        keys, dc, dn, gaussian: as in `dbdpc`, n the rows of all sequences together.
        cu_seqlens: int32 ``[B + 1]`` on the CPU, where each sequence begins, and where the last ends.

    Returns:
        centers: int64 ``[c]``, ascending rows of `keys`.
        labels: int64 ``[n]``, positions in `centers`.
        cu_centers: int32 ``[B + 1]`` on the CPU, where each sequence's centres begin, and where the last ones end.
    """
    return _call(_ops.dbdpc_packed, keys, cu_seqlens, dc, dn, gaussian=gaussian)


def reduce_packed(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce` of B sequences, each on its own: a whole batch in one call, and on CUDA in one wait for the device.

    Args:
        hidden, keys, queries, cluster_keys, prune_ratio, dc, dn, alpha, scores, scale, gaussian: as in `reduce`, n the
            rows of all sequences together.
        cu_seqlens: int32 ``[B + 1]`` on the CPU, where each sequence begins, and where the last ends.

    Returns:
        merged: ``[c, d]`` in the dtype of hidden, the sequences one behind the other.
        sizes: int64 ``[c]``, members of each cluster.
        centers: int64 ``[c]``, ascending rows of `hidden`.
        labels: int64 ``[n]``, a row of `merged`, or -1 for a discarded token.
        cu_centers: int32 ``[B + 1]`` on the CPU, where each sequence's rows of `merged` begin, and where the last end.
    """
    return _call(
        _ops.reduce_packed,
        hidden,
        keys,
        queries,
        cluster_keys,
        cu_seqlens,
        prune_ratio,
        dc,
        dn,
        alpha,
        scores=scores,
        scale=scale,
        gaussian=gaussian,
    )


def reduce_to_packed(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    counts: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce_to` of B sequences, each with a budget of its own.

    Args:
        counts: int32 ``[B]`` on the CPU, tokens wanted of each sequence, >= 1; a shorter sequence keeps all it has.
        hidden, keys, queries, cluster_keys, cu_seqlens, prune_ratio, dc, dn, alpha, scores, scale, gaussian: as in
            `reduce_packed`.

    Returns:
        merged, sizes, centers, labels, cu_centers: as those of `reduce_packed`.
    """
    return _call(
        _ops.reduce_to_packed,
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
        scores=scores,
        scale=scale,
        gaussian=gaussian,
    )


def reduce_padded(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    cu_seqlens: Tensor,
    capacity: int,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`reduce` of B sequences into shapes that do not depend on the data: on CUDA nothing is read back, and a graph can
    hold the call.

    A sequence that `reduce` would leave more than `capacity` tokens is reduced to `capacity` as by `reduce_to`; every
    other has the bits of `reduce`.

    Args:
        hidden, keys, queries, cluster_keys, cu_seqlens, prune_ratio, dc, dn, alpha, scores, scale, gaussian: as in
            `reduce_packed`.
        capacity: rows for each sequence's tokens, in [1, 2^31 / B).

    Returns:
        merged: ``[B, capacity, d]`` in the dtype of hidden; zeros behind the tokens of a sequence.
        sizes: int64 ``[B, capacity]``, members of each cluster; 0 where there is no token.
        centers: int64 ``[B, capacity]``, rows of `hidden`, ascending in each sequence; -1 where there is no token.
        labels: int64 ``[n]``, a row of ``merged.flatten(0, 1)``, or -1 for a discarded token.
        counts: int32 ``[B]`` on the device of hidden, tokens of each sequence.
    """
    return _call(
        _ops.reduce_padded,
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
        scores=scores,
        scale=scale,
        gaussian=gaussian,
    )
