"""The methods that cluster and merge, written from their papers: dense matrices, loops, float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cosine_distances(keys: Tensor) -> Tensor:
    """A zero vector is at distance 1 from all others."""
    keys = keys.double().flatten(1)
    units = keys / keys.norm(dim=1, keepdim=True).clamp(min=1e-300)
    distance = (1 - units @ units.T).clamp(min=0)
    distance = (distance + distance.T) / 2
    distance.fill_diagonal_(0)
    return distance


def mean_of(clusters: dict[int, list[int]], hidden: Tensor, sizes: list[int]) -> tuple:
    """Clusters by their representative: kept, labels, hidden, sizes."""
    kept = sorted(clusters)
    labels, means, totals = [-1] * len(hidden), [], []
    for place, token in enumerate(kept):
        members = clusters[token]
        for member in members:
            labels[member] = place
        totals.append(sum(sizes[member] for member in members))
        means.append(sum(sizes[member] * hidden[member].double() for member in members) / totals[-1])
    return kept, labels, torch.stack(means), totals


def groups(labels: list) -> list[list[int]]:
    """The members of each label, in the order of their first."""
    found: dict = {}
    for token, label in enumerate(labels):
        found.setdefault(label, []).append(token)
    return list(found.values())


def kmeans(keys: Tensor, count: int, start: list[int], iterations: int) -> dict[int, list[int]]:
    """Lloyd's algorithm from given tokens. An empty cluster takes the token that is farthest from its centroid among
    those that are not their cluster's nearest, so that no cluster is emptied for another."""
    keys = keys.double().flatten(1)
    centroids, before = [keys[token] for token in start], None
    for _ in range(iterations + 1):
        labels, far = [], []
        for key in keys:
            distances = [float((key - centroid).square().sum()) for centroid in centroids]
            labels.append(min(range(count), key=lambda c: (distances[c], c)))
            far.append(distances[labels[-1]])
        nearest = {}
        for c in range(count):
            members = [i for i in range(len(keys)) if labels[i] == c]
            if members:
                least = min(far[i] for i in members)
                nearest[c] = min(i for i in members if far[i] <= 1.0001 * least)
        free = sorted(set(range(len(keys))) - set(nearest.values()), key=lambda i: (-far[i], i))
        for c in range(count):
            if c not in nearest:
                nearest[c] = free.pop(0)
                labels[nearest[c]] = c
        if labels == before:
            break
        before = labels
        members = [[i for i in range(len(keys)) if labels[i] == c] for c in range(count)]
        centroids = [keys[own].mean(0) for own in members]
    return {nearest[c]: [i for i in range(len(keys)) if labels[i] == c] for c in range(count)}


def dpc(keys: Tensor, count: int, dn: float, gaussian: bool) -> dict[int, list[int]]:
    """Rodriguez & Laio: rho, delta, gamma; then each token in the order of density goes where its nearest denser one
    went."""
    distance = cosine_distances(keys)
    n = len(distance)
    terms = torch.exp(-((distance / dn) ** 2) if gaussian else -distance / dn)
    rho = [round(math.fsum(row), 9) for row in terms.tolist()]
    order = sorted(range(n), key=lambda i: (-rho[i], i))
    denser, gamma = {}, {order[0]: math.inf}
    for rank, i in enumerate(order[1:], 1):
        denser[i] = min(order[:rank], key=lambda j: (float(distance[i, j]), j))
        gamma[i] = round(rho[i] * float(distance[i, denser[i]]), 9)
    centers = sorted(range(n), key=lambda i: (-gamma[i], i))[:count]
    clusters, of = {center: [] for center in centers}, {}
    for i in order:
        of[i] = i if i in clusters else of[denser[i]]
    for i in range(n):
        clusters[of[i]].append(i)
    return clusters


def dbscan(keys: Tensor, eps: float, min_samples: int) -> dict[int, list[int]]:
    """Ester et al.: clusters are grown one after another, each from the first core that has none yet."""
    near = cosine_distances(keys) <= eps
    neighbours = [row.nonzero().flatten().tolist() for row in near]
    core = [len(own) >= min_samples for own in neighbours]
    labels: list = [None] * len(keys)
    for seed in range(len(keys)):
        if not core[seed] or labels[seed] is not None:
            continue
        labels[seed], waiting = seed, [seed]
        while waiting:
            for other in neighbours[waiting.pop(0)]:
                if labels[other] is None:
                    labels[other] = seed
                    if core[other]:
                        waiting.append(other)
    labels = [("alone", i) if label is None else label for i, label in enumerate(labels)]
    return {min(own, key=lambda i: (-len(neighbours[i]), i)): own for own in groups(labels)}


def joined(distance: Tensor, count: int, linkage: str) -> list[list[int]]:
    """The nearest pair of clusters, over all their pairs of members, until `count` are left."""
    clusters = [[i] for i in range(len(distance))]
    measure = {"single": torch.min, "average": torch.mean, "complete": torch.max}[linkage]
    while len(clusters) > count:
        pairs = [(i, j) for i in range(len(clusters)) for j in range(i + 1, len(clusters))]
        i, j = min(pairs, key=lambda p: (round(float(measure(distance[clusters[p[0]]][:, clusters[p[1]]])), 9), p))
        clusters[i] = sorted(clusters[i] + clusters.pop(j))
        clusters.sort()
    return clusters


def agglomerative(keys: Tensor, count: int, linkage: str) -> dict[int, list[int]]:
    """Each cluster at the member whose key is most like their mean."""
    clusters = joined(cosine_distances(keys), count, linkage)
    keys, found = keys.double().flatten(1), {}
    for members in clusters:
        mean = keys[members].mean(0)
        cosine = [float(keys[i] @ mean) / max(1e-300, float(keys[i].norm() * mean.norm())) for i in members]
        found[max(zip(members, cosine, strict=True), key=lambda at: (round(at[1], 6), -at[0]))[0]] = members
    return found


def tome(keys: Tensor, r: int, joined: bool) -> dict[int, list[int]]:
    """Bolya et al.: bipartite soft matching, A the even places and B the odd ones."""
    metric = keys.double().flatten(1) if joined else keys.double().mean(1)
    distance = cosine_distances(metric)
    a, b = range(0, len(keys), 2), range(1, len(keys), 2)
    edges = []
    for i in a:
        if len(b):
            j = min(b, key=lambda j: (float(distance[i, j]), j))
            edges.append((float(distance[i, j]), i, j))
    clusters = {i: [i] for i in range(len(keys))}
    for _, i, j in sorted(edges)[:r]:
        clusters[j] += clusters.pop(i)
    return {token: sorted(members) for token, members in clusters.items()}
