"""Reducing the visual tokens of every row of a batch at the input of a layer, and closing the gaps they leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..config import PactConfig
from ..reduction import Reduction, reduce
from .cache import pad_left
from .families import Family
from .prompt import Prompt


@dataclass(frozen=True)
class Compaction:
    """A batch ``[B, q, ...]`` after its reduction: ``[B, columns, ...]``, every row padded on the left.

    Attributes:
        source: ``[B, columns]`` int64, the place each column had; 0 for padding.
        hidden: ``[B, columns, d]``, merged tokens at their centres' places.
        log_sizes: ``[B, columns]``, log of the size behind each column; -inf for padding.
        tail: columns after the last visual token of any row.
        plain: nothing was merged or removed, and nothing is padding.
        reductions: one for each row; None for a row without visual tokens.
    """

    source: Tensor
    hidden: Tensor
    log_sizes: Tensor
    tail: int
    plain: bool
    reductions: list[Reduction | None]

    def rotary(self, embedding: Tensor) -> Tensor:
        """Cosines or sines ``[..., 1 or B, q, dh]`` of the columns."""
        rows = embedding.expand(*embedding.shape[:-3], self.source.shape[0], -1, -1)
        index = self.source.to(embedding.device)[..., None].expand(*rows.shape[:-3], -1, -1, rows.shape[-1])
        return rows.gather(-2, index)


def compact(
    prompt: Prompt, hidden: Tensor, cos: Tensor, sin: Tensor, layer: nn.Module, family: Family, config: PactConfig
) -> Compaction:
    """Reduce the visual tokens of `prompt`.

    Args:
        hidden: ``[B, q, d]``, input of `layer`.
        cos, sin: what the decoder hands to its layers.
    """
    cos, sin = cos.to(hidden.device), sin.to(hidden.device)
    rows, reductions = [], []
    for row, groups in enumerate(prompt.visual):
        parts = []
        for places in groups:
            at = places.to(hidden.device)
            # Under autocast the projections come in another dtype than the hidden states.
            keys, queries = (x.to(hidden.dtype) for x in family.keys_and_queries(layer, hidden[row, at]))
            turned = family.rotated(layer, keys, *(x[..., row if x.shape[-3] > 1 else 0, at, :] for x in (cos, sin)))
            ids = prompt.position_ids_of(row, at)
            try:
                part = reduce(hidden[row, at], keys, queries, position_ids=ids, cluster_keys=turned, config=config)
            except RuntimeError as error:
                if keys.isfinite().all():
                    raise
                raise RuntimeError(f"pact_ext: the visual tokens of row {row} are not finite: {error}") from error
            parts.append(part)
        reductions.append(_joined(parts))
        rows.append(_row(prompt, row, hidden[row], reductions[-1]))

    sources, states, log_sizes = zip(*rows, strict=True)
    untouched = all(r is None or r.n_out == r.n_in for r in reductions)
    last = [int(groups[-1][-1]) for groups in prompt.visual if groups]
    return Compaction(
        source=pad_left(sources, 0),
        hidden=pad_left(states, 0),
        log_sizes=pad_left(log_sizes, -torch.inf),
        tail=hidden.shape[1] - 1 - max(last, default=-1),
        plain=untouched and (prompt.present is None or bool(prompt.present.all())),
        reductions=reductions,
    )


def without_gradient(hidden: Tensor, reduced: Tensor) -> Tensor:
    """`reduced`, the same numbers, but a backward pass that comes to it on its way to `hidden` is an error."""
    return _Seam.apply(hidden, reduced) if torch.is_grad_enabled() and hidden.requires_grad else reduced


class _Seam(torch.autograd.Function):
    """Calls without no_grad() are fine until they ask for a gradient, which would end here without a word."""

    @staticmethod
    def forward(ctx, hidden: Tensor, reduced: Tensor) -> Tensor:
        return reduced.view_as(reduced)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        raise RuntimeError(
            "pact_ext: backward() came to a reduction of visual tokens, which has no gradient; remove the handle, or "
            "call the model inside `with handle.off():`"
        )


def _row(prompt: Prompt, row: int, hidden: Tensor, reduction: Reduction | None) -> tuple[Tensor, Tensor, Tensor]:
    """Source, hidden states and log sizes of one row, without the padding before its first token."""
    count, device = hidden.shape[0], hidden.device
    keep = torch.ones(count, dtype=torch.bool)
    padding = torch.zeros(count, dtype=torch.bool)
    if prompt.present is not None:
        padding = ~prompt.present[row]
        keep &= prompt.present[row].cumsum(0) > 0
    length = int(keep.sum())
    keep, padding = keep.to(device), padding.to(device)
    if reduction is not None:
        visual = torch.cat(prompt.visual[row]).to(device)
        centers = visual[reduction.centers]
        keep[visual] = False
        keep[centers] = True
        length += reduction.n_out - reduction.n_in

    # The length is known, so a sort finds the kept places without asking the device for their number.
    source = (~keep).to(torch.int8).argsort(stable=True)[:length]
    states = hidden[source]
    log_sizes = torch.zeros(length, device=device, dtype=torch.promote_types(hidden.dtype, torch.float32))
    if reduction is not None:
        column = keep.cumsum(0)[centers] - 1
        states[column] = reduction.merged
        log_sizes[column] = reduction.sizes.to(log_sizes.dtype).log()
    return source, states, log_sizes.masked_fill(padding[source], -torch.inf)


def _joined(parts: list[Reduction]) -> Reduction | None:
    """The reductions of a row's groups as one, over all of the row's visual tokens in order."""
    if len(parts) < 2:
        return parts[0] if parts else None
    centers, labels, n_in, n_out = [], [], 0, 0
    for part in parts:
        centers.append(part.centers + n_in)
        labels.append(torch.where(part.labels < 0, -1, part.labels + n_out))
        n_in, n_out = n_in + part.n_in, n_out + part.n_out
    ids = [part.position_ids for part in parts]
    return Reduction(
        merged=torch.cat([part.merged for part in parts]),
        sizes=torch.cat([part.sizes for part in parts]),
        log_sizes=torch.cat([part.log_sizes for part in parts]),
        centers=torch.cat(centers),
        labels=torch.cat(labels),
        position_ids=None if ids[0] is None else torch.cat(ids, dim=-1),
    )
