"""Selections that methods share. Ties go to the lower index; the same input gives the same tokens."""

from __future__ import annotations

from torch import Tensor


def largest(scores: Tensor, count: int) -> Tensor:
    """The `count` largest scores: their indices int64 ``[count]``, ascending."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values
