"""Reducing the visual tokens of every row of a batch at a site, and closing the gaps they leave."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from ..methods import Selection, View
from ..reduction import Reduction
from ..reference import log_sizes, merged_position_ids
from .cache import pad_left
from .sequence import Sequence
from .views import Scene


@dataclass(frozen=True)
class Compaction:
    """A batch ``[B, q, ...]`` after its reduction: ``[B, columns, ...]``, every row padded on the left.

    Attributes:
        source: ``[B, columns]`` int64, the column each was before; 0 for padding.
        hidden: ``[B, columns, d]``, merged tokens at their centres' places.
        sequence: the columns as the next site finds them.
        untouched: nothing was merged or removed.
        reductions: one for each row; None for a row without visual tokens.
    """

    source: Tensor
    hidden: Tensor
    sequence: Sequence
    untouched: bool
    reductions: list[Reduction | None]


def compact(scene: Scene) -> Compaction:
    """Reduce the visual tokens at a site."""
    sequence, hidden = scene.sequence, scene.at.hidden
    found = _reductions(scene)
    rows = [_row(sequence, row, hidden[row], parts) for row, parts in enumerate(found)]
    source, states, sizes = (pad_left([row[part] for row in rows], 0) for part in range(3))
    lead = [source.shape[1] - len(row[0]) for row in rows]
    after = dataclasses.replace(
        sequence,
        visual=[[at + before for at in places] for before, (*_, places) in zip(lead, rows, strict=True)],
        lead=lead,
        source=sequence.source.gather(1, source),
        sizes=sizes,
        plain=sequence.plain and all(part.n_out == part.n_in for parts in found for part in parts),
    )
    reductions = [
        _joined([dataclasses.replace(part, merged=part.merged.detach()) for part in parts]) for parts in found
    ]
    return Compaction(source, states, after, all(r is None or r.n_out == r.n_in for r in reductions), reductions)


def _reductions(scene: Scene) -> list[list[Reduction]]:
    """Of every group of every row."""
    at = [(row, group) for row, groups in enumerate(scene.sequence.visual) for group in range(len(groups))]
    views = [scene.view(*place) for place in at]
    try:
        chosen = scene.method.select_all(views)
    except RuntimeError as error:
        for (row, _), view in zip(at, views, strict=True):
            if not view.hidden.isfinite().all():
                raise RuntimeError(f"pact_ext: the visual tokens of row {row} are not finite: {error}") from error
        raise
    found: list[list[Reduction]] = [[] for _ in scene.sequence.visual]
    for (row, group), view, one in zip(at, views, chosen, strict=True):
        found[row].append(_reduction(scene, row, group, view, one))
    return found


def _reduction(scene: Scene, row: int, group: int, view: View, chosen: Selection) -> Reduction:
    places, kept, labels = scene.sequence.visual[row][group], chosen.kept, chosen.labels
    if labels is None:
        labels = torch.full((len(view),), -1, dtype=torch.int64, device=kept.device)
        labels[kept] = torch.arange(len(kept), device=kept.device)
    sizes = view.sizes[kept] if chosen.sizes is None else chosen.sizes
    places = scene.sequence.source[row, places.to(kept.device)]
    ids = scene.sequence.prompt.position_ids_of(row, places)
    return Reduction(
        merged=view.hidden[kept] if chosen.hidden is None else chosen.hidden,
        sizes=sizes,
        log_sizes=log_sizes(sizes),
        centers=kept,
        labels=labels,
        position_ids=None if ids is None else merged_position_ids(ids, kept.to(ids.device)),
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


def _row(
    sequence: Sequence, row: int, hidden: Tensor, parts: list[Reduction]
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Source, hidden states and sizes of one row's columns, and which of them are each group's; without the padding
    before its first token."""
    keep = torch.ones(sequence.width, dtype=torch.bool, device=hidden.device)
    keep[: sequence.lead[row]] = False
    length, centers = sequence.width - sequence.lead[row], []
    for places, part in zip(sequence.visual[row], parts, strict=True):
        places = places.to(hidden.device)
        keep.index_fill_(0, places, False)  # an assignment would copy the number to the device, and wait
        centers.append(places[part.centers])
        length += part.n_out - part.n_in
    for center in centers:
        keep.index_fill_(0, center, True)

    # The length is known, so a sort finds the kept places without asking the device for their number.
    source = (~keep).to(torch.int8).argsort(stable=True)[:length]
    states, sizes = hidden[source], sequence.sizes[row, source]
    columns = [keep.cumsum(0)[center] - 1 for center in centers]
    for column, part in zip(columns, parts, strict=True):
        states[column] = part.merged
        sizes[column] = part.sizes
    return source, states, sizes, columns


def _joined(parts: list[Reduction]) -> Reduction | None:
    """The reductions of a row's groups as one, over all of the row's visual tokens in order, without a gradient."""
    if len(parts) < 2:
        return dataclasses.replace(parts[0], merged=parts[0].merged.detach()) if parts else None
    centers, labels, n_in, n_out = [], [], 0, 0
    for part in parts:
        centers.append(part.centers + n_in)
        labels.append(torch.where(part.labels < 0, -1, part.labels + n_out))
        n_in, n_out = n_in + part.n_in, n_out + part.n_out
    ids = [part.position_ids for part in parts]
    return Reduction(
        merged=torch.cat([part.merged.detach() for part in parts]),
        sizes=torch.cat([part.sizes for part in parts]),
        log_sizes=torch.cat([part.log_sizes for part in parts]),
        centers=torch.cat(centers),
        labels=torch.cat(labels),
        position_ids=None if ids[0] is None else torch.cat(ids, dim=-1),
    )


def composed(first: Reduction | None, second: Reduction | None) -> Reduction | None:
    """One site's reduction and the next one's as one."""
    if first is None or second is None:
        return second
    labels = torch.cat([second.labels, second.labels.new_full((1,), -1)])[first.labels]
    return dataclasses.replace(second, centers=first.centers[second.centers], labels=labels)
