"""TRIM: the tokens that are close to the text, and the mean of the others (Song et al., 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..reference import largest
from ..reference.pact import working
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class Trim(Method):
    """Keeps the tokens most similar to the text, and one that is the mean of all others, at the place of the last of
    these (the public code puts it behind all).

    Similarity is the cosine with the text's last token, as a softmax over the tokens. The paper compares CLIP's two
    towers, and the text's end token there; here, for every model alike, what the projector gives and the embedding of
    the row's last text token. The public code has a scalar product in place of the cosine.

    Attributes:
        keep: share of the tokens that stay, or their number; the mean is one more. None: those whose similarity is an
            outlier, above the third quartile by more than 1.5 times the distance of the quartiles.
        negate: the least similar ones stay, as in the public code, whose authors found CLIP's similarity to point that
            way.
    """

    name = "trim"
    source = "Song et al., Less is More: A Simple yet Effective Token Reduction Method for Efficient MLLMs, 2024"
    needs = frozenset({"text"})

    keep: float | int | None = None
    negate: bool = False

    def __post_init__(self) -> None:
        if self.keep is not None:
            self.check_keep()
        self.check("negate", "True or False", isinstance(self.negate, bool))

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def count(self, n: int, site: int = 0) -> int | None:
        return None if self.keep is None else min(n, budget(n, self.keep) + 1)

    def select(self, view: View) -> Selection:
        if not len(view.text):
            raise ValueError("Trim: the row must have text tokens, got none")
        n, hidden = len(view), working(view.hidden)
        cosine = normalize(hidden, dim=1) @ normalize(working(view.text[-1]), dim=0)
        similarity = (-cosine if self.negate else cosine).softmax(dim=0)
        chosen = _outliers(similarity) if self.keep is None else largest(similarity, budget(n, self.keep))
        if len(chosen) == n:
            return Selection(chosen)
        stays = torch.zeros(n, dtype=torch.bool, device=hidden.device)
        stays.index_fill_(0, chosen, True)
        others = (~stays).to(torch.int8).argsort(descending=True, stable=True)[: n - len(chosen)]
        kept = torch.cat([chosen, others[-1:]]).sort().values
        labels = torch.searchsorted(kept, others[-1]).repeat(n)
        labels[chosen] = torch.searchsorted(kept, chosen)
        states = view.hidden.clone()
        states[others[-1:]] = hidden[others].mean(dim=0, keepdim=True).to(states.dtype)
        return Selection(kept, labels, states[kept])


def _outliers(values: Tensor) -> Tensor:
    """Indices of the values above Q3 + 1.5 (Q3 - Q1), quartiles between two values by linear interpolation."""
    low, high = torch.quantile(values, values.new_tensor([0.25, 0.75]))
    return (values > high + 1.5 * (high - low)).nonzero().flatten()
