"""What one call of a model brings: which of its tokens are visual, and which are padding."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass

from torch import Tensor, nn

from .families import Family
from .pictures import pictures, visual_tokens


@dataclass
class Prompt:
    """The tokens of one call.

    Attributes:
        visual: for each row the places of its visual tokens in this call, ascending, as groups that are reduced
            together, on the CPU.
        present: ``[B, q]`` bool on the CPU, False for padding; None when nothing is padding.
        position_ids: as the decoder gets them, ``[1 or B, q]``, or ``[3 or 4, B, q]`` for multimodal RoPE.
    """

    visual: list[list[Tensor]]
    present: Tensor | None
    position_ids: Tensor | None = None

    def position_ids_of(self, row: int, places: Tensor) -> Tensor | None:
        """``[n]`` or ``[3, n]``, for the given places of a row."""
        if self.position_ids is None:
            return None
        ids = self.position_ids[-3:] if self.position_ids.ndim == 3 else self.position_ids
        ids = ids.expand(*ids.shape[:-2], max(row + 1, ids.shape[-2]), -1)
        return ids[..., row, :].index_select(-1, places.to(ids.device))


def arguments(forward, args: tuple, kwargs: dict) -> dict:
    """The arguments of a call by name, whether they were given by position or by name."""
    named = _signature(forward).bind_partial(*args, **kwargs).arguments
    return {**{name: value for name, value in named.items() if name != "kwargs"}, **named.get("kwargs", {})}


_signature = functools.cache(inspect.signature)


def read(core: nn.Module, family: Family, given: dict, present: Tensor | None, per_image: bool) -> Prompt:
    """The prompt of a call of `core` that brings images, with the arguments `given`. Reads the ids from their device.

    Args:
        present: ``[1 or B, q]`` bool, False for padding; None when nothing is.
    """
    ids = given["input_ids"]
    if present is not None:
        present = present.expand(ids.shape).cpu()
    if per_image:
        rows = pictures(core, family, given, "pact_ext, for per_image=True")
    else:
        images, videos = visual_tokens(core, family, ids)
        rows = [[row.nonzero().flatten()] for row in images | videos]
    if present is not None:
        rows = [[places[here[places]] for places in row] for row, here in zip(rows, present, strict=True)]
    return Prompt([[places for places in row if len(places)] for row in rows], present)


def brings_images(family: Family, given: dict) -> bool:
    return any(_is_given(given.get(name)) for name in family.pixels)


def _is_given(value) -> bool:
    return any(map(_is_given, value.values())) if isinstance(value, dict) else value is not None
