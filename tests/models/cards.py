"""A card to run models on: a real one, or one that is pretended, and what comes back from it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import pact_ext
from models import pretended_card, tiny
from models.replay import Recorder
from pact_ext import _library, methods
from pact_ext.methods import Method

STEPS = 3
SHAKE = 1e-5  # of pixels, relative; far above rounding

build = functools.cache(tiny.build)


def why_no_card() -> str | None:
    if torch.version.cuda is None:
        return "this torch is not a CUDA build"
    if not _library.cuda_loadable():
        return "libpact_cuda.so was not built: PACT_CUDA=1 python setup.py build_ext --inplace"
    return None if torch.cuda.is_available() else "there is no GPU that torch can use"


class Card:
    """Where models go. `real` tells whether there is one."""

    def __init__(self, real: bool) -> None:
        self.real = real

    @property
    def tolerance(self) -> float:
        """Of float64 logits there and here: transformers takes cosines of rotary angles in float32, whose last digit is
        the device's own."""
        return 1e-5 if self.real else 1e-9

    def put(self, x):
        """A copy of a module, or tensors by name."""
        if isinstance(x, dict):
            return {name: value.to("cuda") for name, value in x.items()}
        module = copy.deepcopy(x)
        return module.cuda() if self.real else pretended_card.onto_card(module)

    @contextlib.contextmanager
    def waits(self) -> Iterator[list[str]]:
        """Where the package waits for the card meanwhile; what its operators read by themselves is not among it."""
        found: list[str] = []
        if not self.real:
            pretended_card.WAITS.clear()
            yield found
            found += pretended_card.WAITS
            return
        package = str(Path(pact_ext.__file__).parent)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield found
            finally:
                torch.cuda.set_sync_debug_mode("default")
        sync = [one for one in caught if "synchronizing" in str(one.message) and one.filename.startswith(package)]
        found += [f"{Path(one.filename).name}: line {one.lineno}" for one in sync]


@contextlib.contextmanager
def card_of(name: str, monkeypatch) -> Iterator[Card]:
    """The real card, where products are not rounded to TensorFloat-32, or the pretended one."""
    reason = pretended_card.why_not() if name == "pretended" else why_no_card()
    if reason is not None:
        pytest.skip(reason)
    if name == "pretended":
        with pretended_card.pretended(monkeypatch):
            yield Card(False)
        return
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    yield Card(True)


def host(x):
    """Tensors, or what holds some, back on the CPU."""
    if isinstance(x, Tensor):
        return x.cpu()
    if dataclasses.is_dataclass(x):
        return dataclasses.replace(x, **{field.name: host(getattr(x, field.name)) for field in dataclasses.fields(x)})
    return x


def reduced(model, inputs: dict[str, Tensor], method: Method | str, *, steps: int = STEPS, **options):
    """Logits ``[B, steps, V]``, tokens ``[B, steps]`` and the `Recorder` of a generation; all of it on the CPU."""
    recorder = Recorder(methods.coerce(method))
    with pact_ext.apply(model, recorder, **options):
        logits, tokens = tiny.generate(model, inputs, steps)
    found = [(site, view, host(selection)) for site, view, selection in recorder.found]
    return logits.cpu(), tokens.cpu(), found


def chosen(found) -> list[tuple[list[int], list[int] | None]]:
    """What a recorder's selections keep, and where they put the others."""
    return [(one.kept.tolist(), None if one.labels is None else one.labels.tolist()) for _, _, one in found]


def beyond_doubt(card: Card, model, method: Method | str, *, batch: int = 3, **options) -> tuple[dict, list]:
    """Inputs on which small changes of the pictures do not change what the method keeps, and that, by the CPU: what a
    pretended card says is the CPU's in any case."""
    for seed in range(20):
        inputs = tiny.inputs(model, batch, seed, text_only_row=batch == 3)
        ways = []
        for turn in range(3 if card.real else 1):
            noise = torch.randn(inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(turn))
            pixels = inputs["pixel_values"] * (1 + (turn > 0) * SHAKE * noise.to(model.dtype))
            ways.append(chosen(reduced(model, {**inputs, "pixel_values": pixels}, method, steps=1, **options)[2]))
        if all(way == ways[0] for way in ways):
            return inputs, ways[0]
    raise AssertionError(f"{method}: what it keeps hangs on the last digits, whatever the picture")
