"""What the methods that select by the vision tower's attention have in common."""

from __future__ import annotations

import dataclasses

import torch

from .method import Method, Selection
from .view import View


class OfTheTower(Method):
    """Acts on what the projector gives, and chooses among the tokens that are patches of the vision tower.

    Tokens that are none, as those that end the rows of LLaVA-NeXT's and -OneVision's tiles, receive no attention from
    it, so they are the first to go: of them only stay, the first ones, as many as a budget leaves when it has room for
    every patch.
    """

    needs = frozenset({"encoder"})

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def choose(self, view: View, count: int | None) -> Selection:
        """Of a view all of whose tokens are patches, `count` of them; None where the data decide. Shares are of its
        `n_first` tokens, which others were among."""
        raise NotImplementedError

    def select(self, view: View) -> Selection:
        n, device, places = len(view), view.hidden.device, view.encoder.places
        count = self.count(n)
        if places is None:
            return self.choose(view, count)
        encoder = dataclasses.replace(view.encoder, places=None)
        among = View(view.hidden[places], needs=self.needs, n_first=n, encoder=encoder)
        chosen = self.choose(among, None if count is None else min(count, len(places)))

        is_patch = torch.zeros(n, dtype=torch.int8, device=device)
        is_patch.index_fill_(0, places, 1)
        spare = 0 if count is None else max(0, count - len(places))
        kept = torch.cat([places[chosen.kept], is_patch.argsort(stable=True)[:spare]]).sort().values
        hidden = labels = None
        if chosen.hidden is not None:
            hidden = view.hidden.clone()
            hidden[places[chosen.kept]] = chosen.hidden
            hidden = hidden[kept]
        if chosen.labels is not None:
            labels = torch.full((n,), -1, dtype=torch.int64, device=device)
            labels[kept] = torch.arange(len(kept), device=device)
            of_chosen = torch.cat([labels[places[chosen.kept]], labels.new_full((1,), -1)])
            labels[places] = of_chosen[chosen.labels]
        return Selection(kept, labels, hidden)
