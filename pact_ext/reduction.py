"""pact_ext.reduce: one call from the tensors of a decoder layer to the reduced tokens."""

from __future__ import annotations

from dataclasses import dataclass

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
    exact = hidden
    if hidden.dtype == torch.float64:
        hidden, keys, queries = hidden.float(), keys.float(), queries.float()
        cluster_keys = None if cluster_keys is None else cluster_keys.float()
    if position_ids is not None:
        wanted = (hidden.shape[:1], (3, *hidden.shape[:1]))
        if position_ids.shape not in wanted:
            raise ValueError(
                f"pact_ext.reduce: position_ids must be [n] or [3, n] for hidden {list(hidden.shape)}, "
                f"got {list(position_ids.shape)}"
            )
    if cluster_keys is None:
        cluster_keys = keys

    if config.cluster:
        budget = () if count is None else (count,)
        merged, sizes, centers, labels = (ops.reduce if count is None else ops.reduce_to)(
            hidden,
            keys,
            queries,
            cluster_keys,
            *budget,
            prune_ratio=config.prune_ratio if config.prune else 0.0,
            dc=config.dc,
            dn=config.dn,
            alpha=config.alpha if config.recover else 0.0,
            scores=scores,
            scale=config.scale,
            gaussian=config.gaussian,
        )
        if not config.merge:
            merged = exact[centers]
        elif exact is not hidden:
            merged, _ = segment_mean(exact, labels, centers.shape[0])
    else:
        if scores is None:
            scores = ops.euti_scores(hidden, keys, queries, config.scale)
        centers = largest(scores, kept_count(len(scores), config.prune_ratio) if count is None else count)
        labels = torch.full_like(scores, -1, dtype=torch.int64)
        labels[centers] = torch.arange(centers.shape[0], device=centers.device)
        merged, sizes = exact[centers], torch.ones_like(centers)

    return Reduction(
        merged=merged,
        sizes=sizes,
        log_sizes=log_sizes(sizes),
        centers=centers,
        labels=labels,
        position_ids=None if position_ids is None else merged_position_ids(position_ids, centers),
    )
