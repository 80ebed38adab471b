"""A card that is not there: tensors that say they are on cuda, are held on the CPU, and refuse what cuda would refuse.

An operator on tensors of both devices is an error, but where cuda takes it too. What the package waits for is noted: a
value, or the number of hits, that is read back to the host, and every copy between the two that does not say
non_blocking.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import pact_ext

CARD, HOST = torch.device("cuda", 0), torch.device("cpu")
PACKAGE, TORCH = (str(Path(module.__file__).parent) for module in (pact_ext, torch))

COUNTING = ("nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount")
READING = (*COUNTING, "_local_scalar_dense", "equal")
INDEXING = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""

WAITS: list[str] = []
"""Where the package waited for the card: "file: what for"."""


def why_not() -> str | None:
    """Why no card can be pretended, or None."""
    return None if torch.version.cuda is None and torch.version.hip is None else "this torch knows real cards"


@functools.cache
def _guard() -> None:
    """Python's methods switch to the device of a tensor, which a torch for CPUs does not know how to do."""
    with tempfile.TemporaryDirectory() as target:
        (source := Path(target, "guard.cpp")).write_text(GUARD)
        library = Path(target, "guard.so")
        flags = ["-std=c++20", "-shared", "-fPIC", f"-I{TORCH}/include", f"-L{TORCH}/lib", "-lc10"]
        command = [os.environ.get("CXX", "c++"), str(source), "-o", str(library), *flags]
        subprocess.run(command, check=True, capture_output=True, text=True)
        ctypes.CDLL(str(library))


def _note(what: str) -> None:
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ or frame.f_code.co_filename.startswith(TORCH):
        frame = frame.f_back
    if frame.f_code.co_filename.startswith(PACKAGE):
        WAITS.append(f"{Path(frame.f_code.co_filename).name}: {what}")


class OnCard(Tensor):
    """A tensor that says it is on the card."""

    @staticmethod
    def __new__(cls, held: Tensor):
        layout = (held.shape, held.stride(), held.storage_offset())
        return Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=CARD)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def __repr__(self, **_) -> str:
        return f"OnCard({self.held})"

    def __deepcopy__(self, memo) -> OnCard:
        return OnCard(self.held.clone())

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        device = kwargs.get("device")
        target = CARD if device is None else torch.device(device)
        _check(name, args, kwargs)
        if name in READING:
            _note(name)
        if name == "_to_copy" and target.type == "cpu":
            _note("copy to the host")
        if device is not None:
            kwargs["device"] = HOST
        kwargs.pop("pin_memory", None)
        out = func(*tree_map(_held, args), **tree_map(_held, kwargs))
        if func._schema.is_mutable and name.endswith("_"):
            return args[0]
        if name.endswith("_packed") and isinstance(out, tuple):
            return *map(_on_card, out[:-1]), out[-1]  # cu_centers stays on the host
        return tree_map(_on_card, out) if target.type == "cuda" else out


def _held(x):
    return x.held if isinstance(x, OnCard) else x


def _on_card(x):
    return OnCard(x) if isinstance(x, Tensor) else x


def _on_host(kwargs: dict) -> dict:
    return {**{name: value for name, value in kwargs.items() if name != "pin_memory"}, "device": HOST}


def _check(name: str, args: tuple, kwargs: dict) -> None:
    """What cuda refuses: tensors of two devices, but for numbers, copies, and indices from the host, which it takes."""
    strangers = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor) and not isinstance(x, OnCard)]
    if name in INDEXING:
        indices = [x for x in args[1] if isinstance(x, Tensor)]
        if any(x.dtype == torch.bool for x in indices):
            _note("mask as an index")
        if isinstance(args[0], OnCard):
            strangers = [x for x in strangers if all(x is not index for index in indices)]
    if name.endswith("_packed"):  # cu_seqlens and counts are wanted on the host
        strangers = [x for x in strangers if x.dtype != torch.int32]
    if name not in ("copy_", "_to_copy") and any(x.ndim for x in strangers):
        raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu in {name}")


class _Python(TorchFunctionMode):
    """What Python asks for on the card, and what it takes from there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return _moved(func, args, kwargs)
        if func is torch.as_tensor and isinstance(first, OnCard) and not kwargs:
            return first
        if func in (Tensor.tolist, Tensor.new_tensor) and isinstance(first, OnCard):
            _note(func.__name__)
            found = func(first.held, *args[1:], **kwargs)
            return OnCard(found) if func is Tensor.new_tensor else found
        indexed = func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(first, OnCard)
        if indexed and any(isinstance(x, Tensor) and not isinstance(x, OnCard) for x in tree_flatten(args[1])[0]):
            _note("index from the host")
        if indexed and isinstance(args[-1], bool | int | float) and isinstance(args[1], OnCard):
            _note("number to the card")  # where the places are a tensor; index_fill_ takes it with the launch
        if func is torch.tensor:
            args = (tree_map(_held, first), *args[1:])
        device = kwargs.get("device")
        made = not isinstance(first, OnCard) or func in (torch.arange, torch.linspace, torch.full)
        if device is None or torch.device(device).type != "cuda" or not made:
            return func(*args, **kwargs)
        args = tree_map(_held, args)
        if func in (torch.tensor, torch.as_tensor):
            _note("copy to the card")
        if getattr(kwargs.get("generator"), "device", CARD).type != "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return OnCard(func(*args, **_on_host(kwargs)))


class _Cpp(TorchDispatchMode):
    """What C++ makes on the card by itself."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        if device is None or torch.device(device).type != "cuda":
            return func(*args, **kwargs)
        if any(isinstance(x, OnCard) for x in tree_flatten((args, kwargs))[0]):
            return func(*args, **kwargs)
        return OnCard(func(*args, **_on_host(kwargs)))


def _moved(func, args: tuple, kwargs: dict) -> Tensor:
    x, rest = args[0], list(args[1:])
    like = kwargs.pop("other", None)
    if rest and isinstance(rest[0], Tensor):
        like = rest.pop(0)
    target = x.device if like is None else like.device
    if like is not None:
        kwargs["dtype"] = like.dtype
    if func in (Tensor.cuda, Tensor.cpu):
        target, rest = CARD if func is Tensor.cuda else HOST, []
    elif kwargs.get("device") is not None:
        target = torch.device(kwargs["device"])
    elif rest and isinstance(rest[0], torch.device | str | int):
        target = torch.device(rest.pop(0))
    kwargs = {name: value for name, value in kwargs.items() if value is not None and name != "device"}
    between, to_card = target.type != x.device.type, target.type == "cuda"
    if between and not (kwargs.pop("non_blocking", False) and to_card):
        _note("copy to the card" if to_card else "copy to the host")
    held = _held(x)
    moved = held.to(*rest, **kwargs) if rest or kwargs else held
    if not between:
        return x if moved is held else _on_card(moved) if to_card else moved
    moved = moved.clone() if moved is held else moved
    return OnCard(moved) if to_card else moved


class Event:
    """In place of torch.cuda.Event: what it is to time has always been done."""

    def __init__(self, enable_timing: bool = False) -> None:
        pass

    def record(self, stream=None) -> None:
        pass

    synchronize = record

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Event) -> float:
        return 1.0


@contextlib.contextmanager
def pretended(monkeypatch):
    """While it lasts there is a card."""
    _guard()
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: None)
    with _Cpp(), _Python():
        yield


def onto_card(module: nn.Module) -> nn.Module:
    """A module, all its parameters and buffers moved to the card."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(OnCard(parameter.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnCard(buffer)
    return module
