"""Visual tokens withdrawal: deep layers do without them (Lin et al., AAAI 2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .method import Method, Selection
from .view import View

if TYPE_CHECKING:
    from typing import Self

    from torch import nn


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

    @classmethod
    def calibrate(
        cls, model: nn.Module, samples: Sequence[Mapping], *, threshold: float = 0.003, first: int = 5
    ) -> Self:
        """The method for a model: the first layer from which on it can do without its visual tokens (section 3.3 of the
        paper).

        That is the earliest one where the next token's distribution with all tokens, p, and that without the visual
        ones, q, differ by ``KL(p || q) <= threshold``, on average over the samples' rows.

        Args:
            model: a Hugging Face model, not reduced.
            samples: what the processor made of a few pictures with their questions, each to call the model with;
                padding, if any, is on the left.
            threshold: eta; the paper has 0.003.
            first: the earliest layer to try; the paper has 5.

        Raises:
            ValueError: no samples, padding on the right, or no layer where they differ by so little.
        """
        from ..models import apply

        if not samples:
            raise ValueError("VTW.calibrate: samples must hold at least one, got none")
        full = [_next_token(model, sample) for sample in samples]
        layers = model.config.get_text_config().num_hidden_layers
        least = float("inf")
        for layer in range(first, layers):
            with apply(model, cls(layer=layer)):
                found = [_next_token(model, sample) for sample in samples]
            divergences = [(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(full, found, strict=True)]
            divergence = float(torch.cat(divergences).mean())
            if divergence <= threshold:
                return cls(layer=layer)
            least = min(least, divergence)
        raise ValueError(
            f"VTW.calibrate: no layer from {first} to {layers - 1} comes within threshold={threshold:g}; the least "
            f"divergence is {least:.3g}"
        )


@torch.no_grad()
def _next_token(model: nn.Module, sample: Mapping) -> torch.Tensor:
    """``[B, V]`` log-probabilities."""
    mask = sample.get("attention_mask")
    if mask is not None and not mask[:, -1].all():
        raise ValueError("VTW.calibrate: samples must have their padding on the left, got some on the right")
    return model(**sample, logits_to_keep=1).logits[:, -1].double().log_softmax(dim=-1)
