"""DART: the tokens that repeat no other (Wen et al., EMNLP 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..reference.pact import working
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class Dart(Method):
    """Keeps pivots, the tokens whose keys have the largest L1 norm, and for each of them an equal share of the tokens
    whose hidden states have the smallest cosine with the pivot's.

    Visual pivots come first, then those of the text behind the images, each kind by falling norm (in the public code
    the order is that of a Python set); where shares do not come out even, the first pivots get one more. A token goes
    to the first pivot that takes it. Keys are those of the site's layer, after rotary embedding, and hidden states are
    as they are (the public code has keys of the layer before, and the decoder's last norm over the states).

    Attributes:
        layer: at whose input it prunes.
        keep: share of the tokens, or their number, visual pivots included (the public code adds them on top); the
            default is 128 of 576.
        pivots: how many visual tokens are pivots.
        text_pivots: how many text tokens are; as many as there are, where they are fewer.
    """

    name = "dart"
    source = "Wen et al., Stop Looking for Important Tokens in Multimodal Language Models, EMNLP 2025"
    needs = frozenset({"turned_keys", "text", "text_keys", "tail"})

    layer: int = 2
    keep: float | int = 0.222
    pivots: int = 4
    text_pivots: int = 4

    def __post_init__(self) -> None:
        self.check_layer()
        self.check_keep()
        self.check_layer("pivots", least=1)
        self.check_layer("text_pivots")

    def sites(self, layers: int) -> tuple[int, ...]:
        return (self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return budget(n, self.keep)

    def select(self, view: View) -> Selection:
        count, hidden = self.count(len(view)), working(view.hidden)
        pivots = _longest(view.turned_keys, min(self.pivots, count))
        directions = hidden[pivots]
        text_pivots = min(self.text_pivots, view.tail)
        if text_pivots:
            begin = len(view.text) - view.tail
            chosen = begin + _longest(view.text_keys[begin:], text_pivots)
            directions = torch.cat([directions, working(view.text)[chosen]])
        cosines = normalize(directions, dim=1) @ normalize(hidden, dim=1).T
        taken = torch.zeros(len(view), dtype=torch.bool, device=hidden.device)
        taken.index_fill_(0, pivots, True)
        share, more = divmod(count - len(pivots), len(directions))
        for pivot, cosine in enumerate(cosines):
            order = cosine.masked_fill(taken, torch.inf).sort(stable=True).indices
            taken.index_fill_(0, order[: share + (pivot < more)], True)
        return Selection((~taken).to(torch.int8).argsort(stable=True)[:count])


def _longest(keys: Tensor, count: int) -> Tensor:
    """The keys ``[n, Hk, dh]`` of the largest L1 norms, the largest first."""
    return working(keys).flatten(1).abs().sum(dim=1).sort(descending=True, stable=True).indices[:count]
