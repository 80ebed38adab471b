"""The vision tower's attention, for the methods that select by it.

Hooks note what the layers that a method names get, and what the projector gets and gives. From that the attention of
one row, the class token's, is made anew, or where a tower has none the mean over all rows: the tower itself keeps the
attention that it has. `generate` of transformers 5 encodes the pictures before it calls the model, and brings features
that are told by where they lie in memory; otherwise the pictures are encoded in the call itself.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .. import ops
from ..methods import Encoder, Method, Tile
from .families import Family
from .families.family import ImageTokens
from .families.tower import Tower
from .pictures import encoded, pictures_of_rows
from .tiles import tiles_of


@dataclass
class Seen:
    """What went through a tower, of the `B` pictures, or tiles of some, that it saw at once.

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
        self.count = seen.features.shape[1]  # patches of a tile
        patches = next(iter(seen.inputs.values())).shape[1] - tower.has_class
        if self.count != patches:
            raise RuntimeError(f"{caller}: every patch must be a visual token, got {self.count} tokens of {patches}")
        self.tower, self.seen, self.caller = tower, seen, caller
        self.rows = pictures_of_rows(core, family, given, caller)
        self._check_pictures(core.config.model_type)
        images = {picture.number: picture.tokens for row in self.rows for picture in row}
        self.first = list(itertools.accumulate((images[number].tiles for number in sorted(images)), initial=0))
        self._check_features(given, [images[number] for number in sorted(images)])

    def _check_pictures(self, model_type: str) -> None:
        for row, found in enumerate(self.rows):
            for picture in found:
                if picture.tokens is None or picture.tokens.patches is None:
                    what = "a video" if picture.tokens is None else "a picture with parts that were scaled down"
                    raise RuntimeError(
                        f"{self.caller}: every visual token must be a patch of the vision tower, or end a row of them, "
                        f"got {what} in row {row} (model_type {model_type!r})"
                    )

    def _check_features(self, given: Mapping, images: list[ImageTokens]) -> None:
        """Features that were encoded before the call must be what the tower gave last."""
        if encoded(given, "image") is None:
            return
        features = {one.data_ptr(): one for one in given["mm_encoder_outputs"]["image"].pooler_output}
        found = list(features.values())  # without the copies that `generate` makes of them
        ok = len(found) == len(images) and self.first[-1] == len(self.seen.projected)
        same = []
        for one, image, first in zip(found, images, self.first, strict=False):
            ok = ok and len(one) == image.count
            if ok:
                at = (image.patches >= 0).nonzero().flatten()
                of_tower = self.seen.projected[first : first + image.tiles].flatten(0, 1)
                at, patches = (x.to(one.device, non_blocking=True) for x in (at, image.patches[at]))
                same.append((one[at] == of_tower[patches]).all())
        if not ok or not torch.stack(same).all():
            raise RuntimeError(
                f"{self.caller}: the features in mm_encoder_outputs must be what the vision tower gave last, whole, "
                "got others; let generate encode the pictures, without prefill_chunk_size"
            )

    def of(self, row: int, places: Tensor) -> Encoder:
        """Of the visual tokens at some places of a row in its prompt."""
        index, device = {place: i for i, place in enumerate(places.tolist())}, places.device
        seen_at, found = torch.full((len(places),), -1), []  # the tower's patch that each token is
        for picture, (own, number, image) in enumerate(self.rows[row]):
            here = torch.tensor([index.get(place, -1) for place in own.tolist()])
            if not (here >= 0).any():
                continue
            first = self.first[number]
            is_patch = (here >= 0) & (image.patches >= 0)
            seen_at[here[is_patch]] = image.patches[is_patch] + first * self.count
            for tile in tiles_of(image, self.count):
                found.append((picture, *(None if at is None else here[at] for at in tile)))
        is_patch = seen_at >= 0
        patches, order = is_patch.nonzero().flatten(), is_patch.cumsum(0) - 1  # among the patches, of each token
        tiles = []
        for picture, own, region in found:
            own, region = (
                None if at is None else order[at[at >= 0]].to(device, non_blocking=True) for at in (own, region)
            )
            tiles.append(Tile(own, picture, region))
        numbers, inside = (seen_at[patches] // self.count).unique(return_inverse=True)
        inside = (inside * self.count + seen_at[patches] % self.count).to(device, non_blocking=True)

        def of_all(of_tile: Callable[[int], Tensor]) -> Tensor:
            """What is known of each tile's patches, for the view's own."""
            return torch.cat([of_tile(number).to(device) for number in numbers.tolist()])[inside]

        @functools.cache
        def attention(layer: int, joined: bool = False) -> Tensor:
            return of_all(functools.partial(self._attention, layer, joined))

        return Encoder(
            attention=attention,
            keys=lambda layer: of_all(functools.partial(self._keys, layer)),
            tiles=tiles,
            features=of_all(self.seen.features.__getitem__),
            project=self.tower.projector.forward,
            places=None if len(patches) == len(places) else patches.to(device, non_blocking=True),
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
