"""Bad arguments: every backend, and the shape functions, refuse the same calls in the same words."""

import math
import warnings

import pytest
import torch
from conftest import BACKENDS, Backend

from pact_ext import ops

# One instruction set stands for all of them, beside CUDA and tensors without data.
PLACES = [BACKENDS[0], *(b for b in BACKENDS if not b.sees_data), Backend("meta", "meta")]
everywhere = pytest.mark.parametrize("backend", PLACES, indirect=True, ids=lambda backend: backend.name)

KEYS, HIDDEN, QUERIES = torch.ones(4, 2, 8), torch.ones(4, 6), torch.ones(4, 4, 8)
LABELS = torch.zeros(4, dtype=torch.int64)
VALID = {
    "euti_scores": {"hidden": HIDDEN, "keys": KEYS, "queries": QUERIES},
    "density": {"keys": KEYS, "dn": 2.0},
    "dbdpc": {"keys": KEYS, "dc": 0.2, "dn": 2.0},
    "assign": {"keys": KEYS, "centers": LABELS, "max_distance": 0.5},
    "segment_mean": {"x": HIDDEN, "labels": LABELS, "num_segments": 2},
    "max_distance": {"keys": KEYS},
    "reduce": {
        **{"hidden": HIDDEN, "keys": KEYS, "queries": QUERIES, "cluster_keys": KEYS},
        **{"prune_ratio": 0.5, "dc": 0.2, "dn": 2.0, "alpha": 1.5, "scores": torch.ones(4)},
    },
    "received_attention": {"queries": QUERIES, "keys": KEYS, "rows": LABELS},
    "nearest_denser": {"keys": KEYS, "density": torch.ones(4)},
    "farthest_points": {"keys": KEYS, "count": 2},
    "dpp_select": {"keys": KEYS, "relevance": torch.ones(4), "count": 2},
}
VALID["reduce_to"] = {**VALID["reduce"], "count": 2}
BOUNDS = torch.tensor([0, 3, 4], dtype=torch.int32)
for alone in ("euti_scores", "dbdpc", "reduce"):
    VALID[f"{alone}_packed"] = {**VALID[alone], "cu_seqlens": BOUNDS}
