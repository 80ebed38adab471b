"""What is benchmarked: operators, sizes, inputs, and the call each implementation makes.

A case is an operator at n tokens and key width dk. The shapes around it are those of the published models:
dk = 512 is LLaVA-OneVision-7B (d 3584, 28 query heads on 4 key heads of 128), dk = 4096 is LLaVA-1.5/1.6-Vicuna-7B
(d 4096, 32 heads of 128). Hyper-parameters are the published ones of LLaVA-OneVision-7B.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pact_ext import ops, reference
from pact_ext.config import PRESETS

from . import published

CONFIG = PRESETS["llava-onevision-7b"]
# After a colon, a special case of an operator.
ONE_ROW = "received_attention:row"
OPERATORS = (
    *("euti_scores", "density", "dbdpc", "assign", "segment_mean", "max_distance", "reduce", "reduce_to"),
    *("received_attention", ONE_ROW, "nearest_denser", "farthest_points", "dpp_select"),
)
PUBLISHED = ("dbdpc", "reduce")
CHOSEN = 64  # tokens that farthest_points and dpp_select choose
SIZES = (729, 2880, 4506, 8192)
WIDTHS = (512, 4096)
QUICK_SIZES, QUICK_WIDTHS = (729, 2880), (512,)

MODEL_SHAPES = {512: (3584, 28, 4), 4096: (4096, 32, 32)}  # dk: d, Hq, Hk
HEAD_SIZE = 128


class Case(NamedTuple):
    """One line of the table."""

    op: str
    n: int
    dk: int

    @property
    def product(self) -> int:
        """Multiply-adds of the n x n x dk product: what every method that materialises the distances pays."""
        return self.n * self.n * self.dk


class Implementation(NamedTuple):
    """Who computes it, and in which dtype: a column of the table."""

    name: str
    dtype: torch.dtype

    @property
    def label(self) -> str:
        """For instance ``ours float32``."""
        return f"{self.name} {str(self.dtype).removeprefix('torch.')}"


IMPLEMENTATIONS = (
    Implementation("ours", torch.float32),
    Implementation("ours", torch.bfloat16),
    Implementation("mm", torch.float32),
    Implementation("mm", torch.bfloat16),
    Implementation("eager", torch.float32),
    Implementation("compiled", torch.float32),
)


def model_shape(dk: int) -> tuple[int, int, int]:
    """Hidden size, query heads and key heads that go with a key width; an unpublished width gets d = dk, Hq = Hk."""
    if dk > HEAD_SIZE and dk % HEAD_SIZE:
        raise ValueError(f"dk must be below {HEAD_SIZE} or a multiple of it, got {dk}")
    heads = max(1, dk // HEAD_SIZE)
    return MODEL_SHAPES.get(dk, (dk, heads, heads))


@dataclass(frozen=True)
class Inputs:
    """Seeded inputs of one size, each made when first asked for, so that an operator costs only what it reads.

    Values are drawn in float32 on the CPU and then converted: every dtype and device sees the same numbers, up to
    the rounding of its dtype.
    """

    n: int
    dk: int
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def _normal(self, seed: int, *shape: int) -> Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def _place(self, x: Tensor) -> Tensor:
        return x.to(device=self.device, dtype=self.dtype)

    @cached_property
    def hidden(self) -> Tensor:
        """Hidden states ``[n, d]``."""
        return self._place(self._normal(1, self.n, model_shape(self.dk)[0]))

    @cached_property
    def keys(self) -> Tensor:
        """Keys before rotary embedding ``[n, Hk, dh]``."""
        heads = model_shape(self.dk)[2]
        return self._place(self._normal(2, self.n, heads, self.dk // heads))

    @cached_property
    def queries(self) -> Tensor:
        """Queries before rotary embedding ``[n, Hq, dh]``."""
        _, query_heads, heads = model_shape(self.dk)
        return self._place(self._normal(3, self.n, query_heads, self.dk // heads))

    @cached_property
    def clusters(self) -> Tensor:
        """The planted cluster of each token, int64 ``[n]``, out of about n / 3."""
        generator = torch.Generator().manual_seed(4)
        return torch.randint(max(1, self.n // 3), (self.n,), generator=generator)

    @cached_property
    def cluster_keys(self) -> Tensor:
        """Keys after rotary embedding ``[n, dk]``: cluster directions plus noise, of unit variance.

        Noise differs from token to token. Two tokens of a cluster are 1 - 1 / sqrt((1 + s_i^2)(1 + s_j^2)) apart, so
        that dc = 0.21 falls inside the spread of a cluster at every dk, and leaves about half of the tokens as centres.
        """
        directions = self._normal(5, max(1, self.n // 3), self.dk)
        level = 0.3 + 0.3 * torch.rand(self.n, 1, generator=torch.Generator().manual_seed(6))
        noisy = directions[self.clusters].addcmul_(level, self._normal(7, self.n, self.dk))
        return self._place(noisy.div_((1 + level * level).sqrt_()))

    @cached_property
    def numbers(self) -> Tensor:
        """A density or relevance of each token, float32 ``[n]`` in (0, 1)."""
        return torch.rand(self.n, generator=torch.Generator().manual_seed(8)).to(self.device)

    @cached_property
    def _members(self) -> tuple[Tensor, Tensor]:
        # A token represents its planted cluster when no lower token does: centres without running an operator,
        # which the measurement of memory must not do beforehand.
        first = torch.full((int(self.clusters.max()) + 1,), self.n)
        first.scatter_reduce_(0, self.clusters, torch.arange(self.n), "amin")
        centers = first[first < self.n].sort().values
        return centers.to(self.device), torch.searchsorted(centers, first[self.clusters]).to(self.device)

    @property
    def centers(self) -> Tensor:
        """A centre of each planted cluster, int64, ascending token indices."""
        return self._members[0]

    @property
    def labels(self) -> Tensor:
        """The position in `centers` of each token's planted cluster, int64 ``[n]``."""
        return self._members[1]


