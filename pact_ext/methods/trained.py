"""Weights of the methods that have some: modules that are trained, saved and loaded again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from typing import Self


class TrainedModule(nn.Module):
    """A module that knows how it was made, so that a file of it is all there is to keep.

    Attributes:
        arguments: of its constructor, by name; plain numbers.
    """

    def __init__(self, **arguments: int) -> None:
        super().__init__()
        self.arguments = arguments

    def save(self, path: str | Path) -> None:
        """Writes the weights, and how to make the module again, as a safetensors file."""
        metadata = {"module": type(self).__name__, "arguments": json.dumps(self.arguments)}
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        _safetensors().torch.save_file(weights, str(path), metadata)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A module from its file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: a file of something else.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{cls.__name__}.load: path must be a file that save() has written, got {path!s}")
        try:
            with _safetensors().safe_open(str(path), "pt") as file:
                metadata = file.metadata() or {}
                weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
            if metadata.get("module") != cls.__name__:
                raise ValueError(f"got one of {metadata.get('module', 'something else')}")
            module = cls(**json.loads(metadata["arguments"]))
            module.load_state_dict(weights, assign=True)
        except (KeyError, TypeError, ValueError, RuntimeError, _safetensors().SafetensorError) as error:
            raise ValueError(
                f"{cls.__name__}.load: path must be a file that {cls.__name__}.save has written, got {path!s} ({error})"
            ) from None
        return module


def resolved(weights: Any, cls: type[TrainedModule], method: str) -> TrainedModule:
    """The module that a method's `weights` are.

    Raises:
        ValueError: none were given.
        TypeError: neither a module of that class nor the path of its file.
    """
    if weights is None:
        raise ValueError(
            f"{method} needs trained weights: weights must be a {cls.__name__}, or the path of a file that one of "
            "them has saved, got None"
        )
    if isinstance(weights, str | Path):
        return cls.load(weights)
    if not isinstance(weights, cls):
        raise TypeError(f"{method}: weights must be a {cls.__name__} or a path, got {type(weights).__name__}")
    return weights


def on(module: nn.Module, device: torch.device) -> nn.Module:
    """The module, moved there if it is elsewhere."""
    parameter = next(module.parameters())
    return module if parameter.device == device else module.to(device)


def _safetensors():
    try:
        import safetensors
        import safetensors.torch
    except ModuleNotFoundError:
        raise ImportError("pact_ext: weights are kept in safetensors files: pip install safetensors") from None
    return safetensors