VALID["reduce_to_packed"] = {**VALID["reduce_packed"], "counts": BOUNDS[1:]}
VALID["reduce_padded"] = {**VALID["reduce_packed"], "capacity": 3}
ON_HOST = ("cu_seqlens", "counts")  # on the CPU wherever the others are
OPTIONAL = ("scores", "rows")
NAN = math.nan
FLOATING = "must be float32, float16 or bfloat16, got"
HOST = "must be on the CPU, which sizes the results by it, got"
KEY_SHAPE = "must be [n, dk] or [n, Hk, dh], got"
QUERY_SHAPE = "must be [n, Hq * dh] or [n, Hq, dh], got"
WHOLE = "must have a whole multiple of the heads of keys, heads of"
BAD = {
    "euti_scores": [
        ("hidden", HIDDEN[0], "must be [n, d], got [6]"),
        ("hidden", HIDDEN[:0], "must not be empty, got [0, 6]"),
        ("hidden", HIDDEN.double(), f"{FLOATING} float64"),
        ("keys", KEYS[0, 0], f"{KEY_SHAPE} [8]"),
        ("keys", KEYS.half(), "must have the dtype of hidden, float32, got float16"),
        ("keys", KEYS[:3], "must have as many rows as hidden, 4, got [3, 2, 8]"),
        ("queries", QUERIES[0, 0], f"{QUERY_SHAPE} [8]"),
        ("queries", QUERIES.bfloat16(), "must have the dtype of hidden, float32, got bfloat16"),
        ("queries", QUERIES.long(), f"{FLOATING} int64"),
        ("queries", QUERIES[:3], "must have as many rows as hidden, 4, got [3, 4, 8]"),
        ("queries", QUERIES[:, :, :7], "must have the head size of keys, 8, got [4, 4, 7]"),
        ("queries", QUERIES[:, :3], f"{WHOLE} 8 for keys [4, 2, 8], got [4, 3, 8]"),
        ("queries", QUERIES.flatten(1)[:, :31], f"{WHOLE} 8 for keys [4, 2, 8], got [4, 31]"),
        ("scale", math.inf, "must be finite in float32, got inf"),
        ("scale", -1e39, "must be finite in float32, got -1e+39"),
        ("scale", NAN, "must be finite in float32, got nan"),
    ],
    "density": [
        ("keys", torch.ones(3), f"{KEY_SHAPE} [3]"),
        ("keys", torch.ones(()), f"{KEY_SHAPE} []"),
        ("keys", torch.ones(3, 4, 5, 6), f"{KEY_SHAPE} [3, 4, 5, 6]"),
        ("keys", torch.ones(4, 0), "must not be empty, got [4, 0]"),
        ("keys", torch.ones(1, 1).expand(2**31, 1), "must have fewer than 2^31 rows, got [2147483648, 1]"),
        ("dn", 0.0, "must be > 0 and finite, got 0"),
        ("dn", -0.0001234567, "must be > 0 and finite, got -0.0001234567"),
        ("dn", -(10**12), "must be > 0 and finite, got -1e+12"),
        ("dn", -NAN, "must be > 0 and finite, got nan"),
        ("dn", math.inf, "must be > 0 and finite, got inf"),
    ],
    "dbdpc": [
        ("keys", torch.ones(0, 4), "must not be empty, got [0, 4]"),
        ("dc", -0.1, "must be >= 0, got -0.1"),
        ("dc", NAN, "must be >= 0, got nan"),
        ("dn", 0.0, "must be > 0 and finite, got 0"),
    ],
    "assign": [
        ("centers", LABELS.int(), "must be int64, got int32"),
        ("centers", LABELS[:, None], "must be [c], got [4, 1]"),
        ("centers", LABELS[:0], "must not be empty, got [0]"),
        ("max_distance", NAN, "must be a number, got nan"),
    ],
    "segment_mean": [
        ("x", torch.ones(3), "must be [n, d], got [3]"),
        ("x", HIDDEN.bool(), f"{FLOATING} bool"),
        ("labels", LABELS.to(torch.uint8), "must be int64, got uint8"),
        ("labels", LABELS[:, None], "must be [n], got [4, 1]"),
        ("labels", LABELS[:2], "must have as many rows as x, 4, got [2]"),
        ("num_segments", 0, "must be in [1, 2^31), got 0"),
        ("num_segments", 2**31, "must be in [1, 2^31), got 2147483648"),
    ],
    "max_distance": [("keys", KEYS.int(), f"{FLOATING} int32")],
    "reduce": [
        ("hidden", HIDDEN[0], "must be [n, d], got [6]"),
        ("queries", QUERIES[:, :3], f"{WHOLE} 8 for keys [4, 2, 8], got [4, 3, 8]"),
        ("cluster_keys", KEYS[:3], "must have as many rows as hidden, 4, got [3, 2, 8]"),
        ("cluster_keys", KEYS.half(), "must have the dtype of hidden, float32, got float16"),
        ("cluster_keys", KEYS[0, 0], f"{KEY_SHAPE} [8]"),
        ("prune_ratio", -0.1, "must be in [0, 1], got -0.1"),
        ("prune_ratio", 1 + 1e-12, "must be in [0, 1], got 1.000000000001"),
        ("prune_ratio", NAN, "must be in [0, 1], got nan"),
        ("dc", -1.0, "must be >= 0, got -1"),
        ("dn", 0.0, "must be > 0 and finite, got 0"),
        ("alpha", -1.0, "must be >= 0 and finite, got -1"),
        ("alpha", math.inf, "must be >= 0 and finite, got inf"),
        ("scale", 1e308, "must be finite in float32, got 1e+308"),
        ("scores", torch.ones(4).double(), "must be float32, got float64"),
        ("scores", torch.ones(3), "must have as many rows as hidden, 4, got [3]"),
        ("scores", torch.ones(4, 1), "must be [n], got [4, 1]"),
    ],
    "reduce_to": [
        ("cluster_keys", KEYS[:3], "must have as many rows as hidden, 4, got [3, 2, 8]"),
        ("count", 0, "must be in [1, 2^31), got 0"),
        ("count", 2**31, "must be in [1, 2^31), got 2147483648"),
        ("dn", 0.0, "must be > 0 and finite, got 0"),
        ("scores", torch.ones(4, 1), "must be [n], got [4, 1]"),
    ],
    "received_attention": [
        ("queries", QUERIES[0, 0], f"{QUERY_SHAPE} [8]"),
        ("queries", QUERIES[:, :3], f"{WHOLE} 8 for keys [4, 2, 8], got [4, 3, 8]"),
        (
            "queries",
            torch.ones(5, 4, 8),
            "must have at most as many rows as keys, 4, when `first` does not place them, got [5, 4, 8]",
        ),
        ("keys", KEYS.half(), "must have the dtype of queries, float32, got float16"),
        ("rows", LABELS.int(), "must be int64, got int32"),
        ("rows", LABELS[:0], "must not be empty, got [0]"),
        ("rows", LABELS[:, None], "must be [r], got [4, 1]"),
        ("first", -1, "must be in [0, 2^31), got -1"),
        ("first", 2**31, "must be in [0, 2^31), got 2147483648"),
        ("scale", NAN, "must be finite in float32, got nan"),
    ],
    "nearest_denser": [
        ("keys", KEYS[0, 0], f"{KEY_SHAPE} [8]"),
        ("density", torch.ones(4).double(), "must be float32, got float64"),
        ("density", torch.ones(3), "must have as many rows as keys, 4, got [3]"),
        ("density", torch.ones(4, 1), "must be [n], got [4, 1]"),
    ],
    "farthest_points": [
        ("keys", KEYS[:0], "must not be empty, got [0, 2, 8]"),
        ("count", 0, "must be at least 1 and at most the rows of keys, 4, got 0"),
        ("count", 5, "must be at least 1 and at most the rows of keys, 4, got 5"),
        ("first", -1, "must be a row of keys, in [0, 4), got -1"),
        ("first", 4, "must be a row of keys, in [0, 4), got 4"),
    ],
    "dpp_select": [
        ("relevance", torch.ones(4).half(), "must be float32, got float16"),
        ("relevance", torch.ones(5), "must have as many rows as keys, 4, got [5]"),
        ("count", 5, "must be at least 1 and at most the rows of keys, 4, got 5"),
    ],
    "euti_scores_packed": [
        ("hidden", torch.ones(0, 0), "must not be empty, got [0, 0]"),
        ("queries", QUERIES[:, :3], f"{WHOLE} 8 for keys [4, 2, 8], got [4, 3, 8]"),
        ("cu_seqlens", BOUNDS.long(), "must be int32, got int64"),
        ("scale", NAN, "must be finite in float32, got nan"),
    ],
    "dbdpc_packed": [
        ("keys", torch.ones(4, 0), "must not be empty, got [4, 0]"),
        ("cu_seqlens", BOUNDS[:0], "must be [B + 1], got [0]"),
        ("dc", NAN, "must be >= 0, got nan"),
    ],
    "reduce_packed": [
        ("keys", KEYS[:0], "must have as many rows as hidden, 4, got [0, 2, 8]"),
        ("cluster_keys", KEYS[:3], "must have as many rows as hidden, 4, got [3, 2, 8]"),
        ("cu_seqlens", BOUNDS[None], "must be [B + 1], got [1, 3]"),
        ("alpha", -1.0, "must be >= 0 and finite, got -1"),
        ("scores", torch.ones(3), "must have as many rows as hidden, 4, got [3]"),
    ],
    "reduce_to_packed": [
        ("cu_seqlens", BOUNDS.float(), "must be int32, got float32"),
        ("counts", BOUNDS, "must have as many numbers as there are sequences in cu_seqlens, 2, got [3]"),
        ("counts", BOUNDS[1:, None], "must be [B], got [2, 1]"),
        ("counts", BOUNDS[1:].long(), "must be int32, got int64"),
        ("dn", 0.0, "must be > 0 and finite, got 0"),
    ],
    "reduce_padded": [
        ("cu_seqlens", BOUNDS[None], "must be [B + 1], got [1, 3]"),
        ("capacity", 0, "must be in [1, 1073741823] for 2 sequences, got 0"),
        ("capacity", 2**30, "must be in [1, 1073741823] for 2 sequences, got 1073741824"),
        ("prune_ratio", 1.5, "must be in [0, 1], got 1.5"),
    ],
}


