"""HiRED: a fixed budget for all parts of a picture of high resolution (Arif et al., AAAI 2025)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference import largest
from .method import Selection, budget
from .tower import OfTheTower
from .view import Encoder, Tile, View


@dataclass(frozen=True)
class HiRED(OfTheTower):
    """Shares a picture's budget among the whole view and its parts, and keeps in each the tokens that the class token
    attends to most in the tower's last layer but one.

    The whole view gets `alpha` of the budget, all of it in a picture without parts. Of what is left, each part gets its
    share of the class token's attention, in the tower's first layer, over the whole view; the public code counts the
    (1 - alpha) n tokens of most such attention instead, and by runs of tokens, not by what the part shows. Numbers are
    rounded down and no larger than a part; what that leaves unused goes to the picture's tokens of most attention, so
    that the budget is met exactly (the public code stays below).

    A part shows what of the whole view lies in it, padding around the picture left out; a token of the whole view lies
    where its middle does. Tokens that end the parts' rows go first, and count among the picture's.

    Attributes:
        keep: share of each picture's tokens; or their number, of which a picture gets its share by size.
        alpha: share of the budget that is for the whole view.
    """

    name = "hired"
    source = "Arif et al., HiRED, AAAI 2025"
    encoder_layers = (0, -2)

    keep: float | int = 0.2
    alpha: float = 0.5

    def __post_init__(self) -> None:
        self.check_keep()
        self.check("alpha", "a share in [0, 1]", type(self.alpha) in (int, float) and 0 <= self.alpha <= 1)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def choose(self, view: View, count: int) -> Selection:
        n, encoder, kept, seen, spent = len(view), view.encoder, [], 0, 0
        for _, tiles in itertools.groupby(encoder.tiles, key=lambda tile: tile.picture):
            tiles = list(tiles)
            seen += sum(len(tile.places) for tile in tiles)
            wanted = count * seen // n - spent
            spent += wanted
            kept.append(self._of_picture(encoder, tiles, wanted))
        return Selection(torch.cat(kept).sort().values)

    def _of_picture(self, encoder: Encoder, tiles: list[Tile], wanted: int) -> Tensor:
        whole, *parts = tiles
        first, deep = encoder.attention(0), encoder.attention(-2)
        full = min(math.floor(wanted * self.alpha) if parts else wanted, len(whole.places))
        budgets = [torch.full((), full, device=deep.device)]
        if parts:
            scores = torch.stack([first[part.region].double().sum() for part in parts])
            budgets += (scores / scores.sum().clamp(min=1e-30) * (wanted - full)).floor().unbind()
        scores = torch.full_like(deep, -1)
        for tile, count in zip(tiles, budgets, strict=True):
            own = deep[tile.places]
            scores[tile.places] = own + 2 * (_ranks(own) < count)  # attention is at most 1
        return largest(scores, wanted)


def _ranks(scores: Tensor) -> Tensor:
    """The rank of each, 0 for the largest; ties to the lower index."""
    return scores.sort(descending=True, stable=True).indices.argsort()