def arguments(op: str, inputs: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of an operator; those of `pact_ext.ops` and of the reference are the same."""
    x, c = inputs, CONFIG
    if op == "euti_scores":
        return (x.hidden, x.keys, x.queries), {}
    if op == "density":
        return (x.cluster_keys, c.dn), {"gaussian": c.gaussian}
    if op == "dbdpc":
        return (x.cluster_keys, c.dc, c.dn), {"gaussian": c.gaussian}
    if op == "assign":
        return (x.cluster_keys, x.centers, c.alpha * c.dc), {}
    if op == "segment_mean":
        return (x.hidden, x.labels, x.centers.shape[0]), {}
    if op == "max_distance":
        return (x.cluster_keys,), {}
    if op in ("reduce", "reduce_to"):
        count = (max(1, x.n // 4),) if op == "reduce_to" else ()
        numbers = (*count, c.prune_ratio, c.dc, c.dn, c.alpha)
        return (x.hidden, x.keys, x.queries, x.cluster_keys, *numbers), {"gaussian": c.gaussian}
    if op in ("received_attention", ONE_ROW):
        return (x.queries[-1:] if op == ONE_ROW else x.queries, x.keys), {}
    if op == "nearest_denser":
        return (x.cluster_keys, x.numbers), {}
    if op == "farthest_points":
        return (x.cluster_keys, min(x.n, CHOSEN)), {}
    if op == "dpp_select":
        return (x.cluster_keys, x.numbers, min(x.n, CHOSEN)), {}
    raise ValueError(f"no operator named {op!r}; there are {', '.join(OPERATORS)}")


def make_call(op: str, name: str, inputs: Inputs) -> Callable[[], Any]:
    """The call to measure, inputs built: ``ours``, ``eager``, ``compiled``, ``published`` (what the paper's authors
    compute, in `PUBLISHED` operators), or ``mm`` (the bare n x n x dk product; for attention of one row, the keys read
    once)."""
    if name == "mm":
        keys = inputs.cluster_keys
        return partial(torch.sum, inputs.keys) if op == ONE_ROW else partial(torch.mm, keys, keys.T)
    module = {"ours": ops, "published": published}.get(name, reference)
    function = getattr(module, op.partition(":")[0])
    if name == "compiled":
        function = torch.compile(function)
    args, kwargs = arguments(op, inputs)
    return partial(function, *args, **kwargs)


def center_count(op: str, result: Any, inputs: Inputs) -> int | None:
    """How many centres or segments the call had to do with; None for an operator that knows none."""
    if op in ("dbdpc", "reduce", "reduce_to"):
        return result[0].shape[0]
    return inputs.centers.shape[0] if op in ("assign", "segment_mean") else None


def passes(case: Case) -> int:
    """How often the implementations of a case take turns: less often where one product takes seconds on few cores."""
    return 3 if case.product < 2e10 else 2 if case.product < 5e10 else 1
