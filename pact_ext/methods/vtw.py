"""Visual tokens withdrawal: deep layers do without them (Lin et al., AAAI 2025)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .method import Method, Selection
from .view import View


@dataclass(frozen=True)
class VTW(Method):
    """Drops every visual token at the input of a layer.

    Attributes:
        layer: that layer; None is half of them, rounded down.
    """

    name = "vtw"
    source = "Lin et al., Boosting Multimodal Large Language Models with Visual Tokens Withdrawal, AAAI 2025"

    layer: int | None = None

    def __post_init__(self) -> None:
        if self.layer is not None:
            self.check_layer()

    def sites(self, layers: int) -> tuple[int, ...]:
        return (layers // 2 if self.layer is None else self.layer,)

    def count(self, n: int, site: int = 0) -> int:
        return 0

    def select(self, view: View) -> Selection:
        return Selection(torch.zeros(0, dtype=torch.int64, device=view.hidden.device))
