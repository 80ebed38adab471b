"""Methods of visual-token reduction, by name and as classes; `pact_ext.apply` takes either."""

from __future__ import annotations

import ast
import dataclasses

from ..config import PRESETS, PactConfig
from .downsample import Downsample
from .fastv import FastV
from .method import METHODS, Method, Selection, budget
from .pact import Pact
from .pyramiddrop import PyramidDrop
from .random import Random
from .view import Grid, View
from .vtw import VTW

__all__ = [
    "VTW",
    "Downsample",
    "FastV",
    "Grid",
    "Method",
    "Pact",
    "PyramidDrop",
    "Random",
    "Selection",
    "View",
    "budget",
    "coerce",
    "names",
    "parse",
]


def names() -> list[str]:
    """The names that `parse` knows."""
    return list(METHODS)


def parse(text: str) -> Method:
    """A method by its name, with arguments: ``"fastv"``, ``"fastv:keep=0.25,layer=3"``. A share of the tokens has a
    decimal point, a number of them has none.

    >>> parse("fastv:keep=64").keep
    64

    Raises:
        ValueError: an unknown name, an unknown argument, or a value that the method refuses.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise ValueError(f"no method named {name!r}; there are {', '.join(names())}")
    cls, arguments = METHODS[name], {}
    config = cls is Pact  # whose arguments are those of its config
    known = [field.name for field in dataclasses.fields(PactConfig if config else cls)]
    for part in filter(None, rest.split(",")):
        argument, equals, value = part.partition("=")
        if argument not in known or not equals:
            raise ValueError(f"{name}: arguments must be name=value, of {', '.join(known)}, got {part!r}")
        arguments[argument] = _value(value)
    return Pact(PactConfig(**arguments)) if config else cls(**arguments)


def _value(text: str):
    """A Python literal, or the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def coerce(method: Method | PactConfig | str) -> Method:
    """A method as given; that of a config, or of the preset or method of that name.

    Raises:
        TypeError: none of those.
        ValueError: an unknown name, or arguments that do not fit.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, PactConfig):
        return Pact(method)
    if not isinstance(method, str):
        wanted = "config must be a PactConfig, a method of pact_ext.methods, or the name of a preset or of a method"
        raise TypeError(f"{wanted}, got {type(method).__name__}")
    if method in PRESETS:
        return Pact(PRESETS[method])
    if method.partition(":")[0] in METHODS:
        return parse(method)
    raise ValueError(
        f"PactConfig: no preset named {method!r}; there are {', '.join(sorted(PRESETS))}; nor a method, of which there "
        f"are {', '.join(names())}"
    )
