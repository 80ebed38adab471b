"""What can be reduced and what cannot, decided before the first call: by the parts of the model, and by the keys that a
layer makes of a few random tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..methods import Method
from .families import Family, code_of, core_of, family_of
from .ranks import gathered, why_not


def parts_of(model: nn.Module, method: Method) -> tuple[nn.Module, Family, nn.Module, tuple[int, ...]]:
    """The core, the family and the decoder of a model that can be reduced, and the layers at whose input it is.

    Raises:
        ValueError: it cannot; the message says what stands in the way.
    """
    _check_alone(model)
    core = core_of(model)
    family = family_of(core, "pact_ext.apply")
    decoder = family.decoder(core)
    sites = _sites(decoder, family.first_layer(core), method, core.config.model_type)
    _check_split(core, decoder, method)
    _check_windows(decoder, sites[0])
    _check_keys(decoder, family, decoder.layers[sites[0]])
    return core, family, decoder, sites


def route(layer: nn.Module, attention: str) -> str:
    """The route of the sizes, dense where attention is written out and not taken from transformers' registry."""
    if "ALL_ATTENTION_FUNCTIONS" in code_of(layer):
        return attention
    if attention == "fused":
        raise ValueError(
            f"pact_ext.apply: attention must be 'dense' or 'auto' for {type(layer.self_attn).__name__}, which does not "
            "use transformers' registry of attention functions, got 'fused'"
        )
    return "dense" if attention == "auto" else attention


def _check_alone(model: nn.Module) -> None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ValueError(
            f"pact_ext.apply: model must not be in the wrapping of {type(model).__name__}; apply to model.module, and "
            "call that"
        )


def _check_split(core: nn.Module, decoder: nn.Module, method: Method) -> None:
    reason = why_not(core, decoder, "encoder" in method.needs)
    if reason is not None:
        raise ValueError(
            f"pact_ext.apply: model must be whole on every rank, or split between them by its decoder's heads, got one "
            f"where {reason}"
        )


def _sites(decoder: nn.Module, first: int, method: Method, model_type: str) -> tuple[int, ...]:
    layers = len(getattr(decoder, "layers", ()))
    if not layers:
        raise ValueError(
            f"pact_ext.apply: a decoder of {type(decoder).__name__} cannot be reduced, for it has no `layers`"
        )
    sites = method.sites(layers)
    for layer in sites:
        if not first <= layer < layers:
            why = f"; its layers before {first} add visual features to visual tokens' places" if first else ""
            wanted = f"must be in {first} to {layers - 1} for this model, got {layer}{why}"
            if hasattr(method, method.layer_argument.partition(".")[0]):
                raise ValueError(f"pact_ext.apply: {method.layer_argument} {wanted}")
            raise ValueError(
                f"pact_ext.apply: the layers at which {method.name} acts {wanted} (model_type {model_type!r})"
            )
    return sites


def _check_windows(decoder: nn.Module, layer: int) -> None:
    config = decoder.config
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        names = ("sliding_window", "attention_chunk_size") if getattr(config, "use_sliding_window", True) else ()
        windows = [f"{name}={getattr(config, name)}" for name in names if getattr(config, name, None) is not None]
        kinds = len(decoder.layers) * (windows or ["full_attention"])
    kinds = [_own_kind(other) or kind for other, kind in zip(decoder.layers, kinds, strict=True)]
    if any(kind != "full_attention" for kind in kinds[layer:]):
        raise ValueError(
            f"pact_ext.apply: layers from {layer} on must have full attention, got {sorted(set(kinds[layer:]))}; "
            "a window over a shortened sequence would be another one"
        )


def _own_kind(layer: nn.Module) -> str | None:
    """What a layer is besides the configuration's word for it."""
    attention = getattr(layer, "self_attn", None)
    if attention is None:
        return type(layer).__name__
    if getattr(attention, "sliding_window", None) is not None:
        return f"sliding_window={attention.sliding_window}"
    return None if getattr(attention, "is_causal", True) else "is_causal=False"


class _Written(Exception):
    """Carries the keys that a layer was about to put in its cache."""


class _Probe(DynamicCache):
    def update(self, keys: Tensor, *args, **kwargs):
        raise _Written(keys)


@torch.no_grad()
def _check_keys(decoder: nn.Module, family: Family, layer: nn.Module) -> None:
    """The keys that the family finds, rotated as it does, must be those that the layer itself puts in its cache."""
    try:
        found, written = _keys_of_both(decoder, family, layer)
    except Exception as error:  # whatever a layout that nobody foresaw may lead to
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{_refusal(layer)} are not found as Llama's are ({reason})") from error
    if found is None:
        return
    if found.shape != written.shape or not (found - written).abs().max() <= 0.05 * written.abs().max():
        raise ValueError(f"{_refusal(layer)} are made in a way of its own")


def _refusal(layer: nn.Module) -> str:
    return f"pact_ext.apply: a decoder of {type(layer).__name__} cannot be reduced, for its keys"


def _keys_of_both(decoder: nn.Module, family: Family, layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """``[n, Hk, dh]`` after rotary embedding, of a few random tokens."""
    weight = next(parameter for parameter in layer.parameters() if parameter.is_floating_point())
    if weight.device.type == "meta":
        return None, None  # offloaded
    tokens = torch.randn(4, decoder.config.hidden_size, generator=torch.Generator().manual_seed(0)).to(weight)
    places = torch.arange(4, device=weight.device)
    ids = torch.stack([places + 1, 2 * places, places + 5])[:, None] if _has_axes(decoder.config) else places[None]
    cos, sin = decoder.rotary_emb(tokens[None], ids)
    found = family.rotated(layer, family.keys(layer, tokens), *(x[..., 0, :, :] for x in (cos, sin)))
    try:
        layer.forward(tokens[None], attention_mask=None, position_embeddings=(cos, sin), past_key_values=_Probe())
    except _Written as result:
        written = gathered(result.args[0][0].transpose(0, 1), layer.self_attn.k_proj)
        return found.float(), written.float()
    raise TypeError("its layers do not write to past_key_values")


def _has_axes(config) -> bool:
    """Whether positions have the three axes of multimodal RoPE."""
    return any("mrope_section" in (getattr(config, name, None) or {}) for name in ("rope_parameters", "rope_scaling"))