def moved(arguments, device):
    """Without data, what the host would have to read is without data, too."""
    there = {name for name, x in arguments.items() if isinstance(x, torch.Tensor)}
    there -= set() if device == "meta" else set(ON_HOST)
    return {name: x.to(device) if name in there else x for name, x in arguments.items()}


def tensors(op):
    return [name for name, x in VALID[op].items() if isinstance(x, torch.Tensor)]


def refusal(op, arguments):
    with pytest.raises(RuntimeError) as caught:
        getattr(ops, op)(**arguments)
    return str(caught.value)


@everywhere
@pytest.mark.parametrize("op", BAD)
def test_bad_arguments(backend, op):
    valid = moved(VALID[op], backend.device)
    for name, value, message in BAD[op]:
        assert refusal(op, {**valid, **moved({name: value}, backend.device)}) == f"pact::{op}: {name} {message}"


@everywhere
@pytest.mark.parametrize("op", BAD)
def test_none_for_a_tensor(backend, op):
    valid = moved(VALID[op], backend.device)
    for name in tensors(op):
        if name not in OPTIONAL:
            assert refusal(op, {**valid, name: None}) == f"pact::{op}: {name} must be a tensor, got None"
    nothing = {**valid, **dict.fromkeys(tensors(op))}
    assert refusal(op, nothing) == f"pact::{op}: {tensors(op)[0]} must be a tensor, got None"


