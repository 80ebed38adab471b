"""A random call of an operator from one number: mostly what the contract allows, with one or two arguments spoilt in a
third of them."""

from __future__ import annotations

import math
import random
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from fuzz import tensors

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ALL_DTYPES = sorted({x for x in vars(torch).values() if isinstance(x, torch.dtype)}, key=str)
OPERATORS = (
    *("euti_scores", "density", "dbdpc", "assign", "segment_mean", "max_distance", "reduce", "reduce_to"),
    *("received_attention", "nearest_denser", "farthest_points", "dpp_select"),
    *("euti_scores_packed", "dbdpc_packed", "reduce_packed", "reduce_to_packed", "reduce_padded"),
)
ON_HOST = ("cu_seqlens", "counts")  # on the CPU wherever the others are
MOST = 2**20  # elements of a tensor that may be copied: others are expanded
DISTANCES = [0.0, 1e-300, 0.01, 0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 1e300, math.inf]


def alone(op: str) -> str:
    """The operator of one sequence."""
    return op.removesuffix("_packed").removesuffix("_padded")


@dataclass
class Call:
    """What is called, and in which surroundings. Tensors among the arguments may have any strides."""

    op: str
    arguments: dict[str, Tensor | float | int | bool | None]
    backend: str
    threads: int
    flush: bool

    @property
    def sees_data(self) -> bool:
        """Whether NaN, Inf and indices out of range are errors here (contract section 9)."""
        return self.backend.startswith("cpu-") or self.op in ("dbdpc", "reduce", "dbdpc_packed", "reduce_packed")

    @property
    def alone(self) -> str:
        """The operator of one sequence."""
        return alone(self.op)

    def of_sequence(self, b: int, rows: slice) -> Call:
        """The same for one of a packed call's sequences."""
        given = {
            name: x[rows] if isinstance(x, Tensor) and name not in ON_HOST else x for name, x in self.arguments.items()
        }
        del given["cu_seqlens"]
        given.pop("capacity", None)
        if "counts" in given:
            given["count"] = int(given.pop("counts")[b])
        return Call(self.alone, given, self.backend, self.threads, self.flush)

    def __str__(self) -> str:
        def told(x):
            if not isinstance(x, Tensor):
                return repr(x)
            strides = f" strides {list(x.stride())}" if x.layout == torch.strided else f" {x.layout}"
            return f"<{str(x.dtype).removeprefix('torch.')} {list(x.shape)}{strides} on {x.device}>"

        given = ", ".join(f"{name}={told(x)}" for name, x in self.arguments.items())
        flush = ", subnormal numbers flushed" if self.flush else ""
        return f"{self.op}({given}) on {self.backend}, {self.threads} threads{flush}"


# --- Valid arguments ----------------------------------------------------------------------------------------------


def _cutoff(rng: random.Random) -> float:
    return rng.choice([rng.uniform(0, 2), rng.choice(DISTANCES)])


def _normalisation(rng: random.Random) -> float:
    return rng.choice([rng.uniform(0.1, 3), 10 ** rng.uniform(-2, 2), rng.choice([1e-300, 1e-30, 1e30, 1e308])])


def _importance(rng: random.Random, n: int, dtype: torch.dtype, most: int) -> dict[str, Tensor]:
    key_heads, group, head_size = rng.randint(1, 4), rng.randint(1, 4), tensors.size(rng, most)
    shapes = {
        "hidden": [n, tensors.size(rng, most)],
        "keys": [n, key_heads, head_size],
        "queries": [n, key_heads * group, head_size],
    }
    found = {name: tensors.rounded(tensors.values(rng, *shape), dtype) for name, shape in shapes.items()}
    for name in ("keys", "queries"):  # flat ones take the head size of the other; two flat ones are one head
        if rng.random() < 0.2:
            found[name] = found[name].flatten(1)
    if found["keys"].ndim == found["queries"].ndim == 2 and group > 1 and rng.random() < 0.8:
        found["queries"] = found["queries"][:, : key_heads * head_size].contiguous()
    return found


def _keys(rng: random.Random, n: int, dtype: torch.dtype, most: int) -> Tensor:
    heads = [rng.randint(1, 4)] if rng.random() < 0.5 else []
    return tensors.rounded(tensors.values(rng, n, *heads, tensors.size(rng, most)), dtype)


