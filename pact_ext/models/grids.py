"""Where a picture's tokens lie among the visual tokens of its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .families import ImageTokens, core_of, family_of
from .masks import padding
from .prompt import read


@dataclass(frozen=True)
class Grid:
    """A picture's tokens among a row's visual tokens: from `start` on, row by row, `columns` in each of `rows`."""

    start: int
    rows: int
    columns: int


def image_grid(model: nn.Module, inputs: Mapping, image: int = 0, row: int = 0) -> Grid:
    """The tokens that show the whole of one picture, in the order of `Reduction.labels`.

    Families that cut a picture into tiles show it whole in one more tile, which is the one meant: the first of
    LLaVA-NeXT and LLaVA-OneVision, the last of InternVL. (An InternVL picture cut without a thumbnail cannot be told
    from one that has it.)

    Args:
        model: a Hugging Face model of a family that `pact_ext.apply` knows, reduced or not.
        inputs: the processor's output that the model is called with.
        image: which picture of the row, videos not counted.
        row: which row of the batch.

    Raises:
        ValueError: an unknown family, inputs without ids or pictures, a row or picture that is not there, or a prompt
            whose image tokens are not as many as its pictures have.
    """
    core = core_of(model)
    family = family_of(core, "pact_ext.image_grid")
    if inputs.get("input_ids") is None:
        raise ValueError(f"pact_ext.image_grid: inputs must hold input_ids, got {_names(inputs)}")
    ids = inputs["input_ids"].cpu()
    if not 0 <= row < len(ids):
        raise ValueError(f"pact_ext.image_grid: row must be in 0 to {len(ids) - 1}, got {row}")
    present = padding(inputs.get("attention_mask"), 0, ids.shape[1])
    shows = [  # of each visual token of each row: whether it belongs to a picture, not a video
        ids[index, torch.cat(groups)] == core.config.image_token_id if groups else torch.zeros(0, dtype=torch.bool)
        for index, groups in enumerate(read(core, family, inputs, present, False).visual)
    ]
    try:
        images = family.images(core, inputs, _runs(ids == core.config.image_token_id))
    except KeyError as error:
        raise ValueError(f"pact_ext.image_grid: inputs must hold {error}, got {_names(inputs)}") from None
    mine = _by_row(images, [int(show.sum()) for show in shows])[row]
    if not 0 <= image < len(mine):
        wanted = f"in 0 to {len(mine) - 1} for row {row}" if mine else f"left out: row {row} has no images"
        raise ValueError(f"pact_ext.image_grid: image must be {wanted}, got {image}")
    first = sum(other.count for other in mine[:image]) + mine[image].start
    start = int(shows[row].nonzero()[first])
    return Grid(start, mine[image].rows, mine[image].columns)


def _by_row(images: list[ImageTokens], tokens: list[int]) -> list[list[ImageTokens]]:
    """The images of each row, which holds that many image tokens."""
    left, rows = list(images), []
    for row, wanted in enumerate(tokens):
        rows.append([])
        while left and sum(image.count for image in rows[row]) < wanted:
            rows[row].append(left.pop(0))
        if sum(image.count for image in rows[row]) != wanted:
            raise ValueError(
                f"pact_ext.image_grid: the image tokens of row {row} must be those of its images, got {wanted} tokens "
                f"and images of {[image.count for image in rows[row]]}"
            )
    if left:
        raise ValueError(
            f"pact_ext.image_grid: input_ids must hold the tokens of all {len(images)} images, got none for the last "
            f"{len(left)}"
        )
    return rows


def _runs(flags: torch.Tensor) -> list[int]:
    """Lengths of the runs of True in each row of ``[B, N]``, one row after the other."""
    runs = []
    for row in flags:
        values, counts = row.unique_consecutive(return_counts=True)
        runs += counts[values].tolist()
    return runs


def _names(inputs: Mapping) -> str:
    return ", ".join(sorted(inputs)) or "nothing"
