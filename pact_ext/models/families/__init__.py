"""What differs between the families of vision-language models. Supporting another one is one more small class here."""

from __future__ import annotations

from torch import nn

from . import llava, qwen, tiled  # noqa: F401 - each makes its families known
from .family import FAMILIES, Family, code_of

__all__ = ["FAMILIES", "Family", "base_of", "code_of", "core_of", "family_of", "why_not"]

UNSERVED = {
    "gemma3": (
        "its image tokens attend both ways within an image, and most of its layers within a window; behind a reduction "
        "both would need a mask of their own, by the original positions, and a cache whose windows count them"
    ),
}
"""Families that hooks can see into but not reduce exactly, and why."""


def base_of(model: nn.Module) -> nn.Module:
    """A model without PEFT's wrapping, or the compiler's."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def core_of(model: nn.Module) -> nn.Module:
    """A model without its head and without wrapping: what holds the language model and the vision tower."""
    model = base_of(model)
    inner = getattr(model, "model", None)
    return inner if hasattr(inner, "language_model") or hasattr(inner, "text_model") else model


def family_of(core: nn.Module, caller: str) -> Family:
    """The family of a model without its head; `caller` is named in the error."""
    model_type = getattr(getattr(core, "config", None), "model_type", None)
    if model_type not in FAMILIES:
        raise ValueError(
            f"{caller}: model must be of a known family ({', '.join(sorted(FAMILIES))}), got {type(core).__name__} of "
            f"type {model_type!r}{why_not(model_type)}"
        )
    return FAMILIES[model_type]


def why_not(model_type: str | None) -> str:
    """The end of an error about a family that is not served."""
    return f": {UNSERVED[model_type]}" if model_type in UNSERVED else ""