def _numbers(rng: random.Random, n: int) -> Tensor:
    """A number per token, of any sign, or with ties."""
    return rng.choice([torch.rand(n), torch.randn(n), torch.randint(3, (n,)).float(), torch.zeros(n)])


def _attention(rng: random.Random, n: int, dtype: torch.dtype, width: int) -> dict:
    """Some queries beside the keys, among them or beyond them, and some rows of those."""
    found = _importance(rng, n, dtype, width)
    q = rng.choice([1, n, tensors.size(rng, n)])
    first = rng.choice([None, None, 0, n - q, tensors.size(rng, 2 * n)])
    rows = rng.choice([None, torch.randint(q, (tensors.size(rng, 2 * q),)), torch.tensor([q - 1])])
    scale = rng.choice([None, 1.0, 0.0, -3.0, 3e38])
    queries = {"queries": found["queries"][:q].contiguous(), "keys": found["keys"]}
    return {**queries, "rows": rows, "first": first, "causal": rng.random() < 0.7, "scale": scale}


def _packed(rng: random.Random, op: str, n: int, width: int) -> dict:
    """Some sequences, of which any may have no rows, and in some calls all."""
    found = _valid(rng, alone(op), n, width)
    if rng.random() < 0.05:
        found = {name: x[:0] if isinstance(x, Tensor) else x for name, x in found.items()}
        n = 0
    sequences = rng.randint(n > 0, 5)
    cuts = [rng.randint(0, n) for _ in range(sequences - 1)]
    cuts = sorted(cuts * rng.choice([1, 1, 2]))
    found["cu_seqlens"] = torch.tensor([0, *cuts, *([n] if sequences else [])], dtype=torch.int32)
    if "count" in found:
        found["counts"] = torch.randint(
            1, 2 * found.pop("count") + 1, (len(found["cu_seqlens"]) - 1,), dtype=torch.int32
        )
    if op == "reduce_padded":
        found["capacity"] = tensors.size(rng, 2 * max(1, n))
    return found


def _valid(rng: random.Random, op: str, n: int, width: int) -> dict:
    if op != alone(op):
        return _packed(rng, op, n, width)
    dtype = rng.choice(DTYPES)
    if op == "euti_scores":
        return {**_importance(rng, n, dtype, width), "scale": rng.choice([None, 1.0, 0.0, -3.0, rng.gauss(0, 9), 3e38])}
    if op == "segment_mean":
        count = tensors.size(rng, 2 * n)
        labels = torch.randint(-1, count, (n,))
        rows = tensors.rounded(tensors.values(rng, n, tensors.size(rng, width)), dtype)
        return {"x": rows, "labels": labels, "num_segments": count}
    if op in ("reduce", "reduce_to"):
        found = {**_importance(rng, n, dtype, width), "cluster_keys": _keys(rng, n, dtype, width)}
        found |= {"count": tensors.size(rng, 2 * n)} if op == "reduce_to" else {}
        found |= {"prune_ratio": rng.choice([0.0, 1.0, 0.5, rng.random()]), "dc": _cutoff(rng)}
        found |= {"dn": _normalisation(rng), "alpha": rng.choice([0.0, 1.0, rng.uniform(0, 3), 1e300])}
        return {
            **found,
            "scores": rng.choice([None, _numbers(rng, n)]),
            "scale": rng.choice([None, 1.0]),
            "gaussian": rng.random() < 0.5,
        }
    if op == "received_attention":
        return _attention(rng, n, dtype, width)
    found = {"keys": _keys(rng, n, dtype, width)}
    if op == "nearest_denser":
        return {**found, "density": _numbers(rng, n)}
    if op == "farthest_points":
        return {**found, "count": tensors.size(rng, n), "first": rng.choice([None, rng.randrange(n)])}
    if op == "dpp_select":
        return {**found, "relevance": _numbers(rng, n), "count": tensors.size(rng, n)}
    if op == "assign":
        centers = torch.randint(n, (tensors.size(rng, n),))
        centers = centers.unique() if rng.random() < 0.5 else centers
        return {**found, "centers": centers, "max_distance": rng.choice([_cutoff(rng), -rng.random(), -math.inf])}
    if op == "max_distance":
        return found
    if op == "dbdpc":
        found["dc"] = _cutoff(rng)
    return {**found, "dn": _normalisation(rng), "gaussian": rng.random() < 0.5}


# --- Spoiling -----------------------------------------------------------------------------------------------------


