"""VisionZip: what the vision tower looks at, and a summary of the rest (Yang et al., CVPR 2025)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .. import ops
from ..reference import largest
from .method import Selection, budget
from .tower import OfTheTower
from .view import View


@dataclass(frozen=True)
class VisionZip(OfTheTower):
    """Keeps the dominant tokens, which receive most attention from the class token over all heads, or where a tower has
    none from all its tokens. Of the others, evenly spaced ones become contextual tokens: each plus the mean of those
    that are most like it, by the cosine of keys averaged over the heads.

    Features are the tower's, as the projector gets them; new ones go through it. The public code keeps the class token
    itself as one of the dominant; it is no visual token here, and one more patch stays. A row's pictures are one pool,
    all tiles of each; `per_image=True` keeps pictures apart, as published. (In LLaVA-NeXT the public code gives every
    tile the same numbers.)

    Attributes:
        dominant: share of the tokens, or their number.
        contextual: likewise; 0 for none.
        keep: instead of both, of all that stay: a share of the tokens, or their number, in the paper's proportion of
            54 dominant to 10 contextual ones.
    """

    name = "visionzip"
    source = "Yang et al., VisionZip, CVPR 2025"
    encoder_layers = (-2,)

    dominant: float | int = 54
    contextual: float | int = 10
    keep: float | int | None = None

    def __post_init__(self) -> None:
        self.check_keep("dominant")
        if type(self.contextual) is not int or self.contextual != 0:
            self.check_keep("contextual")
        if self.keep is not None:
            self.check_keep()

    def count(self, n: int, site: int = 0) -> int:
        return min(n, sum(self._parts(n)))

    def _parts(self, n: int) -> tuple[int, int]:
        """How many dominant and contextual tokens there are to be of n."""
        if self.keep is None:
            return budget(n, self.dominant), budget(n, self.contextual)
        count = budget(n, self.keep)
        return count - count * 10 // 64, count * 10 // 64

    def choose(self, view: View, count: int) -> Selection:
        n, encoder = len(view), view.encoder
        dominant = largest(encoder.attention(-2), min(count, self._parts(view.n_first)[0]))
        left, contextual = n - len(dominant), count - len(dominant)
        if not contextual:
            return Selection(dominant)
        taken = torch.zeros(n, dtype=torch.int8, device=dominant.device)
        taken.index_fill_(0, dominant, 1)
        others = taken.argsort(stable=True)[:left]
        is_target = torch.zeros(left, dtype=torch.int8, device=others.device)
        is_target[:: left // contextual][:contextual] = 1
        targets, joining = others[is_target.argsort(stable=True)].tensor_split([left - contextual])[::-1]
        if not len(joining):
            return Selection(torch.arange(n, device=others.device))

        features = encoder.features.to(torch.promote_types(encoder.features.dtype, torch.float32))
        metric = encoder.keys(-2).to(features.dtype).mean(dim=1)
        nearest = ops.assign(metric.float(), targets, math.inf)[0][joining]
        members = F.one_hot(nearest, contextual).to(features.dtype).T
        means = members @ features[joining] / members.sum(dim=1, keepdim=True).clamp(min=1)
        merged = encoder.project((features[targets] + means).to(encoder.features.dtype))

        kept, order = torch.cat([dominant, targets]).sort()
        hidden = torch.cat([view.hidden[dominant], merged.to(view.hidden.dtype)])[order]
        labels = torch.full((n,), -1, dtype=torch.int64, device=kept.device)
        labels[kept] = torch.arange(len(kept), device=kept.device)
        labels[joining] = labels[targets][nearest]
        return Selection(kept, labels, hidden)
