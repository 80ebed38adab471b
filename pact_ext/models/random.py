"""Models with random weights in the shapes of published ones, and prompts for them: to time, without a download.

A LLaVA whose decoder has the wanted shape; its vision tower is as small as can be, and counts for nothing in the time.
Pictures are patches of a few kinds with noise, so that visual tokens come in clusters as a photograph's do. But the
keys of random weights lie as chance has it: how many tokens a reduction at a given dc leaves says nothing about a
trained model. To time a reduction by a wanted ratio, set prune_ratio, dc=0 and recover=False (`keeping`).
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config import PactConfig
from .loading import MISSING, device_of, dtype_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SHAPES = {
    "7b": {  # Qwen2-7B, the decoder of LLaVA-OneVision-7B and Qwen2-VL-7B
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18944,
        "vocab_size": 152064,
    },
    "0.5b": {  # Qwen2-0.5B, the decoder of LLaVA-OneVision-0.5B
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 160,
    },
}
"""Shapes of decoders, by name."""
PATCH = 2  # pixels
SPREAD = 0.02  # of the weights, as Qwen2's at the start of its training
KINDS, NOISE = 24, 0.2  # of patches; a kind's own numbers have spread 1


def random_model(
    shape: str | Mapping[str, int],
    visual_tokens: int,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    attn_implementation: str | None = None,
) -> PreTrainedModel:
    """A LLaVA with random weights, in evaluation mode, made where it is to run (7b in bfloat16 takes 15 GB).

    Args:
        shape: of the decoder, a name in `SHAPES`, or arguments of transformers' Qwen2Config.
        visual_tokens: of one row. They come as square images, as few as divide it (2880: five of 24 x 24).
        device, dtype, attn_implementation: as for `pact_ext.models.loading.load`.

    Raises:
        ImportError: transformers is missing.
        ValueError: an unknown shape, no visual tokens, or no such device or dtype.
    """
    if isinstance(shape, str) and shape not in SHAPES:
        raise ValueError(f"pact_ext.random_model: shape must be one of {', '.join(SHAPES)}, got {shape}")
    shape = SHAPES[shape] if isinstance(shape, str) else shape
    if visual_tokens < 1:
        raise ValueError(f"pact_ext.random_model: visual_tokens must be at least 1, got {visual_tokens}")
    device = device_of(device)
    dtype = dtype_of(dtype, device)
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(MISSING, name="transformers") from None

    decoder = transformers.Qwen2Config(**shape, max_position_embeddings=32768, tie_word_embeddings=False)
    small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    tower = transformers.CLIPVisionConfig(**small, image_size=_side(visual_tokens) * PATCH, patch_size=PATCH)
    config = transformers.LlavaConfig(
        text_config=decoder,
        vision_config=tower,
        image_token_index=decoder.vocab_size - 1,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    chosen = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    with torch.device(device), _no_init():
        model = transformers.LlavaForConditionalGeneration._from_config(config, dtype=dtype, **chosen).eval()
    model.requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "position_embedding" in name:
            parameter.zero_()  # patches of one kind become tokens of one kind, wherever they are
        elif parameter.ndim > 1:
            parameter.normal_(0, SPREAD, generator=generator)
        else:
            parameter.fill_(1)
    model.generation_config = transformers.GenerationConfig(pad_token_id=0, eos_token_id=None, do_sample=False)
    return model


def random_inputs(
    model: PreTrainedModel, visual_tokens: int, text_tokens: int = 64, batch: int = 1, seed: int = 0
) -> dict[str, Tensor]:
    """Prompts for a `random_model` of as many visual tokens: half of the text, the images, the other half.

    Returns:
        input_ids and attention_mask ``[batch, visual_tokens + text_tokens]``, and pixel_values, on the model's device.
    """
    generator = torch.Generator().manual_seed(seed)
    side = _side(visual_tokens)
    vision = model.config.vision_config
    if vision.image_size != side * PATCH:
        raise ValueError(
            f"pact_ext.random_inputs: visual_tokens must be those that the model was made for, in images of "
            f"{vision.image_size // PATCH} x {vision.image_size // PATCH}, got {visual_tokens}"
        )
    kinds = torch.randn(KINDS, 3 * PATCH * PATCH, generator=generator)
    kind = torch.randint(KINDS, (batch * visual_tokens,), generator=generator)
    patches = kinds[kind] + NOISE * torch.randn(len(kind), kinds.shape[1], generator=generator)
    pixels = patches.view(-1, side, side, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    image_token = model.config.image_token_index
    ids = torch.randint(image_token, (batch, visual_tokens + text_tokens), generator=generator)
    ids[:, text_tokens // 2 : text_tokens // 2 + visual_tokens] = image_token
    return {
        "input_ids": ids.to(model.device),
        "attention_mask": torch.ones_like(ids).to(model.device),
        "pixel_values": pixels.to(model.device, model.dtype),
    }


def keeping(ratio: float, layer: int = 4) -> PactConfig:
    """Parameters that leave that share of the visual tokens, in (0, 1], of whatever model.

    The clustering runs on them but finds no two to merge, unless their keys are equal: what it costs is timed, what
    it would gain is not.
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"pact_ext.keeping: ratio must be in (0, 1], got {ratio}")
    return PactConfig(prune_ratio=1 - ratio, dc=0.0, recover=False, layer=layer)


def _no_init() -> contextlib.AbstractContextManager:
    """Leaves out what torch and transformers would fill weights with: that would be twice the work, for nothing."""
    for module in ("transformers.initialization", "transformers.modeling_utils"):  # from 5 on; up to 4
        with contextlib.suppress(ImportError):
            if found := getattr(importlib.import_module(module), "no_init_weights", None):
                return found()
    return contextlib.nullcontext()


def _side(visual_tokens: int) -> int:
    """The largest square that divides a number, its root."""
    return next(side for side in range(int(visual_tokens**0.5), 0, -1) if visual_tokens % side**2 == 0)
