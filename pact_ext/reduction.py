"""pact_ext.reduce, and reduce_packed: one call from the tensors of a decoder layer to the reduced tokens."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from . import ops
from .config import PactConfig
from .reference import kept_count, largest, log_sizes, merged_position_ids, segment_mean


@dataclass(frozen=True)
class Reduction:
    """The reduced tokens of one sequence: n_in visual tokens became n_out.

    Attributes:
        merged: ``[n_out, d]``, hidden states of the merged tokens, in the dtype of the input.
        sizes: ``[n_out]`` int64, how many tokens each stands for.
        log_sizes: ``[n_out]`` float32, log(sizes): what proportional attention adds to the logits (eq. 11).
        centers: ``[n_out]`` int64, ascending token index of each cluster's centre: its place in the sequence.
        labels: ``[n_in]`` int64, the merged token each token went into; -1 when it was discarded.
        position_ids: the centres' position ids, ``[n_out]`` or ``[3, n_out]``; None when none were given.
    """

    merged: Tensor
    sizes: Tensor
    log_sizes: Tensor
    centers: Tensor
    labels: Tensor
    position_ids: Tensor | None

    @property
    def n_in(self) -> int:
        """Tokens before."""
        return self.labels.shape[0]

    @property
    def n_out(self) -> int:
        """Tokens after."""
        return self.centers.shape[0]

    @property
    def reduction_ratio(self) -> float:
        """Share of the tokens that is gone, 1 - n_out / n_in, as the paper counts it."""
        return 1 - self.n_out / self.n_in


def reduce(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    *,
    position_ids: Tensor | None = None,
    cluster_keys: Tensor | None = None,
    scores: Tensor | None = None,
    config: PactConfig | str = "llava-onevision-7b",
    count: int | None = None,
) -> Reduction:
    """Reduce the visual tokens of one sequence with PACT (algorithm 3 of the paper).

    Args:
        hidden: ``[n, d]`` hidden states at the reduction layer; float32, float16 or bfloat16. A float64 one, with keys
            and queries to match, is reduced as its float32 rounding says and merged in float64: for checking a
            model, not for speed.
        keys: ``[n, Hk, dh]`` or ``[n, Hk * dh]``, the layer's keys before rotary embedding.
        queries: ``[n, Hq, dh]`` or ``[n, Hq * dh]``, its queries before rotary embedding.
        position_ids: ``[n]``, or ``[3, n]`` for multimodal RoPE; merged tokens take their centre's.
        cluster_keys: the keys after rotary embedding, which the clustering compares; default `keys`.
        scores: float32 ``[n]``, another importance measure in place of EUTI.
        config: a `PactConfig`, or the name of a preset.
        count: how many tokens are left, n at most, by the method of `pact_ext.ops.reduce_to`; of a config that only
            prunes, the `count` most important ones. None, as published, leaves the number to the data.

    Returns:
        A `Reduction`.

    Raises:
        ValueError: an invalid config, or position_ids that do not fit.
        RuntimeError: invalid tensors; the message names the operator, the argument, and what was expected.
    """
    config = PactConfig.coerce(config)
    _check_position_ids("reduce", position_ids, hidden)
    tensors = _operands(hidden, keys, queries, cluster_keys)
    if config.cluster:
        budget = () if count is None else (count,)
        found = (ops.reduce if count is None else ops.reduce_to)(*tensors, *budget, **_numbers(config), scores=scores)
        found = _merged(config, hidden, *found)
    else:
        if scores is None:
            scores = ops.euti_scores(*tensors[:3], config.scale)
        found = _pruned(hidden, scores, config, count)
    return _reduction(*found, position_ids)


def reduce_packed(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cu_seqlens: Tensor,
    *,
    position_ids: Tensor | None = None,
    cluster_keys: Tensor | None = None,
    scores: Tensor | None = None,
    config: PactConfig | str = "llava-onevision-7b",
    counts: Tensor | None = None,
) -> list[Reduction]:
    """`reduce` of several sequences in one call: on CUDA with one wait for all, and with `counts` none.

    Args:
        hidden, keys, queries, position_ids, cluster_keys, scores, config: as in `reduce`, the sequences one behind the
            other.
        cu_seqlens: int32 ``[B + 1]`` on the CPU: sequence b is the rows [cu_seqlens[b], cu_seqlens[b + 1]), or none.
        counts: int32 ``[B]`` on the CPU, the `count` of each.

    Returns:
        A `Reduction` of each, with the bits of `reduce`.

    Raises:
        As `reduce`.
    """
    config = PactConfig.coerce(config)
    _check_position_ids("reduce_packed", position_ids, hidden)
    tensors = _operands(hidden, keys, queries, cluster_keys)
    if config.cluster:
        budget = () if counts is None else (counts,)
        op = ops.reduce_packed if counts is None else ops.reduce_to_packed
        *found, cu_centers = op(*tensors, cu_seqlens, *budget, **_numbers(config), scores=scores)
        found = _apart(cu_seqlens, cu_centers, *_merged(config, hidden, *found))
    else:
        if scores is None:
            scores = ops.euti_scores_packed(*tensors[:3], cu_seqlens, config.scale)
        budgets = [None] * (len(cu_seqlens) - 1) if counts is None else counts.tolist()
        found = [
            _pruned(hidden[begin:end], scores[begin:end], config, count)
            for (begin, end), count in zip(pairwise(cu_seqlens.tolist()), budgets, strict=True)
        ]
    ids = [None if position_ids is None else position_ids[..., slice(*span)] for span in pairwise(cu_seqlens.tolist())]
    return [_reduction(*one, own) for one, own in zip(found, ids, strict=True)]


def _check_position_ids(function: str, position_ids: Tensor | None, hidden: Tensor) -> None:
    if position_ids is not None and position_ids.shape not in (hidden.shape[:1], (3, *hidden.shape[:1])):
        raise ValueError(
            f"pact_ext.{function}: position_ids must be [n] or [3, n] for hidden {list(hidden.shape)}, "
            f"got {list(position_ids.shape)}"
        )


def _operands(hidden: Tensor, keys: Tensor, queries: Tensor, cluster_keys: Tensor | None) -> list[Tensor]:
    """What the operators take, which know no float64."""
    tensors = [hidden, keys, queries, keys if cluster_keys is None else cluster_keys]
    return [x.float() for x in tensors] if hidden.dtype == torch.float64 else tensors


def _numbers(config: PactConfig) -> dict:
    return {
        "prune_ratio": config.prune_ratio if config.prune else 0.0,
        "dc": config.dc,
        "dn": config.dn,
        "alpha": config.alpha if config.recover else 0.0,
        "scale": config.scale,
        "gaussian": config.gaussian,
    }


def _merged(
    config: PactConfig, hidden: Tensor, merged: Tensor, sizes: Tensor, centers: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merged as the config says, and in the dtype of `hidden`."""
    if not config.merge:
        merged = hidden[centers]
    elif merged.dtype != hidden.dtype:
        merged, _ = segment_mean(hidden, labels, centers.shape[0])
    return merged, sizes, centers, labels


