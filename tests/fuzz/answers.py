"""What a valid call must return: the contract's certificates against float64, and the operators' own bits."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from certificate import (
    DISTANCE_MARGIN,
    DPP_ERROR,
    DPP_ERROR_FLOAT32,
    check_clustering,
    check_dpp_select,
    check_farthest_points,
    density_margin,
    own_distances,
    reduction_of_parts,
    replay,
)
from torch import Tensor

from fuzz import contract, tensors
from fuzz.calls import Call
from pact_ext import ops, reference

EVEN = 1.5e-5  # where neighbours repeat: products of one size round all one way, up to 256 of them (kSumBlock)
FEW = 24  # tokens up to which every distance of the operators themselves is looked at


def check_shapes(call: Call, *found: Tensor) -> None:
    """Shapes, dtypes and strides. (Which centers there are, and so how many, only the data tells.)"""
    given = call.arguments
    n = len(given["keys"] if call.op == "received_attention" else next(iter(given.values())))
    told_by_data = call.alone in ("dbdpc", "reduce") or call.op == "reduce_to_packed"
    c = len(found[0]) if told_by_data else min(n, given.get("count", n))
    wanted = {
        "euti_scores": lambda: [(torch.float32, n)],
        "density": lambda: [(torch.float32, n)],
        "dbdpc": lambda: [(torch.int64, c), (torch.int64, n)],
        "assign": lambda: [(torch.int64, n), (torch.float32, n)],
        "segment_mean": lambda: [
            (given["x"].dtype, given["num_segments"], given["x"].shape[1]),
            (torch.int64, given["num_segments"]),
        ],
        "max_distance": lambda: [(torch.float32,)],
        "reduce": lambda: [
            (given["hidden"].dtype, c, given["hidden"].shape[1]),
            *[(torch.int64, length) for length in (c, c, n)],
        ],
        "received_attention": lambda: [(torch.float32, n)],
        "nearest_denser": lambda: [(torch.float32, n), (torch.int64, n)],
        "farthest_points": lambda: [(torch.int64, c)],
        "dpp_select": lambda: [(torch.int64, c)],
    }
    wanted["reduce_to"] = wanted["reduce"]
    wanted = wanted[call.alone]()
    if call.op == "reduce_padded":
        places = (len(given["cu_seqlens"]) - 1, given["capacity"])
        wanted = [(given["hidden"].dtype, *places, given["hidden"].shape[1]), *[(torch.int64, *places)] * 2]
        wanted += [(torch.int64, n), (torch.int32, places[0])]
    elif told_by_data and "cu_seqlens" in given:
        wanted.append((torch.int32, len(given["cu_seqlens"])))
    assert [(x.dtype, *x.shape) for x in found] == wanted, "dtypes or shapes"
    assert all(x.is_contiguous() for x in found)


def _margin(keys: Tensor) -> float:
    """What a distance of these keys may be off by."""
    return EVEN if (keys.flatten(1).diff(dim=1) == 0).any() else DISTANCE_MARGIN


def _near(found: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    off = (found.cpu().double() - expected.cpu()).abs() - rtol * expected.cpu().abs()
    assert (off <= atol).all(), f"off by {off.max().item():.3g} beyond a relative {rtol:.3g}"


def euti_scores(call: Call, scores: Tensor) -> None:
    given = call.arguments
    hidden, keys, queries = (given[name].double() for name in ("hidden", "keys", "queries"))
    assert (scores >= 0).all(), "a score is negative or NaN"
    # A weight is off relatively by what its logit is off by: double on the CPU, float32 on CUDA.
    largest = (
        keys.abs().max()
        * queries.abs().mean(0).max()
        * keys.shape[-1]
        * abs(1 if given["scale"] is None else given["scale"])
    )
    rtol = 1e-6 + float(largest) * (1e-15 if call.backend.startswith("cpu-") else 1e-6)
    norms = hidden.norm(dim=1)
    if rtol < 0.1:
        _near(scores, contract.importance(given), rtol, atol=1e-37 * max(1, norms.max().item()))
    assert (scores.double() <= norms * (1 + 1e-5) + 1e-37).all(), "a score is larger than the norm of its hidden state"


def density(call: Call, rho: Tensor) -> None:
    given = call.arguments
    n = len(given["keys"])
    assert ((rho >= 1) & (rho <= n)).all()
    expected = reference.density(given["keys"].double(), given["dn"], gaussian=given["gaussian"])
    _near(rho, expected, density_margin(given["dn"], given["gaussian"], _margin(given["keys"])), atol=0)


def dbdpc(call: Call, centers: Tensor, labels: Tensor) -> None:
    given = call.arguments
    keys, dc, dn, gaussian = given["keys"], given["dc"], given["dn"], given["gaussian"]
    check_clustering(keys, dc, dn, gaussian, centers, labels, _margin(keys))
    if len(keys) <= FEW:
        expected = replay(own_distances(keys).cpu(), ops.density(keys, dn, gaussian=gaussian).cpu(), dc)
        assert torch.equal(centers.cpu(), expected[0]), "not the centres of the sequential algorithm"
        assert torch.equal(labels.cpu(), expected[1]), "not the labels of the sequential algorithm"


def assign(call: Call, labels: Tensor, distances: Tensor) -> None:
    given = call.arguments
    keys, centers, limit = given["keys"], given["centers"], given["max_distance"]
    assert ((distances >= 0) & (distances <= 2)).all()
    nearest, again = ops.assign(keys, centers, math.inf)
    assert torch.equal(again, distances), "distances depend on max_distance"
    assert torch.equal(labels, torch.where(distances.double() < limit, nearest, -1)), "max_distance is no strict limit"
    exact = reference.pairwise_distance(keys.cpu().double())[:, centers.cpu()]
    chosen = exact.gather(1, nearest.cpu()[:, None])[:, 0]
    assert (chosen <= exact.min(dim=1).values + _margin(keys)).all(), "a nearer centre exists"
    _near(distances, chosen, 0, _margin(keys))
    if len(centers) <= FEW:
        columns = own_distances(keys, centers)
        assert torch.equal(distances, columns.min(dim=1).values), "not the least of the distances to each centre"
        tied = torch.where(columns == distances[:, None], centers, len(keys))
        assert torch.equal(centers[nearest], tied.min(dim=1).values), "a tie did not go to the lower token"
        assert torch.equal(nearest, tied.argmin(dim=1)), "of a repeated centre the first is meant"


def segment_mean(call: Call, means: Tensor, counts: Tensor) -> None:
    x, labels, segments = (call.arguments[name] for name in ("x", "labels", "num_segments"))
    expected = reference.segment_mean(tensors.plain(x).cpu(), labels.cpu(), segments)
    assert torch.equal(means.cpu(), expected[0]), "not the means of the float32 sums in ascending order"
    assert torch.equal(counts.cpu(), expected[1])


def max_distance(call: Call, largest: Tensor) -> None:
    keys = call.arguments["keys"]
    _near(largest, reference.max_distance(keys.cpu().double()), 0, _margin(keys))
    if len(keys) <= FEW:
        assert largest == own_distances(keys).max(), "not the largest of the distances"


def reduce(call: Call, *found: Tensor) -> None:
    given = call.arguments
    expected = reduction_of_parts(**given)
    for name, ours, other in zip(("merged", "sizes", "centers", "labels"), found, expected, strict=True):
        assert torch.equal(ours, other), f"{name} are not those of the other operators"


def reduce_to(call: Call, merged: Tensor, sizes: Tensor, centers: Tensor, labels: Tensor) -> None:
    given = call.arguments
    hidden, keys, count, n = given["hidden"], given["cluster_keys"], len(centers), len(labels)
    assert (centers.diff() > 0).all(), "centres are not ascending"
    assert torch.equal(labels[centers], torch.arange(count, device=labels.device)), "a centre is in another's cluster"
    for ours, other in zip((merged, sizes), ops.segment_mean(hidden, labels, count), strict=True):
        assert torch.equal(ours, other), "not the means and sizes of the labels"

    plain = {name: x for name, x in given.items() if name != "count"}
    scores = given["scores"]
    kept_count = reference.kept_count(n, given["prune_ratio"])
    if kept_count >= count:
        _, _, free, _ = found = ops.reduce(**plain)
        fewer, more = sorted((set(free.tolist()), set(centers.tolist())), key=len)
        assert fewer <= more, "centres came and went"
        if len(free) == count:
            for ours, other in zip((merged, sizes, centers, labels), found, strict=True):
                assert torch.equal(ours, other), "not what reduce finds, of as many centres"
    if scores is None and max(kept_count, count) < n:
        scores = ops.euti_scores(hidden, given["keys"], given["queries"], given["scale"])
    scores = torch.zeros(n) if scores is None else scores.cpu()
    order = scores.sort(descending=True, stable=True).indices
    kept, dropped = order[: max(kept_count, count)], order[max(kept_count, count) :]
    assert (labels.cpu()[kept] >= 0).all(), "a kept token was discarded"
    distance = reference.pairwise_distance(keys.cpu().double())[:, centers.cpu()]
    joined = labels.cpu() >= 0
    own = distance.gather(1, labels.cpu().clamp(min=0)[:, None])[:, 0]
    nearest, margin = distance.min(dim=1).values, _margin(keys)
    limit = given["alpha"] * given["dc"] if given["alpha"] else 0.0
    assert (own[joined] <= nearest[joined] + margin).all(), "a nearer centre exists"
    assert (nearest[dropped][joined[dropped]] < limit + margin).all(), "a dropped token joined from too far"
    assert (nearest[dropped][~joined[dropped]] >= limit - margin).all(), "a dropped token was not recovered"


def received_attention(call: Call, received: Tensor) -> None:
    given = dict(call.arguments)
    q, k = contract.in_heads(given.pop("queries"), given.pop("keys"))
    if not call.backend.startswith("cpu-") and q.abs().max() * k.abs().max() * q.shape[-1] > contract.LARGEST:
        return  # sums of terms that float32 does not hold
    assert (received >= 0).all(), "a weight is negative or NaN"
    assert abs(received.double().sum().item() - 1) < 1e-5, "the weights of a row do not sum to 1"
    scale = q.shape[-1] ** -0.5 if given["scale"] is None else given["scale"]
    # A float32 logit is off by 1e-6 of the norms' product, and its weight relatively by as much.
    rtol = 2e-6 + 2e-6 * abs(scale) * q.norm(dim=-1).max().item() * k.norm(dim=-1).max().item()
    if rtol < 0.1:
        _near(received, reference.received_attention(q, k, **_on_cpu(given)), rtol, atol=1e-12)


def nearest_denser(call: Call, distances: Tensor, indices: Tensor) -> None:
    keys, rank = call.arguments["keys"], call.arguments["density"].cpu()
    distances, indices = distances.cpu(), indices.cpu()
    index, exact = torch.arange(len(keys)), reference.pairwise_distance(keys.cpu().double())
    outranks = (rank[None] > rank[:, None]) | (rank[None] == rank[:, None]) & (index[None] < index[:, None])
    (first,) = (~outranks.any(dim=1)).nonzero()[:, 0]
    assert indices[first] == -1
    _near(distances[first], exact[first].max(), 0, _margin(keys))
    others = index[index != first]
    assert outranks[others, indices[others]].all(), "what is nearest does not outrank"
    nearest = exact.masked_fill(~outranks, torch.inf).min(dim=1).values
    _near(distances[others], exact[others, indices[others]], 0, _margin(keys))
    _near(distances[others], nearest[others], 0, _margin(keys))
    if len(keys) <= FEW:
        own = own_distances(keys).cpu().masked_fill(~outranks, torch.inf)
        assert torch.equal(distances[others], own.min(dim=1).values[others]), "not the least of the distances"
        tied = torch.where(own == distances[:, None], index, len(keys)).min(dim=1).values
        assert torch.equal(indices[others], tied[others]), "a tie did not go to the lower token"


def farthest_points(call: Call, chosen: Tensor) -> None:
    given = call.arguments
    check_farthest_points(given["keys"], given["count"], given["first"], chosen, _margin(given["keys"]))


def dpp_select(call: Call, chosen: Tensor) -> None:
    given = call.arguments
    error = (DPP_ERROR if call.backend.startswith("cpu-") else DPP_ERROR_FLOAT32) * _margin(given["keys"])
    check_dpp_select(given["keys"], given["relevance"], given["count"], chosen, error / DISTANCE_MARGIN)


def packed(call: Call, *found: Tensor) -> None:
    """Each sequence has the bits that it has alone."""
    given = call.arguments
    run = lambda b, rows: getattr(ops, call.alone)(**call.of_sequence(b, rows).arguments)  # noqa: E731
    if call.op == "euti_scores_packed":
        bounds = given["cu_seqlens"].tolist()
        for b, (begin, end) in enumerate(pairwise(bounds)):
            own = found[0][begin:end]
            assert begin == end or torch.equal(own, run(b, slice(begin, end))), f"sequence {b} has other scores alone"
        return
    before = [x[:0] for x in found[:-3]]
    for i, (ours, alone) in enumerate(
        zip(found, reference.number_through(given["cu_seqlens"], run, *before), strict=True)
    ):
        assert torch.equal(ours.cpu(), alone.cpu()), f"result {i} is not that of each sequence alone"


def padded(call: Call, merged: Tensor, sizes: Tensor, centers: Tensor, labels: Tensor, counts: Tensor) -> None:
    """Each sequence has the bits that it has alone, by `reduce` or within its capacity; and nothing is behind it."""
    given, capacity = call.arguments, call.arguments["capacity"]
    for b, (begin, end) in enumerate(pairwise(given["cu_seqlens"].tolist())):
        c = int(counts[b])
        assert not merged[b, c:].any(), f"sequence {b} has more than {c} tokens"
        assert not sizes[b, c:].any(), f"sequence {b} has more than {c} sizes"
        assert (centers[b, c:] == -1).all(), f"sequence {b} has more than {c} centers"
        if begin == end:
            assert c == 0, f"sequence {b} has {c} tokens of none"
            continue
        own = call.of_sequence(b, slice(begin, end)).arguments
        alone = ops.reduce(**own)
        if len(alone[0]) > capacity:
            alone = ops.reduce_to(**own, count=capacity)
        own_labels = torch.where(labels[begin:end] < 0, -1, labels[begin:end] - b * capacity)
        for i, (ours, other) in enumerate(
            zip((merged[b, :c], sizes[b, :c], centers[b, :c] - begin, own_labels), alone, strict=True)
        ):
            assert torch.equal(ours, other), f"sequence {b}: result {i} is not that of it alone"


def _on_cpu(given: dict) -> dict:
    return {name: x.cpu() if isinstance(x, Tensor) else x for name, x in given.items()}


CHECKS = {
    f.__name__: f
    for f in (
        *(euti_scores, density, dbdpc, assign, segment_mean, max_distance, reduce, reduce_to),
        *(received_attention, nearest_denser, farthest_points, dpp_select),
    )
}
CHECKS["reduce_padded"] = padded
CHECKS |= dict.fromkeys(("euti_scores_packed", "dbdpc_packed", "reduce_packed", "reduce_to_packed"), packed)
