"""The hooks that reduce the visual tokens inside a model, and the handle that holds them.

    model          labels and training are refused
    core           a `Pass` begins, with the arguments of the call
    decoder        position ids
    layer L        reduces the visual tokens, closes the gaps, prepares what the shorter sequence needs
    layers > L     get that in place of their arguments

Layers before L see what they always saw. What a pass leaves behind for the next one is on its cache.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref

import torch
from torch import Tensor, nn

from ..config import PactConfig
from ..reduction import Reduction
from .cache import is_preallocated
from .forward import Pass, Plan
from .interface import PREFIX, Switched, choose
from .prompt import arguments
from .report import Report, Stopwatch
from .support import parts_of, route


class Handle:
    """A model with its visual tokens reduced, until `remove`; also a context manager.

    Attributes:
        model: the model.
        config: the parameters of the reduction.
        last: each row's `Reduction` in the latest call that brought images, None for a row without; [] before any.
        active: False once removed.
    """

    def __init__(self, model: nn.Module, config: PactConfig, per_image: bool, attention: str) -> None:
        core, family, decoder = parts_of(model, config.layer)
        if any(isinstance(getattr(hook, "__self__", None), Handle) for hook in decoder._forward_pre_hooks.values()):
            raise RuntimeError("pact_ext.apply: this model is reduced already; remove() that handle first")
        implementation = choose(decoder.config._attn_implementation, route(decoder.layers[config.layer], attention))
        fused = implementation.startswith(PREFIX)

        self.model, self.config = model, config
        self.last: list[Reduction | None] = []
        self.active = True
        self._decoder, self._layers = decoder, decoder.layers
        self._plan = Plan(core, family, config, per_image, fused)
        self._report: tuple[Report, Stopwatch] | None = None
        self._passes: dict[int, Pass] = {}  # by thread
        self._switched = Switched(decoder.config, implementation)
        self._hooks = [
            model.register_forward_pre_hook(self._before_model, with_kwargs=True),
            core.register_forward_pre_hook(self._before_core, with_kwargs=True),
            core.register_forward_hook(self._after_core, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            decoder.layers[config.layer].register_forward_pre_hook(self._before_first_layer, with_kwargs=True),
        ]
        for layer in decoder.layers[config.layer + 1 :]:
            self._hooks.append(layer.register_forward_pre_hook(self._before_later_layer, with_kwargs=True))

    def remove(self) -> None:
        """Give the model back as it was. Caches reduced so far can no longer be continued. Twice is once."""
        if self.active:
            for hook in self._hooks:
                hook.remove()
            self._switched.undo()
            self.active = False

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception) -> None:
        self.remove()

    def report(self, *, synchronize: bool = False) -> Report:
        """What the latest call that brought images gained.

        Args:
            synchronize: wait for the device, so that `seconds` is known; otherwise it is None while work is pending.

        Raises:
            RuntimeError: no call has brought images yet.
        """
        if self._report is None:
            raise RuntimeError("Handle.report: no images have passed through the model yet")
        report, stopwatch = self._report
        return dataclasses.replace(report, seconds=stopwatch.seconds(synchronize))

    # --- Hooks. They branch on caches and on data, which a compiler must not freeze. ----------------------------

    @torch.compiler.disable
    def _before_model(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if kwargs.get("labels") is not None:
            raise RuntimeError(
                "pact_ext: labels were given, but a reduced model is for inference: it returns fewer logits"
            )
        if module.training:
            raise RuntimeError("pact_ext: the model is in training mode, and a reduction has no gradient; call eval()")

    @torch.compiler.disable
    def _before_core(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        self._switched.check()
        given = arguments(type(module).forward, (module, *args), kwargs)
        if given.get("input_ids") is None:
            raise RuntimeError(
                "pact_ext: input_ids must be given, to tell visual tokens from text; this call has only inputs_embeds"
            )
        self._passes[threading.get_ident()] = current = Pass(self._plan, weakref.ref(self), given)
        current.begin()

    @torch.compiler.disable
    def _after_core(self, module: nn.Module, args: tuple, output) -> None:
        self._passes.pop(threading.get_ident(), None)

    @torch.compiler.disable
    def _before_decoder(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if threading.get_ident() not in self._passes:
            raise RuntimeError("pact_ext: the decoder was called by itself; call the whole model, or remove the handle")
        self._passes[threading.get_ident()].position_ids = kwargs.get("position_ids")

    @torch.compiler.disable
    def _before_first_layer(self, layer: nn.Module, args: tuple, kwargs: dict):
        current = self._passes[threading.get_ident()]
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        reduced = current.enter(layer, hidden, kwargs)
        if current.compaction is not None:
            self.last = current.compaction.reductions
            self._report = self._report_of(hidden, reduced, kwargs.get("past_key_values")), current.stopwatch
        return None if current.mask is None else ((reduced, *args), current.replaced(kwargs))

    @torch.compiler.disable
    def _before_later_layer(self, layer: nn.Module, args: tuple, kwargs: dict):
        current = self._passes[threading.get_ident()]
        return None if current.mask is None else (args, current.replaced(kwargs))

    def _report_of(self, hidden: Tensor, reduced: Tensor, cache) -> Report:
        (rows, tokens_in), tokens_out = hidden.shape[:2], reduced.shape[1]
        before, after = self.config.layer, len(self._layers) - self.config.layer
        column_bytes = 0 if cache is None else rows * self._plan.family.column_bytes(self._decoder.config, hidden.dtype)
        saved = 0 if cache is None or is_preallocated(cache) else after * (tokens_in - tokens_out) * column_bytes
        return Report(
            visual_in=[0 if row is None else row.n_in for row in self.last],
            visual_out=[0 if row is None else row.n_out for row in self.last],
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            layer=self.config.layer,
            layers=len(self._layers),
            cache_bytes=(before + after) * tokens_in * column_bytes - saved,
            cache_bytes_saved=saved,
            seconds=None,
        )
