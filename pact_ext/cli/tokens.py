"""A photograph as the tensors that a decoder layer would hand to a reduction."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .descriptors import keys_and_queries
from .photo import Photo


@dataclass(frozen=True)
class Tokens:
    """A photograph as a decoder layer would see it.

    Attributes:
        hidden: ``[n, 3 * patch * patch]``, pixels less `mean_color`: the norm measures contrast to the photograph,
            and adding the mean back turns a merged token into pixels.
        keys, queries: ``[n, 3, 16]``.
        mean_color: ``[3]``.
    """

    hidden: Tensor
    keys: Tensor
    queries: Tensor
    mean_color: Tensor

    @classmethod
    def of(cls, photo: Photo) -> Tokens:
        patches = photo.patches()
        mean_color = photo.pixels.mean(dim=(1, 2))
        keys, queries = keys_and_queries(patches)
        return cls((patches - mean_color[:, None, None]).flatten(1), keys, queries, mean_color)
