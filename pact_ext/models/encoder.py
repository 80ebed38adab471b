"""The vision tower's attention, for the methods that select by it.

Hooks note what the layers that a method names get, and what the projector gets and gives. From that the attention of
one row, the class token's, is made anew, or where a tower has none the mean over all rows: the tower itself keeps the
attention that it has. `generate` of transformers 5 encodes the pictures before it calls the model, and brings features
that are told by where they lie in memory; otherwise the pictures are encoded in the call itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from ..methods import Encoder, Method, Tile
from .families import Family
from .families.tower import Tower
from .pictures import encoded, pictures


@dataclass
class Seen:
    """What went through a tower, of the `B` pictures that it saw at once.

    Attributes:
        inputs: of each layer that is looked at, ``[B, m, dv]``, with the class token where there is one.
        features: ``[B, n, dv]``, what the projector got.
        projected: ``[B, n, d]``, what it gave.
    """

    inputs: dict[int, Tensor] = field(default_factory=dict)
    features: Tensor | None = None
    projected: Tensor | None = None


def tower_of(family: Family, core: nn.Module, method: Method) -> Tower | None:
    """The tower of a model, if the method needs its attention.

    Raises:
        ValueError: the model lacks something that the method needs.
    """
    if "encoder" not in method.needs:
        return None
    try:
        tower = family.tower(core)
        for layer in method.encoder_layers:
            tower.index(layer)
    except ValueError as error:
        raise ValueError(
            f"pact_ext.apply: {method.name} needs {error} (model_type {core.config.model_type!r})"
        ) from None
    return tower


class EncoderViews:
    """The parts `View.encoder` of one call.

    Args:
        core, given: the model without its head, and the arguments of the call.
    """

    def __init__(self, tower: Tower, seen: Seen | None, core: nn.Module, family: Family, given: Mapping, caller: str):
        if seen is None or seen.projected is None:
            raise RuntimeError(
                f"{caller}: the pictures of this call must be encoded by the model's own vision tower while it is "
                "reduced, got features from elsewhere"
            )
        if seen.features.shape[1] != next(iter(seen.inputs.values())).shape[1] - tower.has_class:
            raise RuntimeError(
                f"{caller}: every patch must be a visual token, got {seen.features.shape[1]} tokens of a tower's "
                f"{next(iter(seen.inputs.values())).shape[1]}"
            )
        self.tower, self.seen, self.caller = tower, seen, caller
        numbers = iter(self._numbers(given))
        self.rows = [[(places, next(numbers, None)) for places in row] for row in pictures(core, family, given, caller)]

    def _numbers(self, given: Mapping) -> list[int]:
        """Which of the pictures that the tower saw each one of the call is, in order."""
        projected = self.seen.projected
        if encoded(given, "image") is None:
            return list(range(len(projected)))
        numbers = {one.data_ptr(): number for number, one in enumerate(projected)}
        found = [numbers.get(features.data_ptr()) for features in given["mm_encoder_outputs"]["image"].pooler_output]
        if None in found:
            raise RuntimeError(
                f"{self.caller}: the features in mm_encoder_outputs must be what the vision tower gave last, whole, "
                "got others; let generate encode the pictures, without prefill_chunk_size"
            )
        return found

    def of(self, row: int, places: Tensor) -> Encoder:
        """Of the visual tokens at some places of a row in its prompt."""
        index, parts, tiles, device = {place: i for i, place in enumerate(places.tolist())}, [], [], places.device
        for picture, (own, number) in enumerate(self.rows[row]):
            patches = [patch for patch, place in enumerate(own.tolist()) if place in index]
            if not patches:
                continue
            if number is None or len(own) != self.seen.features.shape[1]:
                raise RuntimeError(f"{self.caller}: every picture must be one that the vision tower saw, got others")
            here = torch.tensor([index[int(own[patch])] for patch in patches], device=device)
            parts.append((number, torch.tensor(patches, device=device)))
            tiles.append(Tile(here, picture))
        order = torch.cat([tile.places for tile in tiles]).argsort()

        def of_all(of_picture: Callable[[int], Tensor]) -> Tensor:
            """What is known of each picture's patches, for the view's tokens."""
            return torch.cat([of_picture(number).to(device)[patches] for number, patches in parts])[order]

        @functools.cache
        def attention(layer: int, joined: bool = False) -> Tensor:
            return of_all(functools.partial(self._attention, layer, joined))

        return Encoder(
            attention=attention,
            keys=lambda layer: of_all(functools.partial(self._keys, layer)),
            tiles=tiles,
            features=of_all(self.seen.features.__getitem__),
            project=self.tower.projector.forward,
        )

    def _input(self, layer: int, number: int) -> Tensor:
        return self.seen.inputs[self.tower.index(layer)][number]

    def _keys(self, layer: int, number: int) -> Tensor:
        hidden = self._input(layer, number)[int(self.tower.has_class) :]
        return self.tower.heads(self.tower.index(layer), hidden, "k").to(hidden.dtype)

    def _attention(self, layer: int, joined: bool, number: int) -> Tensor:
        hidden, index = self._input(layer, number), self.tower.index(layer)
        asking = hidden[:1] if self.tower.has_class else hidden
        queries, keys = self.tower.heads(index, asking, "q"), self.tower.heads(index, hidden, "k")
        scale = self.tower.layers[index].self_attn.scale
        if joined:
            queries, keys, scale = queries.flatten(1), keys.flatten(1), None
        dtype = torch.float32 if hidden.dtype == torch.float64 else hidden.dtype
        received = ops.received_attention(queries.to(dtype), keys.to(dtype), first=0, causal=False, scale=scale)
        return received[int(self.tower.has_class) :]
