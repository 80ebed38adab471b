"""ToMe: token merging, a few at every layer (Bolya et al., ICLR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .. import ops
from ..reference.pact import working
from .merging import everything, for_ops, merged
from .method import Method, Selection
from .view import View


@dataclass(frozen=True)
class ToMe(Method):
    """At the input of every layer parts the tokens by turns into A and B, draws an edge from each A to its most similar
    B, and merges along the r most similar edges: means by size, at B's place, that count by their sizes in attention.

    Tokens are compared by the cosine of that layer's keys after rotary embedding, as in PACT's comparison; vision
    transformers, for which the paper is written, have none. The paper merges between attention and MLP, the comparison,
    and this, before attention.

    Attributes:
        r: tokens that go at each layer; half of those there are at most.
        keep: None, or a share, which puts the schedule of PACT's comparison in place of r: of N layers, layer l merges
            int(r0 * (N - l) / N) + 1, and two tokens fewer than half at most. r0 is such that the tokens left are
            on the average of all layers, but for rounding, as many as where the share `keep` is left from the layer
            `like` on. At 1.0 nothing is merged.
        like: that layer.
        first: the first layer at whose input tokens are merged; the schedule is not changed by it.
        heads: keys are compared by their "mean" over the heads, as in the paper, or "joined" to one vector, as in the
            code of PACT's comparison.
    """

    name = "tome"
    source = "Bolya et al., Token Merging: Your ViT But Faster, ICLR 2023"
    needs = frozenset({"turned_keys", "layers"})
    layer_argument = "first"

    r: int = 8
    keep: float | None = None
    like: int = 4
    first: int = 0
    heads: str = "mean"

    def __post_init__(self) -> None:
        self.check_layer("r")
        share = isinstance(self.keep, float) and 0 < self.keep <= 1
        self.check("keep", "a share in (0, 1], or None", self.keep is None or share)
        self.check_layer("like")
        self.check_layer("first")
        self.check("heads", "'mean' or 'joined'", self.heads in ("mean", "joined"))

    def sites(self, layers: int) -> tuple[int, ...]:
        return tuple(range(self.first, layers)) or (self.first,)  # which is refused by its name

    def count(self, n: int, site: int = 0) -> int | None:
        if self.keep is not None:
            return None  # it depends on how many layers there are
        for _ in range(site + 1):
            n -= min(self.r, n // 2)
        return n

    def merges(self, n: int, n_first: int, layer: int, layers: int) -> int:
        """How many of n tokens go at a layer, which were n_first before the first of all."""
        if self.keep is None:
            return min(self.r, n // 2)
        if self.keep == 1:
            return 0
        gone = n_first * (1 - self.keep) * (layers - self.like) / layers  # at the average layer
        r0 = 6 * layers * gone / ((layers + 1) * (2 * layers + 1))
        return max(0, min(int(r0 * (layers - layer) / layers) + 1, n // 2 - 2))

    def select(self, view: View) -> Selection:
        n = len(view)
        r = self.merges(n, view.n_first, self.first + view.site, view.layers)
        if r == 0:
            return everything(view)
        keys = view.turned_keys
        metric = for_ops(working(keys).mean(dim=1) if self.heads == "mean" else keys)
        index = torch.arange(n, device=keys.device)
        a, b = index[::2], index[1::2]
        nearest, distance = ops.assign(metric, b, torch.inf)
        going = a[distance[a].sort(stable=True).indices[:r]]
        stays = torch.ones_like(index).index_fill(0, going, 0)
        kept = (1 - stays).argsort(stable=True)[: n - r]
        goes_to = index.scatter(0, going, b[nearest[going]])
        return merged(view, kept, (stays.cumsum(0) - 1)[goes_to])
