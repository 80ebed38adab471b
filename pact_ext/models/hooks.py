"""The hooks that reduce the visual tokens inside a model.

    head           labels are refused, the logits to keep noted
    tower          layers and the projector are looked at, for methods that select by the vision tower's attention
    core           a `Pass` begins, with the arguments of the call
    decoder        position ids
    a site         a layer at whose input the method reduces the visual tokens; the gaps are closed
    layers after   get what the shorter sequence needs in place of their arguments
    layers before  a site are looked at, for methods that ask for their attention
    layers after   are looked at once they have run, for methods that evict by a token's attention

Before the first site layers see what they always saw. What a pass leaves behind for the next one is on its cache. The
hooks know none of the modules they hang on: they live as long as the model does, and go along with a copy of it or of a
part.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from ..reduction import Reduction
from .cache import OWNERS, is_preallocated
from .callers import call_around, copies_of_rows
from .encoder import Seen
from .forward import Pass, Plan
from .interface import switch
from .prompt import arguments, brings_images
from .report import Report, Stopwatch

_OFF: ContextVar[frozenset[str]] = ContextVar("pact_ext_off", default=frozenset())
"""Names of the hooks that do nothing at the moment, in this thread or task."""


class Hooks:
    """What hangs on a reduced model.

    Attributes:
        plan: what is done in every call.
        name: how the caches that it reduced know it.
        handle: a weak reference to the handle that its user has, if any.
        last, columns: as in `Handle`.
        report: of the latest call that brought images, and the stopwatches for its time.
    """

    def __init__(self, plan: Plan, head: nn.Module | None, core: nn.Module) -> None:
        self.plan = plan
        self._has_head = head is not None
        self._begin(uuid.uuid4().hex)
        decoder = plan.family.decoder(core)
        reduced = decoder.layers[plan.sites[0] :]
        if plan.fused:
            for layer in reduced:
                switch(layer.self_attn)
        sites = [decoder.layers[site] for site in plan.sites]
        later = [layer for layer in reduced if all(layer is not site for site in sites)]
        seen = [decoder.layers[site - 1] for site in plan.sites] if "received" in plan.method.needs else []
        looks = [decoder.layers[layer] for layer in plan.method.looks(len(decoder.layers))]
        self._removable = [
            core.register_forward_pre_hook(self._before_core, with_kwargs=True),
            core.register_forward_hook(self._after_core, always_call=True),
            decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True),
            *(layer.register_forward_pre_hook(self._before_site, with_kwargs=True) for layer in sites),
            *(layer.register_forward_pre_hook(self._before_later_layer, with_kwargs=True) for layer in later),
            *(layer.register_forward_pre_hook(self._look_at_layer, with_kwargs=True) for layer in seen),
            *(layer.register_forward_pre_hook(self._keep_input, with_kwargs=True) for layer in looks),
        ]
        if plan.method.decodes:
            self._removable += [layer.register_forward_hook(self._after_layer, with_kwargs=True) for layer in reduced]
        if plan.encoder_layers:
            tower = plan.family.tower(core)
            for number in plan.encoder_layers:
                look = functools.partial(self._look_at_tower, number)
                self._removable.append(tower.layers[number].register_forward_pre_hook(look, with_kwargs=True))
            self._removable.append(tower.projector.register_forward_hook(self._after_projector))
        if head is not None:
            self._removable.append(head.register_forward_pre_hook(self._before_head, with_kwargs=True))
            self._removable.append(head.register_forward_hook(self._after_head, always_call=True))

    def _begin(self, name: str) -> None:
        self.name = name
        OWNERS[name] = self
        self.handle = None
        self.last: list[Reduction | None] = []
        self.columns: Tensor | None = None
        self.report: tuple[Report, list[Stopwatch]] | None = None
        self._passes: dict[int, Pass] = {}  # by thread
        self._towers: dict[int, Seen] = {}  # by thread
        self._kept: dict[int, int | Tensor | None] = {}  # by thread

    def __getstate__(self) -> dict:
        return {name: getattr(self, name) for name in ("plan", "name", "_has_head", "_removable")}

    def __setstate__(self, state: dict) -> None:
        """A copy continues the caches that were copied with it, unless the original is here to do so."""
        vars(self).update(state)
        self._begin(uuid.uuid4().hex if self.name in OWNERS else self.name)

    @property
    def active(self) -> bool:
        return OWNERS.get(self.name) is self

    @property
    def in_call(self) -> bool:
        """Whether this thread is in a call of the model, which is being reduced."""
        return threading.get_ident() in self._passes

    @property
    def is_off(self) -> bool:
        return self.name in _OFF.get()

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        before = _OFF.set(_OFF.get() | {self.name})
        try:
            yield
        finally:
            _OFF.reset(before)

    def remove(self) -> None:
        for hook in self._removable:
            hook.remove()
        OWNERS.pop(self.name, None)

    # --- The hooks branch on caches and on data, which a compiler must not freeze. ------------------------------

    @torch.compiler.disable
    def _before_head(self, module: nn.Module, args: tuple, kwargs: dict):
        if self.is_off:
            return None
        _refuse_losses(kwargs, module.config)
        kept = kwargs.get("logits_to_keep")
        if isinstance(kept, Tensor):  # to be rewritten before the head reads it
            kept = kept.clone()
            kwargs = {**kwargs, "logits_to_keep": kept}
        self._kept[threading.get_ident()] = kept
        return args, kwargs

    @torch.compiler.disable
    def _after_head(self, module: nn.Module, args: tuple, output) -> None:
        self._kept.pop(threading.get_ident(), None)

    @torch.compiler.disable
    def _before_core(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.is_off:
            return
        if module.training and not self.plan.method.trainable:
            raise RuntimeError("pact_ext: the model is in training mode, and a reduction has no gradient; call eval()")
        implementation = self.plan.family.decoder(module).config._attn_implementation
        if implementation != self.plan.implementation:
            raise RuntimeError(
                f"pact_ext: the model's attention implementation was changed to {implementation!r} after "
                f"pact_ext.apply, which found {self.plan.implementation!r}; remove the handle first, then apply again"
            )
        given = arguments(type(module).forward, (module, *args), kwargs)
        if given.get("input_ids") is None:
            raise RuntimeError(
                "pact_ext: input_ids must be given, to tell visual tokens from text; this call has only inputs_embeds"
            )
        kept = self._kept.get(threading.get_ident()) if self._has_head else self._kept_around(module, given)
        self._passes[threading.get_ident()] = current = Pass(self.plan, self.name, module, given, kept, self._towers)
        if given.get("mm_encoder_outputs") is None:  # nothing was encoded before the call
            self._towers.pop(threading.get_ident(), None)
        current.begin()

    @torch.compiler.disable
    def _after_core(self, module: nn.Module, args: tuple, output) -> None:
        current = self._passes.pop(threading.get_ident(), None)
        if current is None:
            return
        if output is not None:
            current.finish()
            self.columns = current.places
        if brings_images(self.plan.family, current.given):
            self._towers.pop(threading.get_ident(), None)

    @torch.compiler.disable
    def _before_decoder(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.is_off:
            return
        if not self.in_call:
            raise RuntimeError("pact_ext: the decoder was called by itself; call the whole model, or remove the handle")
        current = self._passes[threading.get_ident()]
        current.position_ids = kwargs.get("position_ids")
        if "embedded" in self.plan.method.needs:
            current.embedded = kwargs["inputs_embeds"]

    @torch.compiler.disable
    def _before_site(self, layer: nn.Module, args: tuple, kwargs: dict):
        current = self._passes.get(threading.get_ident())
        if current is None:
            return None
        hidden, args = (args[0], args[1:]) if args else (kwargs.pop("hidden_states"), ())
        reduced = current.enter(layer, hidden, kwargs)
        self.columns = current.places
        if current.sequence is not None:
            copies = copies_of_rows(len(hidden))
            self.last = current.reductions[::copies]
            cached = kwargs.get("past_key_values")
            self.report = self._measured(current, hidden, copies, cached), current.stopwatches
        return None if current.mask is None else ((reduced, *args), current.replaced(kwargs))

    @torch.compiler.disable
    def _look_at_layer(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        current = self._passes.get(threading.get_ident())
        if current is not None:
            current.look(layer, args[0] if args else kwargs["hidden_states"], kwargs)

    @torch.compiler.disable
    def _keep_input(self, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        current = self._passes.get(threading.get_ident())
        if current is not None:
            current.earlier.append(args[0] if args else kwargs["hidden_states"])

    @torch.compiler.disable
    def _after_layer(self, layer: nn.Module, args: tuple, kwargs: dict, output) -> None:
        current = self._passes.get(threading.get_ident())
        if current is not None:
            current.attend(layer, args[0] if args else kwargs["hidden_states"], kwargs)

    @torch.compiler.disable
    def _look_at_tower(self, number: int, layer: nn.Module, args: tuple, kwargs: dict) -> None:
        if self.is_off:
            return
        if number == self.plan.encoder_layers[0]:
            self._towers[threading.get_ident()] = Seen()
        self._towers[threading.get_ident()].inputs[number] = args[0] if args else kwargs["hidden_states"]

    @torch.compiler.disable
    def _after_projector(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        seen = self._towers.get(threading.get_ident())
        if seen is not None and not self.is_off:
            seen.features, seen.projected = args[0], output

    @torch.compiler.disable
    def _before_later_layer(self, layer: nn.Module, args: tuple, kwargs: dict):
        current = self._passes.get(threading.get_ident())
        return None if current is None or current.mask is None else (args, current.replaced(kwargs))

    def _kept_around(self, core: nn.Module, given: dict) -> int | Tensor | None:
        """The `logits_to_keep` of a head that has no hooks, since only its core was given to `pact_ext.apply`."""
        around = call_around(core)
        _refuse_losses(around, core.config)
        kept = around.get("logits_to_keep")
        if isinstance(kept, Tensor) and brings_images(self.plan.family, given):
            raise RuntimeError(
                "pact_ext: logits_to_keep holds indices, which have to be rewritten for a reduced model's head; give "
                "pact_ext.apply the whole model, not its core"
            )
        return kept

    def _measured(self, current: Pass, hidden: Tensor, copies: int, cache) -> Report:
        decoder, tokens_in = self.plan.family.decoder(current.core), current.given["input_ids"].shape[1]
        layers = len(decoder.layers)
        visual_in = [0 if row is None else row.n_in for row in self.last]
        columns, visual = layers * [tokens_in], layers * [sum(visual_in)]
        for step in current.steps:
            left = sum(0 if row is None else row.n_out for row in step.reductions[::copies])
            columns[step.layer :] = (layers - step.layer) * [step.columns]
            visual[step.layer :] = (layers - step.layer) * [left]
        column_bytes = 0 if cache is None else len(hidden) * self.plan.family.column_bytes(decoder.config, hidden.dtype)
        kept = layers * tokens_in if cache is None or is_preallocated(cache) else sum(columns)
        return Report(
            visual_in=visual_in,
            visual_out=[0 if row is None else row.n_out for row in self.last],
            tokens_in=tokens_in,
            tokens_out=columns[-1],
            layer=current.steps[0].layer,
            layers=layers,
            visual_by_layer=visual,
            cache_bytes=kept * column_bytes,
            cache_bytes_saved=(layers * tokens_in - kept) * column_bytes,
            seconds=None,
        )


def _refuse_losses(given, config) -> None:
    if given.get("labels") is not None:
        raise RuntimeError("pact_ext: labels were given, but a reduced model is for inference: it returns fewer logits")
    wanted = given.get("output_router_logits")
    if getattr(config.get_text_config(), "output_router_logits", False) if wanted is None else wanted:
        raise RuntimeError(
            "pact_ext: output_router_logits was asked for, but the loss that is made of them wants every token of the "
            "prompt, and a reduced model has fewer"
        )
