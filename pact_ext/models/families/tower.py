"""Vision towers whose layers are CLIP's: a norm, then the projections of queries and keys."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Tower:
    """A tower whose every patch, in order, is a token of the projector's output.

    Attributes:
        layers: of the tower.
        has_class: whether a class token comes before the patches.
        projector: what its features go through.
    """

    layers: nn.ModuleList
    has_class: bool
    projector: nn.Module

    @classmethod
    def of(cls, tower: nn.Module, projector: nn.Module) -> Tower:
        """Of CLIP, or of SigLIP, whose layers are the same and which has no class token.

        Raises:
            ValueError: neither.
        """
        inner = getattr(tower, "vision_model", tower)
        layers = getattr(getattr(inner, "encoder", None), "layers", ())
        parts = ("layer_norm1", "self_attn.q_proj", "self_attn.k_proj", "self_attn.head_dim", "self_attn.scale")
        if not len(layers) or not all(_has(layer, part) for layer in layers for part in parts):
            raise ValueError(f"a vision tower with layers like CLIP's, and {type(tower).__name__} has others")
        return cls(layers, hasattr(inner.embeddings, "class_embedding"), projector)

    def index(self, layer: int) -> int:
        """Which layer that is, counted from the first.

        Raises:
            ValueError: there is none.
        """
        if not -len(self.layers) <= layer < len(self.layers):
            raise ValueError(f"layer {layer} of the vision tower, which has {len(self.layers)}")
        return layer % len(self.layers)

    def heads(self, layer: int, hidden: Tensor, which: str) -> Tensor:
        """Queries or keys ``[n, H, dh]`` of a layer's inputs ``[n, dv]``."""
        layer = self.layers[layer]
        projected = getattr(layer.self_attn, f"{which}_proj")(layer.layer_norm1(hidden))
        return projected.unflatten(-1, (-1, layer.self_attn.head_dim))


def _has(module: nn.Module, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True
