"""Density-peak clustering of the keys: what PACT's own clustering started from (Rodriguez & Laio, Science 2014)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import ops
from ..reference import largest
from .clustering import Clustering
from .merging import for_ops


@dataclass(frozen=True)
class DPC(Clustering):
    """Centres are the tokens of the largest gamma = rho * delta: dense, and far from what is denser. The others go
    where their nearest denser token goes. Keys after rotary embedding, cosine distance; each cluster is averaged at
    its centre, and counts by its size in attention.

    rho is the density, by default exp(-(d/2)^2) summed over all tokens as in PACT's comparison; the paper counts the
    tokens nearer than a cutoff. delta is the distance to the nearest token of a higher density, of equal ones the lower
    index. The densest token is always a centre.

    Attributes:
        keep: share of the tokens, or their number: how many centres.
        layer: at whose input.
        dn: normalisation of the density, > 0.
        gaussian: density exp(-d/dn) where it is False.
    """

    name = "dpc"
    source = "Rodriguez & Laio, Science 2014; compared in Dhouib et al., PACT, CVPR 2025"

    dn: float = 2.0
    gaussian: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.dn, int | float) and not isinstance(self.dn, bool)
        self.check("dn", "a number > 0 and finite", number and 0 < self.dn < float("inf"))
        self.check("gaussian", "True or False", isinstance(self.gaussian, bool))

    def clusters(self, keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
        keys = for_ops(keys)
        rho = ops.density(keys, self.dn, gaussian=self.gaussian)
        delta, denser = ops.nearest_denser(keys, rho)
        centers = largest((rho * delta).masked_fill(denser < 0, torch.inf), count)
        leads_to = denser.scatter(0, centers, centers)
        for _ in range((len(keys) - 1).bit_length()):  # paths of pointers, twice as long each time
            leads_to = leads_to[leads_to]
        return centers, torch.searchsorted(centers, leads_to)
