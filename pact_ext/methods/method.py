"""What a method of visual-token reduction says of itself.

A method is one small class that reads like its paper: where it acts, what it needs, how many tokens it leaves, and
which. Compaction, positions, caches, padding, batches, masks and sizes are the engine's (`pact_ext.models`), the same
for all.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from .view import Step, View

METHODS: dict[str, type[Method]] = {}
"""Every method by its name."""


@dataclass(frozen=True)
class Selection:
    """What becomes of n tokens.

    Attributes:
        kept: int64 ``[K]``, the tokens that stay, ascending; each keeps its place and its position ids.
        labels: int64 ``[n]``, the place in `kept` that each token goes to, -1 for a discarded one. None: what does not
            stay is discarded.
        hidden: ``[K, d]``, new hidden states; None: they stay as they are.
        sizes: ``[K]``, how many tokens each counts as in attention (proportional attention); None: as many as before.
    """

    kept: Tensor
    labels: Tensor | None = None
    hidden: Tensor | None = None
    sizes: Tensor | None = None


class Method:
    """One method. Subclasses are frozen dataclasses: their fields are the method's parameters.

    Attributes:
        name: on the command line, and in `names`.
        source: the paper, or what it is.
        needs: what `select` reads of its `View` besides the hidden states; nothing else is computed.
        encoder_layers: of the vision tower, whose attention and keys it reads where it needs "encoder"; negative ones
            count from the last.
        layer_argument: what an error about the layer calls it.
        trainable: gradients flow through what `select` returns.
        decodes: it acts after every token of the answer as well (`evict`), from its one site on.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    encoder_layers: ClassVar[tuple[int, ...]] = ()
    layer_argument: ClassVar[str] = "layer"
    trainable: ClassVar[bool] = False
    decodes: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        if "name" in vars(cls):
            METHODS[cls.name] = cls

    def sites(self, layers: int) -> tuple[int, ...]:
        """The decoder layers, of so many, at whose input it acts, ascending. 0 is what the projector gives."""
        raise NotImplementedError

    def looks(self, layers: int) -> tuple[int, ...]:
        """The layers before its first site whose inputs it wants to see there, ascending: its views' `earlier`."""
        return ()

    def count(self, n: int, site: int = 0) -> int | None:
        """How many of n tokens stay at one of the sites, as far as that is known beforehand; None: only the data tells.

        n is the number of tokens before the first site.
        """
        return None

    def count_on(self, grids: Sequence[tuple[int, int]]) -> int | None:
        """How many tokens stay at the first site of pictures with these grids (rows, columns); None: as in `count`."""
        return self.count(sum(rows * columns for rows, columns in grids))

    def select(self, view: View) -> Selection:
        """Which tokens stay at the view's site."""
        raise NotImplementedError

    def select_all(self, views: Sequence[View]) -> list[Selection]:
        """`select` for the views of a whole batch: for a method that does them together faster than one by one."""
        return [self.select(view) for view in views]

    def evict(self, step: Step) -> Tensor | None:
        """Which of a row's visual tokens stay in the cache after a token of the answer, int64 ascending; None: all."""
        raise NotImplementedError

    def check(self, argument: str, wanted: str, ok: bool) -> None:
        """Raises ValueError, naming the method and the argument, unless it is ok."""
        if not ok:
            raise ValueError(f"{type(self).__name__}: {argument} must be {wanted}, got {getattr(self, argument)!r}")

    def check_keep(self, argument: str = "keep") -> None:
        value = getattr(self, argument)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        share = isinstance(value, float) and 0 < value <= 1
        self.check(argument, "a share of the tokens in (0, 1], or a whole number of them", whole or share)

    def check_layer(self, argument: str = "layer", least: int = 0) -> None:
        value = getattr(self, argument)
        ok = isinstance(value, int) and not isinstance(value, bool) and value >= least
        self.check(argument, f"an integer >= {least}", ok)

    def __str__(self) -> str:
        """As `parse` reads it: the name, and the fields that are not at their defaults."""
        arguments = ",".join(f"{name}={value}" for name, value in changed(self).items())
        return self.name + (f":{arguments}" if arguments else "")


def changed(described) -> dict:
    """The fields of a dataclass that are not at their defaults."""
    values = {field: getattr(described, field.name) for field in dataclasses.fields(described)}
    return {field.name: value for field, value in values.items() if value != field.default}


def budget(n: int, keep: float | int) -> int:
    """How many of n tokens a share keeps, half up, and at least one; a whole number is an absolute budget."""
    if isinstance(keep, int):
        return min(n, keep)
    return max(1, math.floor(n * keep + 0.5))
