"""PACT, one function per stage, named as in the paper (Dhouib et al., "PACT: Pruning and Clustering-Based Token
Reduction for Faster Visual Language Models", CVPR 2025)."""

import math

import torch
from torch import Tensor


def working(x: Tensor) -> Tensor:
    """The tensor in the precision the stages compute in: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


# --- Importance ---------------------------------------------------------------------------------------------


def euti_scores(hidden: Tensor, keys: Tensor, queries: Tensor, scale: float | None = None) -> Tensor:
    """Efficient Unimportant Tokens Identification, the paper's eq. 1 and 2.

    hidden ``[n, d]``, keys ``[n, Hk, dh]``, queries ``[n, Hq, dh]``, before rotary embedding. Returns ``[n]``.
    `scale` multiplies the logits; None means 1/sqrt(dh) (the published code), 1.0 is the paper's equation.
    """
    hidden, keys, queries = working(hidden), working(keys), working(queries)
    head_size = keys.shape[-1]
    scale = 1.0 / math.sqrt(head_size) if scale is None else scale
    query_mean = queries.mean(dim=0)  # [Hq, dh]
    group = query_mean.shape[0] // keys.shape[1]  # query heads that share a key head
    keys = keys.repeat_interleave(group, dim=1)  # [n, Hq, dh]
    logits = scale * (keys * query_mean).sum(dim=-1)  # [n, Hq]
    weights = logits.softmax(dim=0).mean(dim=1)  # softmax over the tokens, mean over the heads
    return weights * torch.linalg.vector_norm(hidden, dim=1)


def kept_count(n: int, prune_ratio: float) -> int:
    """How many of n tokens the importance split keeps: eq. 3's quantile, for distinct scores."""
    return n - math.ceil(prune_ratio * (n - 1))


def largest(scores: Tensor, count: int) -> Tensor:
    """Indices ``[count]`` of the largest scores, ascending; ties by lower index."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


def split(scores: Tensor, prune_ratio: float) -> tuple[Tensor, Tensor]:
    """Token indices (kept, dropped), both ascending: the largest scores are kept, ties by lower index."""
    order = scores.sort(descending=True, stable=True).indices
    m = kept_count(scores.shape[0], prune_ratio)
    return order[:m].sort().values, order[m:].sort().values


# --- Clustering ---------------------------------------------------------------------------------------------


def pairwise_distance(keys: Tensor) -> Tensor:
    """Cosine distance of every pair (eq. 5), ``[n, n]``, in [0, 2] with an exactly zero diagonal.

    A zero vector has cosine 0 with everything but itself.
    """
    keys = working(keys).flatten(1)
    gram = keys @ keys.T
    norm = torch.linalg.vector_norm(keys, dim=1)
    cosine = gram / (norm[:, None] * norm[None, :])
    cosine = torch.where((norm == 0)[:, None] | (norm == 0)[None, :], 0.0, cosine)
    return (1 - cosine).clamp(0, 2).fill_diagonal_(0)


def density_from_distance(distance: Tensor, dn: float, gaussian: bool = False) -> Tensor:
    """Local density (eq. 6): the sum over all tokens of exp(-d/dn), or of exp(-(d/dn)^2) when gaussian."""
    ratio = distance / dn
    return torch.exp(-(ratio * ratio) if gaussian else -ratio).sum(dim=1)


def density(keys: Tensor, dn: float, *, gaussian: bool = False) -> Tensor:
    """Local density of every token, ``[n]``."""
    return density_from_distance(pairwise_distance(keys), dn, gaussian)


def select_centers(distance: Tensor, rho: Tensor, dc: float) -> Tensor:
    """The greedy centres of algorithm 2: by density descending, then index ascending, a token becomes a centre
    when it is farther than dc from every centre chosen so far. Returns ascending token indices."""
    order = rho.sort(descending=True, stable=True).indices
    nearest_center = torch.full_like(rho, torch.inf)
    centers = []
    for token in order.tolist():
        if not centers or nearest_center[token] > dc:
            centers.append(token)
            nearest_center = torch.minimum(nearest_center, distance[token])
    return torch.tensor(sorted(centers), dtype=torch.int64, device=rho.device)


def nearest_center(distance: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Label (a position in `centers`) and distance of every token's nearest centre, ties to the lower token."""
    to_centers = distance[:, centers]
    nearest = to_centers.min(dim=1).values
    token_of_tie = torch.where(to_centers == nearest[:, None], centers, distance.shape[0])
    return token_of_tie.argmin(dim=1), nearest


