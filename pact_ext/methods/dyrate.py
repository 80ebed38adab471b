"""DyRate: the longer the answer, the fewer visual tokens (Liang et al., 2025)."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..reference import largest
from .method import Method, Selection
from .trained import TrainedModule, on, resolved
from .view import Step, View


class RateClassifier(TrainedModule):
    """From how attention is shared out to how many visual tokens can go: rate k, from 0 on, drops k / rates of them.

    Args:
        rates: K, how many there are: 0, 1/K, ... (K-1)/K.
        layers: of the decoder, where each layer's shares are looked at; 1: their mean.
        width: of the hidden layer.
    """

    def __init__(self, rates: int = 10, layers: int = 1, width: int = 64) -> None:
        super().__init__(rates=rates, layers=layers, width=width)
        self.net = nn.Sequential(nn.Linear(4 * layers, width), nn.GELU(), nn.Linear(width, rates))

    def forward(self, shares: Tensor) -> Tensor:
        """Shares ``[..., L, 4]`` of system, visual, instruction and response tokens to logits ``[..., rates]``."""
        layers = self.arguments["layers"]
        if layers == 1:
            shares = shares.mean(dim=-2, keepdim=True)
        elif shares.shape[-2] != layers:
            raise ValueError(f"RateClassifier: layers must be the decoder's {shares.shape[-2]}, got {layers}")
        return self.net(shares.flatten(-2))


@dataclass(frozen=True)
class DyRate(Method):
    """After every token of the answer, the prompt's last one included, a classifier reads how the token's attention is
    shared out between system, visual, instruction and response tokens, and says which part of the prompt's visual
    tokens can go; the most attended ones of those that are left stay. What has gone never comes back.

    Attention is the mean over heads and layers, that of the last token's row. System is what comes before the first
    picture, response what came as single tokens, instruction all other text. Evicting waits for the device, once a row
    and step; rows of a batch evict each as many as it can.

    `training_mask` and `training_bias` are what the classifier is trained by.

    Attributes:
        weights: a `RateClassifier`, or the path of its file.
    """

    name = "dyrate"
    source = "Liang et al., Dynamic Token Reduction during Generation for Vision Language Models, 2025"
    decodes = True

    weights: RateClassifier | str | None = None

    @functools.cached_property
    def module(self) -> RateClassifier:
        return resolved(self.weights, RateClassifier, self.name)

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def select(self, view: View) -> Selection:
        """All of them: the answer decides."""
        _ = self.module  # without weights it must not begin
        return Selection(torch.arange(len(view), device=view.hidden.device))

    @torch.no_grad()
    def evict(self, step: Step) -> Tensor | None:
        module = on(self.module, step.received.device)
        rates, rate = module.arguments["rates"], int(module(step.shares.to(module.net[0].weight.dtype)).argmax())
        wanted = _left(step.n_first, rate, rates)
        return None if wanted >= len(step.received) else largest(step.received, wanted)


def _left(n: int, rate: int, rates: int) -> int:
    """How many of n tokens rate/rates leaves, half up, and at least one."""
    return max(1, (2 * n * (rates - rate) + rates) // (2 * rates))


def training_mask(
    logits: Tensor, scores: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """A soft mask over the visual tokens through which a classifier is trained: ``sum over k of G_k m^k``, G drawn from
    Gumbel-softmax of the logits, m^k 1 for the tokens that rate k leaves, those of the highest scores.

    The paper's note has m^k keep the share (k - 1) / K, and so the rate 0 nothing; here as everywhere it drops it.

    Args:
        logits: ``[..., K]``, the classifier's.
        scores: ``[..., n]``, what each visual token receives.

    Returns:
        ``[..., n]`` in [0, 1]; 1 for the tokens that every rate leaves. Gradients flow to the logits.
    """
    n, rates = scores.shape[-1], logits.shape[-1]
    uniform = torch.rand(logits.shape, generator=generator, dtype=torch.float32, device=logits.device)
    gumbel = -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
    drawn = F.softmax((logits + gumbel.to(logits.dtype)) / temperature, dim=-1)
    rank = scores.sort(dim=-1, descending=True, stable=True).indices.argsort(dim=-1)
    left = torch.tensor([_left(n, rate, rates) for rate in range(rates)], device=logits.device)
    return (drawn[..., None, :] * (rank[..., None] < left)).sum(dim=-1)


def training_bias(mask: Tensor, visual: Tensor, tokens: int) -> Tensor:
    """What makes attention see visual tokens as far as a mask lets it: log(mask) for their columns, but 0 on the
    diagonal, so that every token sees itself; -inf for what comes later.

    Args:
        mask: ``[B, n]``, of `training_mask`.
        visual: int64 ``[B, n]``, the tokens' places in the sequence.
        tokens: q, its length.

    Returns:
        ``[B, 1, q, q]``, for `attention_mask` of a stock model.
    """
    logs = mask.clamp(min=torch.finfo(mask.dtype).tiny).log()
    columns = torch.zeros(len(mask), tokens, dtype=mask.dtype, device=mask.device).scatter(1, visual, logs)
    diagonal = torch.eye(tokens, dtype=torch.bool, device=mask.device)
    bias = columns[:, None, :].masked_fill(diagonal, 0)
    future = torch.ones(tokens, tokens, dtype=torch.bool, device=mask.device).triu(1)
    return bias.masked_fill(future, torch.finfo(mask.dtype).min)[:, None]
