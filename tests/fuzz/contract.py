"""What the contract allows, read from its section 9 and not from the code: which arguments of a call are at fault."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import torch
from torch import Tensor

from fuzz.calls import DTYPES, ON_HOST, Call
from pact_ext import reference

LARGEST = torch.finfo(torch.float32).max

# Per-token tensors in the order of the schema; the first sets device, and dtype and rows where those must agree.
RANKS = {
    "euti_scores": {"hidden": (2,), "keys": (2, 3), "queries": (2, 3)},
    "density": {"keys": (2, 3)},
    "dbdpc": {"keys": (2, 3)},
    "assign": {"keys": (2, 3), "centers": (1,)},
    "segment_mean": {"x": (2,), "labels": (1,)},
    "max_distance": {"keys": (2, 3)},
    "reduce": {"hidden": (2,), "keys": (2, 3), "queries": (2, 3), "cluster_keys": (2, 3), "scores": (1,)},
    "received_attention": {"queries": (2, 3), "keys": (2, 3), "rows": (1,)},
    "nearest_denser": {"keys": (2, 3), "density": (1,)},
    "farthest_points": {"keys": (2, 3)},
    "dpp_select": {"keys": (2, 3), "relevance": (1,)},
}
RANKS["reduce_to"] = RANKS["reduce"]
RANKS["reduce_padded"] = RANKS["reduce"]
RANKS |= {f"{op}_packed": RANKS[op] for op in ("euti_scores", "dbdpc", "reduce", "reduce_to")}
OWN_DTYPE = {"centers": torch.int64, "labels": torch.int64, "rows": torch.int64}
OWN_DTYPE |= dict.fromkeys(("scores", "density", "relevance"), torch.float32)
OPTIONAL = ("scores", "rows")
OWN_LENGTH = (("assign", "centers"), ("received_attention", "keys"), ("received_attention", "rows"))
NUMBERS = {
    "dc": lambda x: x >= 0,
    "dn": lambda x: 0 < x < math.inf,
    "alpha": lambda x: 0 <= x < math.inf,
    "prune_ratio": lambda x: 0 <= x <= 1,
    "max_distance": lambda x: not math.isnan(x),
    "num_segments": lambda x: 1 <= x < 2**31,
    "scale": lambda x: x is None or abs(x) <= LARGEST,
}


def _alone(name: str, x: Tensor | None, ranks: tuple[int, ...], packed: bool) -> bool:
    """Whether a tensor is what it must be, whatever the others are. Packed sequences may have no rows."""
    if x is None:
        return name in OPTIONAL
    dtype = x.dtype == OWN_DTYPE[name] if name in OWN_DTYPE else x.dtype in DTYPES
    place = x.layout == torch.strided and x.device.type in ("cpu", "cuda", "meta")
    some = x.ndim > 0 and (x.shape[1:] if packed else x.shape).numel() > 0
    return dtype and place and x.ndim in ranks and some and len(x) < 2**31


def _heads_fit(keys: Tensor, queries: Tensor) -> bool:
    """Two-dimensional keys and queries are one head, or have the head size of the other."""
    if keys.ndim == queries.ndim == 3:
        return keys.shape[2] == queries.shape[2] and queries.shape[1] % keys.shape[1] == 0
    size = keys.shape[2] if keys.ndim == 3 else queries.shape[2] if queries.ndim == 3 else keys.shape[1]
    key_width, query_width = keys.shape[1:].numel(), queries.shape[1:].numel()
    return key_width % size == 0 and query_width % size == 0 and query_width // size % (key_width // size) == 0


def _faults_in_counts(call: Call) -> set[str]:
    """Of whole numbers that are held against the number of keys; and of queries, when nothing else places them."""
    given, bad = call.arguments, set()
    keys = given.get("keys")
    n = len(keys) if isinstance(keys, Tensor) and keys.ndim else 2**31
    if "count" in given and not 1 <= given["count"] < (2**31 if call.op == "reduce_to" else n + 1):
        bad.add("count")
    bounds = given.get("cu_seqlens")
    sequences = len(bounds) - 1 if isinstance(bounds, Tensor) and bounds.ndim == 1 else 1
    if "capacity" in given and not 1 <= given["capacity"] <= (2**31 - 1) // max(1, sequences):
        bad.add("capacity")
    first = given.get("first")
    if first is not None and not 0 <= first < (n if call.op == "farthest_points" else 2**31):
        bad.add("first")
    queries = given.get("queries") if call.op == "received_attention" and first is None and given["causal"] else None
    if isinstance(queries, Tensor) and queries.ndim and len(queries) > n:
        bad.add("queries")
    return bad


def _faults_on_host(call: Call, without_data: bool) -> set[str]:
    """Of the numbers that the host reads, as far as they tell without data."""
    given = {name: call.arguments[name] for name in ON_HOST if name in call.arguments}
    bad = {name for name, x in given.items() if not _on_host(x, without_data)}
    if "cu_seqlens" in given and not bad:
        sequences = len(given["cu_seqlens"]) - 1
        bad |= {"cu_seqlens"} if sequences < 0 else set()
        bad |= {"counts"} if len(given.get("counts", range(sequences))) != sequences else set()
    return bad


def _on_host(x: Tensor | None, without_data: bool) -> bool:
    if not isinstance(x, Tensor) or x.layout != torch.strided or x.dtype != torch.int32 or x.ndim != 1:
        return False
    return x.is_cpu or (x.is_meta and without_data)


def faults_in_numbers(call: Call) -> set[str]:
    """Of a call whose arguments are right otherwise: those whose numbers on the host are no sequences, no budgets."""
    bad, given = set(), call.arguments
    if "cu_seqlens" in given:
        bounds = given["cu_seqlens"].tolist()
        rows = len(next(x for name, x in given.items() if isinstance(x, Tensor) and name not in ON_HOST))
        if bounds[0] or bounds[-1] != rows or bounds != sorted(bounds):
            bad.add("cu_seqlens")
    if "counts" in given and (given["counts"] < 1).any():
        bad.add("counts")
    return bad


def visible_faults(call: Call) -> set[str]:
    """The arguments that are wrong as far as rank, sizes, dtype, device and numbers tell."""
    given, ranks = call.arguments, RANKS[call.op]
    alone = {name for name in ranks if _alone(name, given[name], ranks[name], "cu_seqlens" in given)}
    bad = set(ranks) - alone
    bad |= {name for name in NUMBERS if name in given and name not in ranks and not NUMBERS[name](given[name])}
    bad |= _faults_in_counts(call)
    first, *others = ranks
    lead = given[first]
    bad |= _faults_on_host(call, isinstance(lead, Tensor) and lead.is_meta)
    for name in others:
        x = given[name]
        if x is None or lead is None:
            continue
        if x.device != lead.device or (name not in OWN_DTYPE and x.dtype != lead.dtype):
            bad.add(name)
        if (call.op, name) not in OWN_LENGTH and lead.ndim and x.ndim and len(x) != len(lead):
            bad.add(name)
    if "queries" in ranks and {"keys", "queries"} <= alone and not _heads_fit(given["keys"], given["queries"]):
        bad.add("queries")
    return bad


def faults_in_data(call: Call) -> set[str]:
    """Of a call whose arguments are right otherwise: those with NaN, Inf or an index out of range."""
    given = call.arguments
    tensors = {name: x for name, x in given.items() if isinstance(x, Tensor)}
    bad = {name for name, x in tensors.items() if x.is_floating_point() and not x.isfinite().all()}
    for name, least, end in (
        ("labels", -1, given.get("num_segments")),
        ("centers", 0, len(next(iter(tensors.values())))),
        ("rows", 0, len(next(iter(tensors.values())))),
    ):
        if name in tensors and ((tensors[name] < least) | (tensors[name] >= end)).any():
            bad.add(name)
    return bad


def scores_overflow(call: Call) -> bool | None:
    """Whether finite inputs give an importance beyond float32; None when that is for rounding to say."""
    given = call.arguments
    if "cu_seqlens" in given:
        bounds = given["cu_seqlens"].tolist()
        rows = [(b, slice(*span)) for b, span in enumerate(pairwise(bounds)) if span[0] < span[1]]
        each = [scores_overflow(call.of_sequence(b, own)) for b, own in rows]
        return None if None in each else any(each)
    n = len(given["hidden"])
    if call.op != "euti_scores":
        kept = max(reference.kept_count(n, given["prune_ratio"]), min(n, given.get("count", 0)))
        if given["scores"] is not None or kept == n:
            return False  # importance is not asked
    scores = importance(given)
    if not scores.isfinite().all():
        return None
    # On CUDA logits and the mean of the queries are float32, and may overflow before the scores do.
    keys, queries = given["keys"].double().abs(), given["queries"].double().abs()
    logits = keys.max() * queries.max() * keys.shape[-1] * max(1, abs(given["scale"] or 1))
    if not call.backend.startswith("cpu-") and max(logits, queries.sum(0).max()) > 1e30:
        return None
    return None if LARGEST / 1.01 < scores.max() < LARGEST * 1.01 else bool(scores.max() > LARGEST)


def in_heads(queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Both ``[n, H, dh]``, in float64 on the CPU."""
    keys, queries = keys.cpu().double(), queries.cpu().double()
    size = keys.shape[-1] if keys.ndim == 3 else queries.shape[-1] if queries.ndim == 3 else keys.shape[1]
    return queries.flatten(1).unflatten(1, (-1, size)), keys.flatten(1).unflatten(1, (-1, size))


def importance(given: dict) -> Tensor:
    """EUTI in float64."""
    queries, keys = in_heads(given["queries"], given["keys"])
    return reference.euti_scores(given["hidden"].cpu().double(), keys, queries, given["scale"])


def describes(got: str, x) -> bool:
    """Whether a message's last words say what the argument is."""
    if not isinstance(x, Tensor):
        if x is None:
            return got == "None"
        if isinstance(x, int):
            return got == str(x)
        return bool(re.fullmatch(r"[-+.\de]+|-?inf|nan", got)) and (float(got) == x or (math.isnan(x) and got == "nan"))
    layout = f"{x.layout} on {x.device}".removeprefix("torch.")
    if got in (str(list(x.shape)), str(x.dtype).removeprefix("torch."), str(x.device), layout, "NaN or Inf"):
        return True
    return x.dtype in (torch.int64, torch.int32) and got.lstrip("-").isdigit() and bool((x == int(got)).any())