def _pruned(
    hidden: Tensor, scores: Tensor, config: PactConfig, count: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of a config that only prunes."""
    n = scores.shape[0]
    kept = largest(scores, (kept_count(n, config.prune_ratio) if n else 0) if count is None else count)
    labels = torch.full_like(scores, -1, dtype=torch.int64)
    labels[kept] = torch.arange(kept.shape[0], device=kept.device)
    return hidden[kept], torch.ones_like(kept), kept, labels


def _apart(cu_seqlens: Tensor, cu_centers: Tensor, merged: Tensor, sizes: Tensor, centers: Tensor, labels: Tensor):
    """The sequences of a packed result, each in its own numbering."""
    for (begin, end), (first, last) in zip(pairwise(cu_seqlens.tolist()), pairwise(cu_centers.tolist()), strict=True):
        own = labels[begin:end]
        yield merged[first:last], sizes[first:last], centers[first:last] - begin, torch.where(own < 0, -1, own - first)


def _reduction(
    merged: Tensor, sizes: Tensor, centers: Tensor, labels: Tensor, position_ids: Tensor | None
) -> Reduction:
    return Reduction(
        merged=merged,
        sizes=sizes,
        log_sizes=log_sizes(sizes),
        centers=centers,
        labels=labels,
        position_ids=None if position_ids is None else merged_position_ids(position_ids, centers),
    )
