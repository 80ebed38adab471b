"""What the engine shows a method: views of one row's visual tokens, made from a layer and its inputs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import ops
from ..methods import Encoder, Grid, Method, View
from .encoder import EncoderViews
from .families import Family
from .pictures import Picture, pictures_of_rows
from .ranks import gathered
from .sequence import Sequence


@dataclass(frozen=True)
class LayerInput:
    """What a decoder layer is called with.

    Attributes:
        layer: the layer.
        hidden: ``[B, q, d]``.
        rotary: cosines and sines ``[..., 1 or B, q, width]`` of these columns.
    """

    layer: nn.Module
    hidden: Tensor
    rotary: tuple[Tensor, Tensor]

    def turned(self, family: Family, heads: Tensor, row: int, at: Tensor | slice) -> Tensor:
        """Keys or queries ``[n, H, dh]`` of some of a row's columns, after rotary embedding."""
        cos_sin = (x.to(heads.device)[..., row if x.shape[-3] > 1 else 0, :, :][..., at, :] for x in self.rotary)
        return family.rotated(self.layer, heads, *cos_sin)


@dataclass(frozen=True)
class PastKeys:
    """What a layer had cached before this call: `count` columns, and ``[B, count]`` which of them are no padding, None
    when all are."""

    cache: object
    count: int
    present: Tensor | None

    def of(self, layer: nn.Module, row: int) -> Tensor:
        """``[n, Hk, dh]`` after rotary embedding."""
        keys = self.cache.layers[layer.self_attn.layer_idx].keys[row, :, : self.count].transpose(0, 1)
        keys = gathered(keys, layer.self_attn.k_proj)
        return keys if self.present is None else keys[self.present[row].to(keys.device)]