def _usual(x: Tensor) -> bool:
    """Whether it can be spoilt, and laid out."""
    numbers = x.layout == torch.strided and x.device.type == "cpu" and x.dtype in (*DTYPES, torch.int64, torch.int32)
    return numbers and x.ndim > 0 and 0 < x.numel() < MOST


def _recast(rng: random.Random, x: Tensor) -> Tensor:
    dtype = rng.choice(ALL_DTYPES)
    if dtype in (*DTYPES, torch.int64, torch.int32):
        return x.nan_to_num().to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are on their way out of torch
        return torch.empty(x.shape, dtype=dtype)


def _with_bad_number(rng: random.Random, x: Tensor, end: int) -> Tensor:
    """NaN, Inf, or an index out of [0, end), in one place."""
    x = tensors.plain(x)
    indices = [-1, -2, end, end, end, 2**31, 2**40, 2**63 - 1, -(2**63)]
    bad = indices if x.dtype == torch.int64 else [math.nan, math.inf, -math.inf]
    bad = [-1, 0, 1, end, -(2**31), 2**31 - 1] if x.dtype == torch.int32 else bad
    x.view(-1)[rng.randrange(x.numel())] = rng.choice(bad)
    return x


SPOIL_TENSOR = (
    lambda rng, x: None,
    _recast,
    _recast,
    lambda rng, x: x.unsqueeze(rng.randint(0, x.ndim)),
    lambda rng, x: x.flatten(),
    lambda rng, x: x.flatten(rng.randrange(x.ndim)),
    lambda rng, x: x.select(rng.randrange(x.ndim), 0),
    lambda rng, x: x.narrow(rng.randrange(x.ndim), 0, 0),
    lambda rng, x: x[: max(1, len(x) - 1)],
    lambda rng, x: torch.cat([x, x[:1]]),
    lambda rng, x: x[..., : max(1, x.shape[-1] - 1)],
    lambda rng, x: torch.empty(0, dtype=x.dtype),
    lambda rng, x: x.to("meta"),
    lambda rng, x: x.to_sparse(),
    lambda rng, x: x.new_zeros(1).expand(2**31, *[1] * (x.ndim - 1)),
)
BAD_NUMBERS = (math.nan, -math.nan, math.inf, -math.inf, -1.0, -0.0, 0.0, -1e-300, 1 + 2**-52, 1e39, -1e39, 1.7e308)
BAD_COUNTS = (0, -1, 2**31, 2**40, -(2**63), 2**63 - 1)


def _end(arguments: dict, x: Tensor) -> int:
    """The first index that is none."""
    if "rows" in arguments:
        return (
            len(arguments["queries"]) if isinstance(arguments["queries"], Tensor) and arguments["queries"].ndim else 0
        )
    keys = arguments.get("keys")
    count = arguments.get("num_segments", len(x) if keys is None or not keys.ndim else len(keys))
    return count if abs(count) < 2**62 else 0


def _spoil(rng: random.Random, arguments: dict) -> None:
    name = rng.choice([name for name in arguments if name not in ("gaussian", "causal")])
    x = arguments[name]
    if isinstance(x, Tensor):
        if not _usual(x):
            arguments[name] = None
        elif rng.random() < 0.4:
            arguments[name] = _with_bad_number(rng, x, _end(arguments, x))
        else:
            arguments[name] = rng.choice(SPOIL_TENSOR)(rng, x)
    elif name in ("num_segments", "count", "first", "capacity"):
        arguments[name] = rng.choice(BAD_COUNTS)
    elif name in ("dc", "dn", "alpha", "prune_ratio", "max_distance", "scale"):
        arguments[name] = rng.choice(BAD_NUMBERS)


# --- The whole call -----------------------------------------------------------------------------------------------


def draw(seed: int, backends: list[str]) -> Call:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    op, backend = rng.choice(OPERATORS), rng.choice(backends)
    # Emulated threads take their time.
    n, width = (tensors.size(rng, 260), 80) if backend != "emulated" else (tensors.size(rng, 40), 24)
    arguments = _valid(rng, op, n, width)
    for _ in range(rng.choice([0, 0, 0, 1, 1, 2])):
        _spoil(rng, arguments)
    for name, x in arguments.items():
        if isinstance(x, Tensor) and _usual(x):
            there = backend == "cuda" and name not in ON_HOST
            arguments[name] = tensors.laid_out(rng, x.cuda() if there else x)
    return Call(op, arguments, backend, rng.choice([1, 2, 3, 5]), rng.random() < 0.2)
