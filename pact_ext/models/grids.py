"""Where a picture's tokens lie among the visual tokens of its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from .families import core_of, family_of
from .masks import padding
from .pictures import deal, visual_tokens
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
    LLaVA-NeXT and LLaVA-OneVision, the last of InternVL, Idefics3, SmolVLM and Aya. (An InternVL picture cut without a
    thumbnail cannot be told from one that has it.)

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
    ids = inputs["input_ids"]
    if not 0 <= row < len(ids):
        raise ValueError(f"pact_ext.image_grid: row must be in 0 to {len(ids) - 1}, got {row}")
    try:
        images = family.images(core, inputs)
    except KeyError as error:
        raise ValueError(f"pact_ext.image_grid: inputs must hold {error}, got {_names(inputs)}") from None
    tokens, _ = visual_tokens(core, family, ids)
    rows = deal(tokens, [image.count for image in images], "image", "pact_ext.image_grid")
    if not 0 <= image < len(rows[row]):
        wanted = f"in 0 to {len(rows[row]) - 1} for row {row}" if rows[row] else f"left out: row {row} has no images"
        raise ValueError(f"pact_ext.image_grid: image must be {wanted}, got {image}")
    whole = images[sum(map(len, rows[:row])) + image]
    places = rows[row][image][whole.start : whole.start + whole.rows * whole.columns]
    present = padding(inputs.get("attention_mask"), 0, ids.shape[1])
    seen = torch.cat([places[:0], *read(core, family, inputs, present, False).visual[row]])  # no padding
    if not torch.isin(places, seen).all():
        raise ValueError(
            f"pact_ext.image_grid: attention_mask must show image {image} of row {row}, and hides some of it"
        )
    return Grid(int((seen < places[0]).sum()), whole.rows, whole.columns)


def _names(inputs: Mapping) -> str:
    return ", ".join(sorted(inputs)) or "nothing"