@everywhere
def test_every_dtype_has_its_name(backend):
    dtypes = {x for x in vars(torch).values() if isinstance(x, torch.dtype)} - {torch.float32, torch.float16}
    for dtype in dtypes - {torch.bfloat16}:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some are on their way out of torch
            keys = torch.empty(4, 8, dtype=dtype, device=backend.device)
        name = str(dtype).removeprefix("torch.")
        assert refusal("density", {"keys": keys, "dn": 2.0}) == f"pact::density: keys {FLOATING} {name}"


@pytest.mark.parametrize("op", BAD)
def test_tensors_with_and_without_data(op):
    first, *others = tensors(op)
    for here, there in (("cpu", "meta"), ("meta", "cpu")):
        for name in others:
            arguments = {**moved(VALID[op], here), name: VALID[op][name].to(there)}
            if name not in ON_HOST:
                wanted = f"must be on the device of {first}, {here}, got {there}"
                assert refusal(op, arguments) == f"pact::{op}: {name} {wanted}"
            elif there == "meta":  # the other way around is what a compiler sees
                assert refusal(op, arguments) == f"pact::{op}: {name} {HOST} {there}"


@pytest.mark.parametrize("op", BAD)
def test_other_layouts(op):
    for name in tensors(op):
        arguments = {**VALID[op], name: VALID[op][name].to_sparse()}
        wanted = f"pact::{op}: {name} must be a strided tensor on the CPU or a CUDA device, got sparse_coo on cpu"
        assert refusal(op, arguments) == wanted


def test_importance_beyond_float32(backend):
    """Every input is finite, but not the norm of a hidden state."""
    large = {"hidden": torch.full((4, 6), 3e38), "keys": torch.eye(4, 8) * 1e3, "queries": torch.eye(1, 8).repeat(4, 1)}
    large = moved(large, backend.device)
    message = "the importance scores must be finite, got NaN or Inf: the inputs are too large"
    if backend.sees_data:
        assert refusal("euti_scores", large) == f"pact::euti_scores: {message}"
    arguments = {**moved(VALID["reduce"], backend.device), **large, "scores": None}
    assert refusal("reduce", arguments) == f"pact::reduce: {message}"
    assert ops.reduce(**{**arguments, "prune_ratio": 0.0})[2].tolist() == [0]  # importance chooses nothing