@dataclass(frozen=True)
class Scene:
    """What views are made from, at one site of one call.

    Attributes:
        at: the input of the site's layer.
        before: the input of the layer before it, for methods that look at attention.
        past: what that layer had cached before.
        earlier: the inputs ``[B, tokens, d]`` of the layers that the method looks at.
        embedded: ``[B, tokens, d]``, what came into the decoder in this call, for methods that look at it.
        core, given: the model without its head, and the arguments of the call.
        encoder: for methods that look at the vision tower.
    """

    method: Method
    family: Family
    site: int
    sequence: Sequence
    at: LayerInput
    before: LayerInput | None
    past: PastKeys | None
    earlier: list[Tensor]
    embedded: Tensor | None
    core: nn.Module
    given: dict
    encoder: EncoderViews | None = None

    def view(self, row: int, group: int) -> View:
        """Of one group of a row's visual tokens."""
        at = self.sequence.visual[row][group].to(self.at.hidden.device)
        hidden = self.at.hidden[row, at]
        parts = {name: getattr(self, f"_{name}") for name in self.method.needs}
        return View(
            hidden,
            needs=self.method.needs,
            site=self.site,
            n_first=self.sequence.counts[row][group],
            sizes=self.sequence.sizes[row, at],
            **{name: functools.partial(part, row, at, hidden) for name, part in parts.items()},
        )

    # --- The parts of a view, by name. Under autocast projections come in another dtype than their inputs. ------------

    def _keys(self, row: int, at: Tensor, hidden: Tensor) -> Tensor:
        return self.family.keys(self.at.layer, hidden).to(hidden.dtype)

    def _queries(self, row: int, at: Tensor, hidden: Tensor) -> Tensor:
        return self.family.queries(self.at.layer, hidden).to(hidden.dtype)

    def _turned_keys(self, row: int, at: Tensor, hidden: Tensor) -> Tensor:
        return self.at.turned(self.family, self._keys(row, at, hidden), row, at)

    def _row(self, row: int, at: Tensor, hidden: Tensor) -> int:
        return row

    def _layers(self, row: int, at: Tensor, hidden: Tensor) -> int:
        return len(self.family.decoder(self.core).layers)

    def _text(self, row: int, at: Tensor, hidden: Tensor) -> Tensor:
        return self.at.hidden[row, self.sequence.text(row)]

    def _text_keys(self, row: int, at: Tensor, hidden: Tensor) -> Tensor:
        columns = self.sequence.text(row)
        keys = self.family.keys(self.at.layer, self.at.hidden[row, columns]).to(hidden.dtype)
        return self.at.turned(self.family, keys, row, columns)

    def _tail(self, row: int, at: Tensor, hidden: Tensor) -> int:
        tail = self.sequence.tail[row]
        if not self.sequence.holes:
            return tail
        return int((self.sequence.sizes[row, self.sequence.width - tail :] > 0).sum())

    def _embedded(self, row: int, at: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        visual = torch.cat(self.sequence.prompt.visual[row]).to(self.embedded.device, non_blocking=True)
        text = self.sequence.source[row, self.sequence.text(row)].to(self.embedded.device)
        return self.embedded[row, visual].to(hidden.device), self.embedded[row, text].to(hidden.device)

    def _earlier(self, row: int, at: Tensor, hidden: Tensor) -> list[Tensor]:
        source = self.sequence.source[row, at]
        return [states[row, source.to(states.device)].to(hidden.device) for states in self.earlier]

    def _grids(self, row: int, at: Tensor, hidden: Tensor) -> list[Grid]:
        index = {place: i for i, place in enumerate(self.sequence.source[row, at].tolist())}
        found = []
        for places, _, image in self._pictures[row]:
            here = torch.tensor([index[place] for place in places.tolist() if place in index])
            here = here.to(at.device, non_blocking=True)
            if not len(here):
                continue  # of another group
            spans = [] if image is None else image.grids
            if not len(here) == len(places) == sum(span.count for span in spans):
                raise ValueError(
                    f"pact_ext, for {self.method.name}: every picture's tokens must be grids, got a "
                    f"{'video' if image is None else 'picture'} of {len(places)} tokens in row {row} that are not "
                    f"(model_type {self.core.config.model_type!r})"
                )
            for span in spans:
                tokens = here[span.start : span.start + span.count].view(span.rows, -1)
                ends = tokens[:, -1] if span.ends else None
                found.append(Grid(tokens[:, : span.columns].flatten(), span.rows, span.columns, ends))
        return found

    @functools.cached_property
    def _pictures(self) -> list[list[Picture]]:
        return pictures_of_rows(self.core, self.family, self.given, f"pact_ext, for {self.method.name}")

    def _encoder(self, row: int, at: Tensor, hidden: Tensor) -> Encoder:
        return self.encoder.of(row, self.sequence.source[row, at])

    def _received(self, row: int, at: Tensor, hidden: Tensor):
        return functools.partial(self._attention, row, at)

    def _attention(self, row: int, at: Tensor, rows: str | Tensor) -> Tensor:
        """See `View.received`. Merged tokens count as one each."""
        before, lead = self.before, self.sequence.lead[row]
        columns = torch.arange(lead, self.sequence.width, device=at.device)
        if self.sequence.holes:
            columns = columns[self.sequence.sizes[row, columns] > 0]
        inputs = before.hidden[row, columns]
        keys = before.turned(self.family, self.family.keys(before.layer, inputs), row, columns)
        if self.past is not None and self.past.count:
            keys = torch.cat([self.past.of(before.layer, row).to(keys), keys])
        chosen = None
        if isinstance(rows, Tensor):
            chosen = torch.searchsorted(columns, self.sequence.text(row).to(at.device)[rows])
            rows = "all"
        end = len(columns) - self.sequence.tail[row] if rows == "prefix" else len(columns)
        begin = end - 1 if rows == "last" else 0
        asked = columns[begin:end]
        queries = before.turned(self.family, self.family.queries(before.layer, inputs[begin:end]), row, asked)
        dtype = torch.float32 if queries.dtype == torch.float64 else queries.dtype
        received = ops.received_attention(
            queries.to(dtype),
            keys.to(dtype),
            rows=chosen,
            first=len(keys) - len(columns) + begin,
            scale=getattr(before.layer.self_attn, "scaling", None),
        )
        return received[len(keys) - len(columns) + torch.searchsorted(columns, at)]
