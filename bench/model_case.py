"""What `bench.model` runs: a LLaVA with random weights, pictures whose tokens merge, and configurations.

On the CPU the language model has about 136 million weights, and grouped heads as in LLaVA-OneVision; on a card it is of
the shape of that model's own, of 7 billion. The vision tower is next to nothing. A random model's answers mean nothing,
but it takes the time of a trained one of its shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pact_ext import PactConfig
from pact_ext.models.random import PATCH, random_inputs, random_model

LAYER = 4  # the published choice
LONGEST_RUN, NOISE = 16, 0.2  # patches of one kind that follow each other; the kind's own numbers have spread 1


@dataclass(frozen=True)
class Shape:
    """Of the decoder, and of its prompts: in each of `batch` rows `visual` tokens with half of the `text` tokens before
    and half after them."""

    layers: int = 12
    hidden: int = 1024
    heads: int = 16
    key_heads: int = 4
    feed_forward: int = 2816
    vocabulary: int = 1024
    visual: int = 2880
    text: int = 64
    batch: int = 1
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        return self.visual + self.text

    @property
    def weights(self) -> int:
        """Of one decoder layer's products."""
        key_width = self.hidden // self.heads * self.key_heads
        return 2 * self.hidden * (self.hidden + key_width) + 3 * self.hidden * self.feed_forward

    def layer_flops(self, tokens: int) -> float:
        """Operations of one decoder layer in prefill: matrix products, and causal attention."""
        return 2.0 * tokens * self.weights + 2.0 * tokens**2 * self.hidden

    def ideal(self, visual_by_layer: Sequence[int]) -> float:
        """The least prefill as a share of the stock one: each layer sees so many visual tokens, reducing is free."""
        left = sum(self.layer_flops(self.text + visual) for visual in visual_by_layer)
        return left / (self.layers * self.layer_flops(self.tokens))

    def column_bytes(self) -> int:
        """Of one token's keys and values in one layer's cache."""
        return 2 * getattr(torch, self.dtype).itemsize * self.hidden // self.heads * self.key_heads


FULL, QUICK = Shape(), Shape(layers=8, visual=1152)
CARD = Shape(28, 3584, 28, 4, 18944, 152064, dtype="bfloat16")
"""LLaVA-OneVision-7B's decoder, Qwen2-7B."""
CARD_SIZES = (2880, 6272)
"""Visual tokens: five tiles of 24 x 24, and two of 56 x 56."""


@dataclass(frozen=True)
class Case:
    """A line of the table, with what `pact_ext.apply` is given; without, it is the stock model."""

    name: str
    method: PactConfig | str | None = None
    attention: str = "fused"


def _pruned(ratio: float) -> PactConfig:
    return PactConfig(cluster=False, prune_ratio=ratio, layer=LAYER)


PACT = PactConfig.preset("llava-onevision-7b", layer=LAYER)
PACT_70 = PactConfig.preset("llava-onevision-7b", layer=LAYER, dc=0.085)  # about 70 %, on these inputs
CASES = (
    Case("stock"),
    Case("keep everything", _pruned(0.0)),
    Case("prune 50 %", _pruned(0.5)),
    Case("prune 75 %", _pruned(0.75)),
    Case("prune 90 %", _pruned(0.9)),
    Case("llava-onevision-7b", PACT),
    Case(f"the same, dc {PACT_70.dc:g}", PACT_70),
    Case(f"the same, dc {PACT_70.dc:g}", PACT_70, "dense"),
)


def build(shape: Shape, device: str = "cpu") -> torch.nn.Module:
    """The model, made where it runs, in evaluation mode, on torch's scaled dot-product attention."""
    decoder = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.key_heads,
        "intermediate_size": shape.feed_forward,
        "vocab_size": shape.vocabulary,
    }
    return random_model(decoder, shape.visual, device=device, dtype=shape.dtype, attn_implementation="sdpa")


def inputs(model: torch.nn.Module, shape: Shape) -> dict[str, Tensor]:
    """The prompts. Patches come in runs of one kind, as along the rows of a photograph, so that tokens merge: rotary
    embedding sets tokens of one kind apart that are far from each other."""
    generator = torch.Generator().manual_seed(0)
    total = shape.batch * shape.visual
    lengths = torch.randint(1, LONGEST_RUN + 1, (total,), generator=generator)
    kind = torch.arange(total).repeat_interleave(lengths)[:total]
    patches = torch.randn(total, 3 * PATCH**2, generator=generator)[kind]
    patches += NOISE * torch.randn(patches.shape, generator=generator)

    found = random_inputs(model, shape.visual, shape.text, shape.batch)
    count, _, height, width = found["pixel_values"].shape
    cells = patches.view(count, height // PATCH, width // PATCH, 3, PATCH, PATCH)
    pixels = cells.permute(0, 3, 1, 4, 2, 5).reshape(found["pixel_values"].shape)
    return {**found, "pixel_values": pixels.to(found["pixel_values"])}


def describe(shape: Shape) -> str:
    """One line about the model and the prompt."""
    s, rows = shape, f"{shape.batch} rows of " if shape.batch > 1 else ""
    return (
        f"{s.layers} layers, hidden size {s.hidden}, {s.heads} query heads on {s.key_heads} key heads, feed-forward "
        f"{s.feed_forward}, {s.dtype}; {rows}{s.visual} visual and {s.text} text tokens"
    )
