"""Methods on embeddings and text as their papers and public code have them: loops, dense matrices, float64."""

import math

import numpy as np
import torch
from torch import Tensor

from methods.references_clustering import kmeans


def cosine(a: Tensor, b: Tensor) -> float:
    """Of two vectors; 0 with a zero vector."""
    a, b = a.double(), b.double()
    norms = float(a.norm() * b.norm())
    return float(a @ b) / norms if norms else 0.0


def first_largest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda i: (values[i], -i))


def top(values: list[float], count: int) -> list[int]:
    """Indices of the largest, the largest first, ties to the lower index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def divprune(hidden: Tensor, count: int, start: str) -> list[int]:
    n = len(hidden)
    distance = [[0.0 if i == j else 1 - cosine(hidden[i], hidden[j]) for j in range(n)] for i in range(n)]
    if start == "farthest":
        first = first_largest([max(row) for row in distance])
    else:
        others = [[row[j] for j in range(n) if j != i] for i, row in enumerate(distance)]
        first = first_largest([min(row, default=math.inf) for row in others])
    chosen = [first]
    while len(chosen) < count:
        nearest = [-math.inf if i in chosen else min(distance[i][j] for j in chosen) for i in range(n)]
        chosen.append(first_largest(nearest))
    return sorted(chosen)


def cdpruner_relevance(hidden: Tensor, text: Tensor, negate: bool, theta: float | None) -> Tensor:
    means = [sum(cosine(token, word) for word in text) / len(text) for token in hidden]
    means = [-value for value in means] if negate else means
    low, high = min(means), max(means)
    found = [(value - low + 1e-6) / (high - low) if high > low else 1.0 for value in means]
    if theta is not None:
        found = [math.exp(theta / (2 * (1 - theta)) * value) for value in found]
    return torch.tensor(found, dtype=torch.float64)


def cdpruner(hidden: Tensor, text: Tensor, count: int, negate: bool, theta: float | None) -> list[int]:
    """Every step by the determinants themselves."""
    relevance = cdpruner_relevance(hidden, text, negate, theta)
    unit = torch.stack([x / x.norm() if x.norm() else x for x in hidden.double()])
    kernel = relevance[:, None] * (unit @ unit.T) * relevance[None, :]
    chosen: list[int] = []
    while len(chosen) < count:
        volumes = []
        for i in range(len(hidden)):
            places = [*chosen, i]
            volumes.append(-math.inf if i in chosen else float(torch.linalg.det(kernel[places][:, places])))
        chosen.append(first_largest(volumes))
    return sorted(chosen)


def trim(hidden: Tensor, text: Tensor, keep: int | None, negate: bool) -> tuple[list[int], list[int], Tensor]:
    """Kept tokens, labels, and their states."""
    n = len(hidden)
    scores = torch.tensor([cosine(token, text[-1]) for token in hidden], dtype=torch.float64)
    scores = (-scores if negate else scores).softmax(0)
    if keep is None:
        low, high = np.percentile(scores.numpy(), [25, 75])
        chosen = [i for i in range(n) if scores[i] > high + 1.5 * (high - low)]
    else:
        chosen = top(scores.tolist(), keep)
    others = [i for i in range(n) if i not in chosen]
    kept = sorted([*chosen, *others[-1:]])
    states = {i: hidden[i].double() for i in chosen}
    if others:
        states[others[-1]] = sum(hidden[i].double() for i in others) / len(others)
    labels = [kept.index(i if i in chosen else others[-1]) for i in range(n)]
    return kept, labels, torch.stack([states[i] for i in kept])


def dart(hidden, keys, text, text_keys, tail: int, count: int, pivots: int, text_pivots: int) -> list[int]:
    n = len(hidden)
    chosen = top(keys.flatten(1).abs().sum(1).tolist(), min(pivots, count))
    words = list(range(len(text) - tail, len(text)))
    loudest = top([float(text_keys[i].abs().sum()) for i in words], text_pivots)
    directions = [hidden[i] for i in chosen] + [text[words[i]] for i in loudest]
    left = count - len(chosen)
    shares = [left // len(directions) + (i < left % len(directions)) for i in range(len(directions))]
    for direction, share in zip(directions, shares, strict=True):
        for _ in range(share):
            different = [-math.inf if i in chosen else -cosine(hidden[i], direction) for i in range(n)]
            chosen.append(first_largest(different))
    return sorted(chosen)


def raters(visual: Tensor, text: Tensor, tail: int) -> list[int]:
    start = len(text) - tail
    products = visual.double() @ text[start:].double().T
    relevance = [float(products.softmax(1)[:, i].mean()) for i in range(tail)]
    chosen = [i + start for i in range(tail) if relevance[i] > sum(relevance) / tail]
    return chosen or list(range(start, len(text)))


def sparsevlm(hidden, score: Tensor, kept: int, share: float, clusters: float):
    """Kept tokens, labels (-1: gone) and states; `cluster_and_merge` of the public code without its noise."""
    n, d = hidden.shape
    chosen = top(score.tolist(), kept)
    rest = [i for i in range(n) if i not in chosen]
    count = int(len(rest) * share) + 1
    recycled = sorted(top([float(score[i]) if i in rest else -1.0 for i in range(n)], count))
    count = int(len(recycled) * clusters) + 1
    points = hidden[recycled].double()
    distance = [[float((a - b).norm()) / math.sqrt(d) for b in points] for a in points]
    density = [math.exp(-sum(x * x for x in sorted(row)[:count]) / count) for row in distance]
    farthest = max(map(max, distance))
    score = []
    for i, row in enumerate(distance):
        higher = [row[j] for j in range(len(row)) if (density[j], -j) > (density[i], -i)]
        score.append(min([*higher, farthest]) * density[i])
    centers = sorted(top(score, count))
    cluster = [centers.index(i) if i in centers else min(range(count), key=lambda c: (distance[i][centers[c]], c))
               for i in range(len(points))]  # fmt: skip
    places = [recycled[i] for i in centers]
    out = sorted([*chosen, *places])
    states = {i: hidden[i].double() for i in chosen}
    for c, place in enumerate(places):
        states[place] = points[[i for i, own in enumerate(cluster) if own == c]].mean(0)
    labels = [-1] * n
    for i in chosen:
        labels[i] = out.index(i)
    for i, own in zip(recycled, cluster, strict=True):
        labels[i] = out.index(places[own])
    return out, labels, torch.stack([states[i] for i in out])


def spread(points: Tensor, count: int) -> list[int]:
    """The point nearest the mean, then always the farthest from those chosen."""
    points = points.double()
    seeds = [first_largest([-float((x - points.mean(0)).norm()) for x in points])]
    while len(seeds) < count:
        seeds.append(first_largest([min(float((x - points[s]).norm()) for s in seeds) for x in points]))
    return seeds


def entropy(points: Tensor) -> float:
    """Of a set of vectors: eq. 1 and 2 of EntropyPrune."""
    if not len(points):
        return 0.0
    unit = torch.stack([x / x.norm() if x.norm() else x for x in points.double()])
    values = torch.linalg.eigvalsh(unit @ unit.T).clamp(min=0)
    if not values.sum():
        return 0.0
    p = values / values.sum()
    return -float((p * (p + 1e-12).log()).sum())


def drops(points: Tensor) -> list[float]:
    n = len(points)
    return [entropy(points) - entropy(points[[j for j in range(n) if j != i]]) for i in range(n)]


def combined(scores: list[list[float]]) -> list[float]:
    """Eq. 6, with diagonal matrices."""
    matrix = torch.tensor(scores[0], dtype=torch.float64).diag()
    for score in scores[1:]:
        matrix = (torch.tensor(score, dtype=torch.float64).diag() + torch.eye(len(score))) @ matrix
    return matrix.diagonal().tolist()


def entropyprune(layers: list[Tensor], count: int, core: int, per_cluster: int) -> list[int]:
    clusters = list(kmeans(layers[-1], count, spread(layers[-1], count), 100).values())
    means = [torch.stack([layer[own].double().mean(0) for own in clusters]) for layer in layers]
    best = top(combined([drops(x) for x in means]), core)
    kept = []
    for c in best:
        away = [-float((layers[-1][i].double() - means[-1][c]).norm()) for i in clusters[c]]
        kept += [clusters[c][i] for i in top(away, per_cluster)]
    return sorted(kept)
