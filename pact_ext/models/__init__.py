"""Reducing the visual tokens inside stock Hugging Face models."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from ..config import PactConfig
    from ..methods import Method
    from .handle import Handle


def apply(
    model: PreTrainedModel,
    config: Method | PactConfig | str = "llava-onevision-7b",
    *,
    per_image: bool = False,
    attention: str = "auto",
) -> Handle:
    """Reduce the visual tokens of every call of a Hugging Face vision-language model, with PACT or another method.

    At the input of decoder layer `config.layer` each row's visual tokens are pruned and merged; from there on the
    sequence and the key-value cache are shorter, and attention is proportional to the merged tokens' sizes (section
    3.3 of the paper). Another method acts at layers of its own, perhaps at several. Hooks do it: the model's
    code stays as it is, and `Handle.remove` takes them off again.
    `generate`, batches with padding, several turns on one cache, beam search and assisted decoding work as before.
    Called directly, the model returns logits of the tokens that remain.

    Args:
        model: LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, InternVL, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4.1V, GLM-4.5V,
            Idefics3, SmolVLM or Aya Vision of transformers >= 4.57, in evaluation mode.
        config: a `PactConfig`, or the name of a preset; or a method of `pact_ext.methods`, or the name of one, with
            arguments if need be: ``"fastv:keep=0.25"``.
        per_image: keep images apart; by default all images and frames of a row are one pool, as published. An image is
            what the call's pixels say, whatever stands between its tokens or does not. All frames of a video are one,
            but InternVL and SmolVLM pass them as images. Of some families the text alone says where an image ends: an
            unbroken run of tokens is one of InternVL, and the tile that shows the whole closes one of Idefics3, SmolVLM
            and Aya, told by the tokens before it, as their processors write them.
        attention: how the sizes reach attention. "dense": a float mask, for eager and sdpa. "fused": extra channels of
            the heads, for sdpa and flash_attention_2. "auto": fused where the model's implementation allows it.

    Returns:
        A `Handle`: `report()`, `last`, `columns`, `off()`, `remove()`; in a `with` statement it is removed at the end.

    Raises:
        ImportError: transformers is missing.
        ValueError: an unknown family, a decoder whose keys are not found as Llama's are, windows from the layer on,
            attention that would drop the sizes, a layer the model cannot be reduced at, a model in DataParallel or
            split between ranks, or an argument that is none of those above. Calls raise it where `per_image` finds
            other numbers of tokens than the images have.
        RuntimeError: the model is reduced already. Calls of the reduced model raise it for labels, training mode,
            inputs_embeds without input_ids, a cache that does not fit, a mask that is not causal but for padding,
            packed sequences, and an image that comes in pieces.
    """
    from ..methods import coerce

    return _handles("apply").attach(model, coerce(config), per_image, attention)


def handle_of(model: nn.Module) -> Handle | None:
    """The handle of a reduced model, or None: of one whose handle was not kept, of a copy, or of a model loaded again.

    Args:
        model: as for `apply`; reduced with or without its head, in PEFT's wrapping or out of it.

    Raises:
        ImportError: transformers is missing.
        TypeError: not a module.
    """
    return _handles("handle_of").handle_of(model)


def remove(model: nn.Module) -> None:
    """Give a model back as it was before `apply`, as `Handle.remove` does. One that is not reduced stays as it is.

    Args, Raises: as for `handle_of`.
    """
    handle = _handles("remove").handle_of(model)
    if handle is not None:
        handle.remove()


def _handles(caller: str):
    """The module that needs transformers."""
    try:
        from . import handle
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise
        raise ImportError(
            f"pact_ext.{caller} needs transformers 4.57 or newer: pip install 'pact-ext[models]'", name="transformers"
        ) from None
    return handle
