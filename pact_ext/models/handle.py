"""A reduced model in the hands of its user: what the reduction found, and its end."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref

from torch import Tensor, nn

from ..config import PactConfig
from ..methods import Method
from ..reduction import Reduction
from .encoder import tower_of
from .families import base_of, core_of
from .forward import Plan
from .hooks import Hooks
from .interface import choose, switch_back
from .report import Report
from .support import parts_of, route


class Handle:
    """A model with its visual tokens reduced, until `remove`; also a context manager.

    The model is reduced whether its handle is kept or not: `pact_ext.handle_of` finds it. A copy of the model, by
    `copy.deepcopy` or `torch.save`, is a reduced one with a handle of its own.

    Attributes:
        model: the model.
    """

    def __init__(self, model: nn.Module, hooks: Hooks) -> None:
        self.model, self._hooks = model, hooks
        hooks.handle = weakref.ref(self)

    @property
    def method(self) -> Method:
        """What reduces it."""
        return self._hooks.plan.method

    @property
    def config(self) -> PactConfig | None:
        """The parameters of PACT; None for another method."""
        return getattr(self.method, "config", None)

    @property
    def attention(self) -> str:
        """How the sizes reach attention: "fused" or "dense"."""
        return "fused" if self._hooks.plan.fused else "dense"

    @property
    def active(self) -> bool:
        """False once removed."""
        return self._hooks.active

    @property
    def last(self) -> list[Reduction | None]:
        """Each row's `Reduction` in the latest call that brought images, None for a row without; [] before any.

        The rows that `generate` was given count, not the copies it makes of them for beams.
        """
        return self._hooks.last

    @property
    def columns(self) -> Tensor | None:
        """``[B, n]`` int64: of every column that is left, the place it had in the sequence; -1 for padding.

        Of the latest call, from the reduction's layer on; None when nothing in it was reduced, so that every column is
        at its own place. These are the columns of its keys, in attention's weights too; its logits and hidden states
        are the last of them, which is all of them unless a cache came before. Rows are the call's, beams included.

        >>> logits = model(**inputs).logits
        >>> handle.columns[:, -logits.shape[1] :]  # where in the prompt each of the logits belongs
        """
        return self._hooks.columns

    def report(self, *, synchronize: bool = False) -> Report:
        """What the latest call that brought images gained.

        Args:
            synchronize: wait for the device, so that `seconds` is known; otherwise it is None while work is pending.

        Raises:
            RuntimeError: no call has brought images yet.
        """
        if self._hooks.report is None:
            raise RuntimeError("Handle.report: no images have passed through the model yet")
        report, stopwatches = self._hooks.report
        seconds = [stopwatch.seconds(synchronize) for stopwatch in stopwatches]
        return dataclasses.replace(report, seconds=None if None in seconds else sum(seconds))

    def off(self) -> contextlib.AbstractContextManager[None]:
        """A context in which this thread's calls of the model are those of the model as it was.

        >>> with handle.off():
        ...     logits = model(**inputs).logits

        It nests. In it a cache that was reduced cannot be continued, which is an error.
        """
        return self._hooks.off()

    def remove(self) -> None:
        """Give the model back as it was. Caches reduced so far can no longer be continued. Twice is once."""
        if self.active:
            self._hooks.remove()
            switch_back(self.model)

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception) -> None:
        self.remove()

    def __reduce__(self):
        return handle_of, (self.model,)


def attach(model: nn.Module, method: Method, per_image: bool, attention: str) -> Handle:
    """`pact_ext.apply`."""
    if not isinstance(per_image, bool):
        raise ValueError(f"pact_ext.apply: per_image must be True or False, got {per_image!r}")
    core, family, decoder, sites = parts_of(model, method)
    if handle_of(model) is not None:
        raise RuntimeError("pact_ext.apply: this model is reduced already; remove() that handle first")
    implementation = decoder.config._attn_implementation
    chosen = choose(implementation, route(decoder.layers[sites[0]], attention))
    head = base_of(model)
    tower = tower_of(family, core, method)
    looked_at = tuple(sorted({tower.index(layer) for layer in method.encoder_layers})) if tower else ()
    plan = Plan(family, method, sites, per_image, chosen == "fused", implementation, looked_at)
    return Handle(model, Hooks(plan, None if head is core else head, core))


def handle_of(model: nn.Module) -> Handle | None:
    """`pact_ext.handle_of`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"pact_ext.handle_of: model must be a torch.nn.Module, got {type(model).__name__}")
    for hook in core_of(model)._forward_pre_hooks.values():
        hooks = getattr(hook, "__self__", None)
        if isinstance(hooks, Hooks):
            known = hooks.handle and hooks.handle()
            return known or Handle(model, hooks)
    return None
