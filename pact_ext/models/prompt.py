"""What one call of a model brings: which of its tokens are visual, and which are padding."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .families import Family


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
    tokens = torch.tensor(family.visual_token_ids(core.config))
    visual = torch.isin(ids.cpu(), tokens)
    if present is not None:
        present = present.expand(ids.shape).cpu()
        visual &= present
    return Prompt([_groups(row, per_image) for row in visual], present)


def brings_images(family: Family, given: dict) -> bool:
    return any(_is_given(given.get(name)) for name in family.pixels)


def _groups(visual: Tensor, per_image: bool) -> list[Tensor]:
    places = visual.nonzero().flatten()
    if not per_image or not len(places):
        return [places] if len(places) else []
    breaks = (places.diff() > 1).nonzero().flatten() + 1
    return list(places.tensor_split(breaks.tolist()))


def _is_given(value) -> bool:
    return any(map(_is_given, value.values())) if isinstance(value, dict) else value is not None
