"""LLaMA-VID: a picture as one token of what was asked, and a few of what it shows (Li et al., ECCV 2024)."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .method import Method, Selection, budget
from .trained import TrainedModule, on, resolved
from .view import View

if TYPE_CHECKING:
    from typing import Self


class ContextAttention(TrainedModule):
    """Text asks, a picture's features answer: ``value(mean over queries of softmax(q (key X)^T / sqrt(C)) X)``.

    Args:
        text: width of the text's embeddings.
        vision: C, width of the vision tower's features.
        hidden: width of the tokens that come out.
    """

    def __init__(self, text: int, vision: int, hidden: int) -> None:
        super().__init__(text=text, vision=vision, hidden=hidden)
        self.query, self.key = nn.Linear(text, vision), nn.Linear(vision, vision)
        self.value = nn.Linear(vision, hidden)

    @classmethod
    def for_model(cls, model: nn.Module) -> Self:
        """An untrained one with the widths of a Hugging Face model; torch.manual_seed decides its weights."""
        hidden = model.config.get_text_config().hidden_size
        return cls(text=hidden, vision=model.config.vision_config.hidden_size, hidden=hidden)

    def forward(self, text: Tensor, features: Tensor) -> Tensor:
        """Text ``[t, text]`` and features ``[m, C]`` to a token ``[hidden]``."""
        asked = self.query(text) @ self.key(features).T / math.sqrt(features.shape[-1])
        return self.value((asked.softmax(dim=-1) @ features).mean(dim=0))


@dataclass(frozen=True)
class LlamaVID(Method):
    """Each picture becomes a context token, what the text finds in its features, and content tokens, the means of the
    cells of a square grid over it, through the model's projector.

    A picture that was cut into tiles is as many pictures; tokens that end their rows go.

    The text that asks is what follows the last picture, or all where nothing does: its embeddings, through a linear
    map, where the paper has a text decoder of its own. Features are the tower's, as the projector gets them. The tokens
    come in the paper's order, the context first, at places spread evenly over the picture's. Where a side is no
    multiple of the grid's, cells overlap by a token (adaptive pooling); the public code has more of them then.

    With gradients on they flow into the weights, and into the model, so that both can be trained through it.

    Attributes:
        keep: of each picture's tokens, or their number: the context and the largest square that fits beside it.
        weights: a `ContextAttention`, or the path of its file.
    """

    name = "llama-vid"
    source = "Li et al., LLaMA-VID: An Image is Worth 2 Tokens in Large Language Models, ECCV 2024"
    needs = frozenset({"encoder", "grids", "text", "tail"})
    encoder_layers = (-1,)  # of which nothing is asked; the features come along
    trainable = True

    keep: float | int = 2
    weights: ContextAttention | str | None = None

    def __post_init__(self) -> None:
        self.check_keep()

    @functools.cached_property
    def module(self) -> ContextAttention:
        return resolved(self.weights, ContextAttention, self.name)

    def sites(self, layers: int) -> tuple[int, ...]:
        return (0,)

    def count(self, n: int, site: int = 0) -> int:
        """Of one picture."""
        return 1 + self._side(n) ** 2

    def _side(self, n: int) -> int:
        return math.isqrt(budget(n, self.keep) - 1)

    def select(self, view: View) -> Selection:
        module, encoder = on(self.module, view.hidden.device), view.encoder
        dtype = module.value.weight.dtype
        text = (view.text[-view.tail :] if view.tail else view.text).to(dtype)
        features = encoder.features
        for name, width, got in (("text", text.shape[1], "text"), ("vision", features.shape[1], "features")):
            if module.arguments[name] != width:
                raise ValueError(
                    f"{self.name}: weights must be for {got} of width {width}, got {name}={module.arguments[name]}"
                )
        if not len(text):
            raise ValueError(f"{self.name}: the row must have text tokens, got none")
        tokens, places = [], []
        rows = torch.arange(len(view), device=features.device)
        if encoder.places is not None:
            rows = torch.zeros_like(rows).index_put((encoder.places,), rows[: len(features)])
        for grid in view.grids:
            own, side = features[rows[grid.places]], self._side(len(grid.places))
            content = own.unflatten(0, (grid.rows, grid.columns)).movedim(-1, 0)
            content = F.adaptive_avg_pool2d(content, side).flatten(1).T if side else own[:0]
            context = module(text, own.to(dtype)).to(view.hidden.dtype)
            tokens.append(torch.cat([context[None], encoder.project(content).to(context.dtype)]))
            spread = torch.arange(1 + side * side, device=own.device) * len(own) // (1 + side * side)
            places.append(grid.places[spread])
        kept, order = torch.cat(places).sort()
        return Selection(kept, hidden=torch.cat(tokens)[order])
