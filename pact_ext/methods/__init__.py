"""Methods of visual-token reduction, by name and as classes; `pact_ext.apply` takes either."""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import NamedTuple

from ..config import PRESETS, PactConfig
from .agglomerative import Agglomerative
from .cdpruner import CDPruner
from .dart import Dart
from .dbscan import DBSCAN
from .divprune import DivPrune
from .downsample import Downsample
from .dpc import DPC
from .dyrate import DyRate, RateClassifier, training_bias, training_mask
from .entropyprune import EntropyPrune
from .fastv import FastV
from .hired import HiRED
from .kmeans import KMeans
from .llama_vid import ContextAttention, LlamaVID
from .method import METHODS, Method, Selection, budget
from .pact import Pact
from .prumerge import PruMerge, PruMergePlus
from .pyramiddrop import PyramidDrop
from .random import Random
from .sparsevlm import SparseVLM
from .tome import ToMe
from .trim import Trim
from .view import Encoder, Grid, Step, Tile, View
from .visionzip import VisionZip
from .vtw import VTW

__all__ = [
    "DBSCAN",
    "DPC",
    "VTW",
    "Agglomerative",
    "CDPruner",
    "ContextAttention",
    "Dart",
    "DivPrune",
    "Downsample",
    "DyRate",
    "Encoder",
    "EntropyPrune",
    "FastV",
    "Grid",
    "HiRED",
    "KMeans",
    "LlamaVID",
    "Method",
    "Pact",
    "PruMerge",
    "PruMergePlus",
    "PyramidDrop",
    "Random",
    "RateClassifier",
    "Selection",
    "SparseVLM",
    "Step",
    "Tile",
    "ToMe",
    "Trim",
    "View",
    "VisionZip",
    "budget",
    "coerce",
    "facts",
    "names",
    "parse",
    "training_bias",
    "training_mask",
]

ORDER = (
    *(Random, Downsample, FastV, VTW, ToMe, PruMerge, PruMergePlus, HiRED, VisionZip, LlamaVID, DyRate, EntropyPrune),
    *(Trim, SparseVLM, PyramidDrop, KMeans, DPC, DBSCAN, Agglomerative, DivPrune, CDPruner, Dart, Pact),
)
"""In which they are listed; methods of one's own come after."""

METHODS.update({cls.name: METHODS.pop(cls.name) for cls in ORDER})


def names() -> list[str]:
    """The names that `parse` knows."""
    return list(METHODS)


def parse(text: str) -> Method:
    """A method by its name, with arguments: ``"fastv"``, ``"fastv:keep=0.25,layer=3"``; semicolons do as well as
    commas. A share of the tokens has a decimal point, a number of them has none; several stand in parentheses.

    >>> parse("fastv:keep=64").keep
    64

    Raises:
        ValueError: an unknown name, an unknown argument, or a value that the method refuses.
    """
    name, _, rest = text.partition(":")
    if name not in METHODS:
        raise ValueError(f"no method named {name!r}; there are {', '.join(names())}")
    cls, arguments = METHODS[name], {}
    known = [field.name for field in dataclasses.fields(cls)]
    if cls is Pact:  # whose arguments are those of its config, and its own others
        _, *others = known
        known = [*(field.name for field in dataclasses.fields(PactConfig)), *others]
    for part in filter(None, re.split(r"[,;](?![^(]*\))", rest)):
        argument, equals, value = part.partition("=")
        if argument not in known or not equals:
            raise ValueError(f"{name}: arguments must be name=value, of {', '.join(known)}, got {part!r}")
        arguments[argument] = _value(value.replace(";", ","))
    if cls is not Pact:
        return cls(**arguments)
    own = {argument: arguments.pop(argument) for argument in others if argument in arguments}
    return Pact(PactConfig(**arguments), **own)


class Fact(NamedTuple):
    """A method in a line."""

    name: str
    where: str
    needs: str
    budget: str
    servable: bool
    source: str


LAYERS = 32  # of a decoder, to tell where a method acts


def facts() -> list[Fact]:
    """Of every method at its defaults: where it acts in a decoder of 32 layers, what it needs, whether its count of
    tokens is known beforehand, and whether an engine can serve it: all of that at the projector's output."""
    rows = []
    for name, cls in METHODS.items():
        method = cls()
        sites, count = method.sites(LAYERS), method.count_on([(24, 24)])
        where = (
            "every decoding step"
            if method.decodes
            else "projector"
            if sites == (0,)
            else "every layer"
            if sites == tuple(range(LAYERS))
            else f"layers {', '.join(map(str, sites))}"
            if sites[1:]
            else f"layer {sites[0]}"
        )
        budget_kind = "by the data" if count is None else "known"
        served = bool(count) and sites == (0,) and not method.decodes and method.needs <= {"row", "grids"}
        needs = ", ".join(sorted(method.needs - {"row", "layers"})) or "-"
        rows.append(Fact(name, where, needs, budget_kind, served, cls.source))
    return rows


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
