"""PruMerge: attention's outliers, each with what resembles it (Shang et al., ICCV 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference import largest
from .method import Selection, budget
from .tower import OfTheTower
from .view import View


@dataclass(frozen=True)
class PruMerge(OfTheTower):
    """Keeps the tokens whose attention from the class token is an outlier, above Q3 + 1.5 (Q3 - Q1); adds to each the
    attention-weighted features of its nearest ones by key, and appends one token for all that is left.

    Features are the tower's, as the projector gets them; new ones go through it. The class token's attention is that of
    all heads joined to one, and sums of attention times features are not divided by anything, as in the public code.
    There, `tower_layer` is -1 and `near` is "all". A row's pictures are one pool, all tiles of each, in every one of
    which attention sums to 1; `per_image=True` keeps pictures apart, as published. Without an outlier the token of most
    attention stays.

    Attributes:
        keep: None leaves the number to the outliers. A share of the tokens, or their number, the rest's included, takes
            those of most attention.
        neighbors: how many tokens each kept one takes in.
        near: of which: "dropped", those that are not kept; "all", any other, kept ones too.
        rest: the last token: "sum" of attention times features, as in the public code; "mean", divided by the sum of
            that attention; "none". It takes the place of the dropped token of most attention.
        tower_layer: whose attention and keys; -1 is the last.
    """

    name = "prumerge"
    source = "Shang et al., LLaVA-PruMerge, ICCV 2025"

    keep: float | int | None = None
    neighbors: int = 32
    near: str = "dropped"
    rest: str = "sum"
    tower_layer: int = -2

    def __post_init__(self) -> None:
        if self.keep is not None:
            self.check_keep()
        self.check_layer("neighbors")
        self.check("near", "'dropped' or 'all'", self.near in ("dropped", "all"))
        self.check("rest", "'sum', 'mean' or 'none'", self.rest in ("sum", "mean", "none"))
        self.check("tower_layer", "an integer", type(self.tower_layer) is int)

    @property
    def encoder_layers(self) -> tuple[int, ...]:
        return (self.tower_layer,)

    def count(self, n: int, site: int = 0) -> int | None:
        return None if self.keep is None else budget(n, self.keep)

    def choose(self, view: View, count: int | None) -> Selection:
        n, encoder = len(view), view.encoder
        attention = encoder.attention(self.tower_layer, joined=True)
        kept = self._centers(attention, count)
        if len(kept) == n:
            return Selection(kept)
        features = encoder.features.to(torch.promote_types(encoder.features.dtype, torch.float32))
        keys = F.normalize(encoder.keys(self.tower_layer).flatten(1).double(), dim=-1)
        weights, dropped = attention.to(features.dtype), torch.ones(n, dtype=torch.bool, device=kept.device)
        dropped.index_fill_(0, kept, False)

        # Rounded from float64, so that the cosines of equal keys are equal whatever the order of their sums.
        similar = (keys[kept] @ keys.T).float().scatter(1, kept[:, None], -torch.inf)
        candidates = n - 1
        if self.near == "dropped":
            similar, candidates = similar.masked_fill(~dropped, -torch.inf), n - len(kept)
        nearest = similar.sort(dim=1, descending=True, stable=True).indices[:, : min(self.neighbors, candidates)]
        merged = features[kept] + (weights[nearest][..., None] * features[nearest]).sum(dim=1)

        if self.rest != "none" and count != 1:
            left = weights * dropped
            rest = left @ features
            if self.rest == "mean":
                rest = rest / left.sum().clamp(min=1e-30)
            place = torch.where(dropped, attention, -1).argmax()
            merged, kept = torch.cat([merged, rest[None]]), torch.cat([kept, place[None]])
            kept, order = kept.sort()
            merged = merged[order]
        return Selection(kept, hidden=encoder.project(merged.to(encoder.features.dtype)).to(view.hidden.dtype))

    def _centers(self, attention: Tensor, count: int | None) -> Tensor:
        """The tokens that stay, ascending."""
        if count is None:
            return self._outliers(attention).nonzero().flatten()
        return largest(attention, count if count in (1, len(attention)) or self.rest == "none" else count - 1)

    def _outliers(self, attention: Tensor) -> Tensor:
        """``[n]`` bool."""
        first, third = attention.double().quantile(torch.tensor([0.25, 0.75], dtype=torch.float64).to(attention.device))
        outliers = attention.double() > third + 1.5 * (third - first)
        highest = torch.zeros_like(outliers)
        highest.index_fill_(0, attention.argmax(dim=0, keepdim=True), True)
        return torch.where(outliers.any(), outliers, highest)


@dataclass(frozen=True)
class PruMergePlus(PruMerge):
    """PruMerge with evenly spaced tokens besides: from the first on, but for the last token, one in every third part of
    n / outliers, rounded down twice, as in the public code.

    With `keep` half of the tokens, rounded up, are those of most attention, and the others are evenly spaced among
    what these leave: ours, for the public code's fixed share may take a token twice.
    """

    name = "prumerge+"
    source = "Shang et al., LLaVA-PruMerge, ICCV 2025"

    def _centers(self, attention: Tensor, count: int | None) -> Tensor:
        kept, n = super()._centers(attention, count), len(attention)
        if count is None:
            step = max(1, n // len(kept) // 3)
            chosen = torch.zeros(n, dtype=torch.bool, device=kept.device)
            chosen[: n - 1 : step] = True
            chosen.index_fill_(0, kept, True)
            return chosen.nonzero().flatten()
        if len(kept) == n:
            return kept
        wanted = len(kept)
        spaced = wanted // 2
        kept = largest(attention, wanted - spaced)
        left = n - len(kept)
        free = torch.ones(n, dtype=torch.int8, device=kept.device)
        free.index_fill_(0, kept, 0)
        others = (1 - free).argsort(stable=True)[:left]
        middles = (2 * torch.arange(spaced, device=kept.device) + 1) * left // (2 * max(1, spaced))
        return torch.cat([kept, others[middles]]).sort().values
