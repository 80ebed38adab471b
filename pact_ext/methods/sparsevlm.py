"""SparseVLM: text that is about the picture rates its tokens (Zhang et al., ICML 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference import largest
from ..reference.pact import working
from .merging import segment_mean
from .method import Method, Selection, budget
from .view import View


@dataclass(frozen=True)
class SparseVLM(Method):
    """At each of some layers keeps the tokens to which the raters attend most in the layer before, and of the others
    merges the best into a few.

    Raters are the text tokens behind the images whose relevance is above the mean: what comes into the decoder of the
    visual tokens, times that of the text, softmax over the text, mean over the visual tokens. All rate where none is.
    Of what is not kept the best rated are clustered by density peaks over the nearest neighbours, and each cluster's
    mean takes its centre's place (the public code puts them behind the kept ones, and numbers positions anew). Sizes do
    not count, in means or in attention. Where as many are to stay as there are, nothing is merged.

    Attributes:
        keep: at each site how many stay beside the merged: shares of the tokens before the first site, or their
            numbers; the default is 300, 200 and 110 of 576, the public code's "192".
        layers: at whose inputs; None: as in the public code, which prunes what the layers 2, 6 and 15 of 32 put out,
            by the attention inside them: 3, 7 and 16, and in the same proportion in other decoders.
        recycle: share of the rest that is merged, rounded down, and one more; 0 merges nothing.
        clusters: merged tokens for each recycled one, rounded down, and one more.
    """

    name = "sparsevlm"
    source = "Zhang et al., SparseVLM: Visual Token Sparsification for Efficient VLM Inference, ICML 2025"
    needs = frozenset({"received", "embedded", "tail"})

    keep: tuple[float | int, ...] = (0.521, 0.347, 0.191)
    layers: tuple[int, ...] | None = None
    recycle: float = 0.3
    clusters: float = 0.1

    def __post_init__(self) -> None:
        shares = isinstance(self.keep, tuple) and len(self.keep) > 0 and all(map(_is_budget, self.keep))
        self.check("keep", "a tuple of shares in (0, 1], or of whole numbers >= 1, one for each site", shares)
        if self.layers is None:
            self.check("keep", "three, for the layers are", len(self.keep) == 3)
        else:
            ok = isinstance(self.layers, tuple) and len(self.layers) == len(self.keep)
            ok = ok and all(isinstance(layer, int) and layer >= 1 for layer in self.layers)
            ok = ok and all(a < b for a, b in zip(self.layers, self.layers[1:], strict=False))
            self.check("layers", "as many as keep has, ascending integers >= 1", ok)
        for argument in ("recycle", "clusters"):
            value = getattr(self, argument)
            self.check(argument, "a share in [0, 1]", isinstance(value, int | float) and 0 <= value <= 1)

    def sites(self, layers: int) -> tuple[int, ...]:
        if self.layers is not None:
            return self.layers
        found: list[int] = []
        for layer in (2, 6, 15):
            found.append(max(found[-1] if found else 0, math.floor(layer * layers / 32 + 0.5)) + 1)
        return tuple(found)

    def count(self, n: int, site: int = 0) -> int:
        left = n
        for keep in self.keep[: site + 1]:
            kept, _, clusters = self._stage(left, budget(n, keep))
            left = kept + clusters
        return left

    def _stage(self, n: int, kept: int) -> tuple[int, int, int]:
        """How many of n are kept, how many recycled, and into how many."""
        kept = min(kept, n)
        recycled = int((n - kept) * self.recycle) + 1 if kept < n and self.recycle else 0
        recycled = min(recycled, n - kept)
        return kept, recycled, min(recycled, int(recycled * self.clusters) + 1)

    def select(self, view: View) -> Selection:
        kept, recycled, clusters = self._stage(len(view), budget(view.n_first, self.keep[view.site]))
        if kept == len(view):
            return Selection(torch.arange(kept, device=view.hidden.device))
        score = view.received(raters(*view.embedded, view.tail))
        order = score.sort(descending=True, stable=True).indices
        chosen, rest = order[:kept].sort().values, order[kept : kept + recycled].sort().values
        if not recycled:
            return Selection(chosen)
        points = working(view.hidden[rest])
        centers, cluster = density_peaks(points, clusters)
        places = rest[centers]
        states = view.hidden.clone()
        states[places] = segment_mean(points, cluster, clusters)[0].to(states.dtype)
        chosen = torch.cat([chosen, places]).sort().values
        labels = torch.full((len(view),), -1, dtype=torch.int64, device=score.device)
        labels[chosen] = torch.arange(len(chosen), device=score.device)
        labels[rest] = labels[places][cluster]
        return Selection(chosen, labels, states[chosen])


def raters(visual: Tensor, text: Tensor, tail: int) -> Tensor:
    """Which of the text tokens rate, of the last `tail` of them."""
    if not tail:
        raise ValueError("SparseVLM: text must follow the images, to rate their tokens, got none")
    relevance = (working(visual) @ working(text[-tail:]).T).softmax(dim=1).mean(dim=0)
    rates = relevance > relevance.mean()
    return (rates | ~rates.any()).nonzero().flatten() + len(text) - tail


def density_peaks(points: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Centres ``[count]``, ascending, and the cluster of each point ``[n]``: clustering by density peaks, over the
    `count` nearest points (Du et al. 2016), itself among them; distances are over the root of the width."""
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[1] ** 0.5
    density = (-distance.topk(count, largest=False).values.square().mean(dim=1)).exp()
    index = torch.arange(len(points), device=points.device)
    outranks = (density[None] > density[:, None]) | (density[None] == density[:, None]) & (index[None] < index[:, None])
    to_denser = distance.masked_fill(~outranks, torch.inf).amin(dim=1).minimum(distance.max())
    centers = largest(to_denser * density, count)
    cluster = distance[:, centers].argmin(dim=1)
    cluster[centers] = torch.arange(count, device=points.device)
    return centers, cluster


def _is_budget(keep) -> bool:
    if isinstance(keep, float):
        return 0 < keep <= 1
    return isinstance(keep, int) and not isinstance(keep, bool) and keep >= 1
