"""Evicting visual columns from a cache while the answer is generated, by the attention of the token that came last.

Of every layer that row of attention alone is made anew, from the layer's input and the keys it has cached: the model
keeps the attention that it has.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..methods import Method, Step
from .cache import VISUAL, Columns, is_preallocated
from .families import Family
from .ranks import averaged
from .views import LayerInput


def check_cache(cache, name: str) -> None:
    """Raises RuntimeError for a cache whose columns cannot go."""
    if is_preallocated(cache):
        raise RuntimeError(
            f"pact_ext, for {name}: past_key_values must be a cache that can shrink, got {type(cache).__name__}; leave "
            "out cache_implementation"
        )


class StepAttention:
    """How the attention of each row's last token falls on the columns, layer by layer.

    Attributes:
        columns: of the cache, those of this call included.
    """

    def __init__(self, family: Family, cache, columns: Columns) -> None:
        self.family, self.cache, self.columns = family, cache, columns
        self._received, self._layers = [], []

    def add(self, at: LayerInput) -> None:
        """A layer that has run."""
        columns, number = self.columns, at.layer.self_attn.layer_idx
        keys = self.cache.layers[number].keys
        if keys.shape[2] != columns.count:
            raise RuntimeError(
                f"pact_ext: columns can be evicted from a cache that holds all its keys, got {keys.shape[2]} of "
                f"{columns.count} in {type(self.cache.layers[number]).__name__}"
            )
        bias, width = columns.log_sizes.to(keys.device), at.hidden.shape[1]
        last = (bias[:, -width:] > -torch.inf).cumsum(dim=1).argmax(dim=1)  # but for padding behind it
        queries = torch.cat(
            [
                at.turned(self.family, self.family.heads(at.layer, at.hidden[row, place], "q"), row, place)
                for row, place in enumerate(last[:, None])
            ]
        )
        grouped = queries.to(keys.dtype).unflatten(1, (keys.shape[1], -1))
        scale = getattr(at.layer.self_attn, "scaling", queries.shape[-1] ** -0.5)
        scores = (grouped @ keys.transpose(2, 3)).float() * scale + bias[:, None, None].float()
        received = scores.softmax(dim=-1).mean(dim=(1, 2))
        self._received.append(averaged(received, at.layer.self_attn.k_proj))
        self._layers.append(number)

    def evict(self, method: Method) -> bool:
        """Asks the method, row by row, what stays; whether anything went."""
        columns = self.columns
        kinds = columns.kinds
        received = torch.stack([row.to(kinds.device) for row in self._received], dim=1)
        shares = torch.zeros(*received.shape[:2], 4, device=kinds.device)
        shares.scatter_add_(2, kinds.long()[:, None].expand_as(received), received)
        present = columns.log_sizes > -torch.inf
        visual, kept, gone = kinds == VISUAL, [], False
        evicted = columns.evicted.tolist()
        for row, own in enumerate(visual):
            places = own.nonzero().flatten()
            stays = None
            if len(places):
                step = Step(received[row, :, places].mean(dim=0), shares[row], len(places) + evicted[row])
                stays = method.evict(step)
            keep = present[row].clone()
            if stays is not None:
                keep[places] = False
                keep[places[stays]] = True
                gone = True
            kept.append(keep.nonzero().flatten())
        if gone:
            index = columns.evict(kept)
            for number in self._layers:
                _shrink(self.cache.layers[number], index)
        return gone


def _shrink(layer, index: Tensor) -> None:
    """Only the columns ``[B, m]`` stay."""
    index = index.to(layer.keys.device)[:, None, :, None]
    for name in ("keys", "values"):
        states = getattr(layer, name)
        setattr(layer, name, states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3])))