def assign(keys: Tensor, centers: Tensor, max_distance: float) -> tuple[Tensor, Tensor]:
    """Nearest centre of every token; label -1 when it is not strictly nearer than max_distance."""
    labels, nearest = nearest_center(pairwise_distance(keys), centers)
    return torch.where(nearest < max_distance, labels, -1), nearest


def dbdpc(keys: Tensor, dc: float, dn: float, *, gaussian: bool = False) -> tuple[Tensor, Tensor]:
    """Distance-Bounded Density-Peak Clustering (algorithm 2): centers ``[c]`` ascending, labels ``[n]``."""
    distance = pairwise_distance(keys)
    rho = density_from_distance(distance, dn, gaussian)
    centers = select_centers(distance, rho, dc)
    return centers, nearest_center(distance, centers)[0]


def max_distance(keys: Tensor) -> Tensor:
    """The largest pairwise distance, a scalar: what the choice of the reduction layer looks at."""
    return pairwise_distance(keys).max()


# --- Recovery, merging, the whole reduction -----------------------------------------------------------------


def segment_mean(x: Tensor, labels: Tensor, num_segments: int) -> tuple[Tensor, Tensor]:
    """Mean of the rows of each label, and their counts; label -1 belongs nowhere, an empty segment's mean is 0.

    Rows are added in ascending index in float32 (float64 for float64), and rounded once to the input dtype.
    """
    member = labels >= 0
    rows = working(x)
    sums = rows.new_zeros(num_segments, x.shape[1])
    for token in member.nonzero().flatten().tolist():
        sums[labels[token]] += rows[token]
    counts = torch.bincount(labels[member], minlength=num_segments)
    return (sums / counts.clamp(min=1)[:, None]).to(x.dtype), counts


def merged_position_ids(position_ids: Tensor, centers: Tensor) -> Tensor:
    """A merged token takes its centre's position ids: ``[n]`` or ``[3, n]`` (multimodal RoPE) in, same rank out."""
    return position_ids[..., centers]


def log_sizes(sizes: Tensor) -> Tensor:
    """What proportional attention adds to the logits of a merged token (eq. 11), float32."""
    return sizes.float().log()


def reduce(
    hidden: Tensor,
    keys: Tensor,
    queries: Tensor,
    cluster_keys: Tensor,
    prune_ratio: float,
    dc: float,
    dn: float,
    alpha: float,
    *,
    scores: Tensor | None = None,
    scale: float | None = None,
    gaussian: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """PACT, algorithm 3: merged ``[c, d]``, sizes ``[c]``, centers ``[c]``, labels ``[n]`` (-1: discarded)."""
    n = hidden.shape[0]
    if scores is None:
        scores = euti_scores(hidden, keys, queries, scale)
    kept, dropped = split(scores, prune_ratio)

    distance = pairwise_distance(cluster_keys)
    among_kept = distance[kept][:, kept]
    rho = density_from_distance(among_kept, dn, gaussian)
    centers = kept[select_centers(among_kept, rho, dc)]

    labels, nearest = nearest_center(distance, centers)
    recoverable = torch.ones(n, dtype=torch.bool, device=hidden.device)
    recoverable[dropped] = nearest[dropped] < alpha * dc  # eq. 8: a dropped token joins a centre near enough
    labels = torch.where(recoverable, labels, -1)

    merged, sizes = segment_mean(hidden, labels, centers.shape[0])
    return merged, sizes, centers, labels
