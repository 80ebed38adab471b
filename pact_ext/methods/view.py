"""What a method sees: the visual tokens of one row, or of one picture, at one of its sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Grid(NamedTuple):
    """Tokens of a picture that are a grid: the whole of it, or one of the views into which it was cut.

    Attributes:
        places: ``[rows * columns]`` indices into the view, row by row.
        ends: ``[rows]``, of a family that ends each row with a token of its own, those.
    """

    places: Tensor
    rows: int
    columns: int
    ends: Tensor | None = None


class Tile(NamedTuple):
    """What the vision tower saw at once: a picture or, of one cut into parts, the whole view or a part.

    Attributes:
        places: ``[t]`` indices into the patches of an `Encoder`, row by row.
        picture: which picture it belongs to.
        region: of a part, the places of the whole view's patches that show the same; None for the whole view.
    """

    places: Tensor
    picture: int = 0
    region: Tensor | None = None


@dataclass(frozen=True)
class Encoder:
    """What the vision tower knows of those of a view's tokens that are patches of it, in their order.

    Attributes:
        attention: ``attention(layer, joined=False)``: float32 ``[m]``, what the class token gives each patch, or where
            a tower has none the mean over all its queries; the mean over the heads, or with all heads `joined` to a
            single one as wide as the layer. Softmax is over all that one tile holds, the class token included.
        keys: ``keys(layer)``: ``[m, H, dh]``.
        tiles: of each picture, the whole view first.
        features: ``[m, dv]``, what the projector got.
        project: the projector.
        places: int64 ``[m]``, which of the view's tokens are these patches, ascending; None: all, one after another.
    """

    attention: Callable[..., Tensor]
    keys: Callable[[int], Tensor]
    tiles: list[Tile]
    features: Tensor
    project: Callable[[Tensor], Tensor]
    places: Tensor | None = None


@dataclass(frozen=True)
class Step:
    """What a token of the answer, or the prompt's last, leaves behind: how its attention fell on one row's columns.

    Attributes:
        received: float32 ``[n]``, what each visual token that is left received, the mean over heads and layers.
        shares: float32 ``[layers, 4]``, what system, visual, instruction and response tokens received together in each
            layer, the mean over heads; each layer's sum to 1.
        n_first: how many visual tokens the row's prompts brought.
    """

    received: Tensor
    shares: Tensor
    n_first: int


class View:
    """Visual tokens, as far as a method's `needs` go. Each part is computed when it is first asked for, and once.

    An engine makes views inside models. By hand, for tests and for engines of one's own, the parts are given by name,
    as values or as functions without arguments:

    >>> View(hidden, needs=method.needs, keys=keys, queries=lambda: project(hidden))

    Attributes:
        hidden: ``[n, d]`` hidden states.
        site: which of the method's sites this is, from 0.
        n_first: how many tokens there were before the first site.
        sizes: int64 ``[n]``, how many tokens each stands for.
    """

    def __init__(
        self,
        hidden: Tensor,
        *,
        needs: frozenset[str] = frozenset(),
        site: int = 0,
        n_first: int | None = None,
        sizes: Tensor | None = None,
        **parts: Any | Callable[[], Any],
    ) -> None:
        self.hidden, self.site = hidden, site
        self.n_first = len(hidden) if n_first is None else n_first
        self.sizes = torch.ones(len(hidden), dtype=torch.int64, device=hidden.device) if sizes is None else sizes
        self._needs, self._parts, self._made = needs, parts, {}

    def __len__(self) -> int:
        return len(self.hidden)

    def _part(self, name: str):
        if name not in self._needs:
            raise AttributeError(f"View: {name!r} is not among the method's needs ({', '.join(sorted(self._needs))})")
        if name not in self._parts:
            raise AttributeError(f"View: {name!r} was not given")
        if name not in self._made:
            part = self._parts[name]
            self._made[name] = part() if callable(part) else part
        return self._made[name]

    @property
    def keys(self) -> Tensor:
        """``[n, Hk, dh]``, of the site's layer, before rotary embedding."""
        return self._part("keys")

    @property
    def queries(self) -> Tensor:
        """``[n, Hq, dh]``, before rotary embedding."""
        return self._part("queries")

    @property
    def turned_keys(self) -> Tensor:
        """``[n, Hk, dh]``, after rotary embedding."""
        return self._part("turned_keys")

    @property
    def received(self) -> Callable[[str | Tensor], Tensor]:
        """``received(rows)``: float32 ``[n]``, the attention that each token receives in the layer before the site, the
        mean over the heads and over some rows of queries: "last", the sequence's last; "all"; "prefix", those before
        the first text token after the visual ones; or int64 ``[r]``, those of the row's text tokens, as `text` counts
        them. Text sees what precedes it, so text before a token has nothing for it."""
        return self._part("received")

    @property
    def grids(self) -> list[Grid]:
        """Those that the pictures' tokens make up, in order."""
        return self._part("grids")

    @property
    def text(self) -> Tensor:
        """``[t, d]``, hidden states of the row's text tokens, in order."""
        return self._part("text")

    @property
    def text_keys(self) -> Tensor:
        """``[t, Hk, dh]``, keys of those, after rotary embedding."""
        return self._part("text_keys")

    @property
    def tail(self) -> int:
        """How many of the row's text tokens follow its last visual one."""
        return self._part("tail")

    @property
    def embedded(self) -> tuple[Tensor, Tensor]:
        """What came into the decoder: ``[v, d]`` of all the row's visual tokens, ``[t, d]`` of its text tokens."""
        return self._part("embedded")

    @property
    def earlier(self) -> list[Tensor]:
        """``[n, d]`` each, the same tokens at the inputs of the layers that the method looks at."""
        return self._part("earlier")

    @property
    def row(self) -> int:
        """The number of the row in its batch."""
        return self._part("row")

    @property
    def layers(self) -> int:
        """How many layers the decoder has."""
        return self._part("layers")

    @property
    def encoder(self) -> Encoder:
        """The vision tower's side of these tokens, in the layers `Method.encoder_layers`."""
        return self._part("encoder")
