"""PruMerge, VisionZip and HiRED as their papers and public code write them, with loops over dense matrices."""

import torch
from torch import Tensor


def by_attention(attention: Tensor, count: int) -> list[int]:
    """The `count` tokens of most attention; ties to the lower index."""
    return sorted(range(len(attention)), key=lambda i: (-float(attention[i]), i))[:count]


def cosine(x: Tensor, y: Tensor) -> float:
    lengths = float(x.norm()) * float(y.norm())
    return float(x @ y) / lengths if lengths else 0.0


def outliers(attention: Tensor) -> list[int]:
    """Above Q3 + 1.5 IQR, quartiles by linear interpolation; the largest when none is."""
    ordered = sorted(attention.double().tolist())

    def quantile(q: float) -> float:
        at = q * (len(ordered) - 1)
        below = int(at)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (at - below) * (ordered[above] - ordered[below])

    first, third = quantile(0.25), quantile(0.75)
    found = [i for i, x in enumerate(attention.double().tolist()) if x > third + 1.5 * (third - first)]
    return found or by_attention(attention, 1)


def spaced(n: int, kept: list[int]) -> list[int]:
    """With the evenly spaced tokens of PruMerge+, outliers being kept."""
    step = max(1, int(int(1 / (len(kept) / n)) / 3))
    return sorted({*kept, *range(0, n - 1, step)})


def spaced_budget(attention: Tensor, centers: int) -> list[int]:
    """Half by attention, rounded up, half spaced among what is left."""
    top = by_attention(attention, (centers + 1) // 2)
    others = [i for i in range(len(attention)) if i not in top]
    more = centers - len(top)
    return sorted([*top, *(others[int((i + 0.5) * len(others) / more)] for i in range(more))])


def merged(features, keys, attention, kept, neighbors, near="dropped", rest="sum"):
    """PruMerge's tokens before the projector: places and features."""
    n, result = len(features), {}
    for i in kept:
        others = [j for j in range(n) if j != i and (near == "all" or j not in kept)]
        others.sort(key=lambda j: (-cosine(keys[i], keys[j]), j))
        result[i] = features[i].clone()
        for j in others[:neighbors]:
            result[i] += attention[j] * features[j]
    dropped = [j for j in range(n) if j not in kept]
    if rest != "none" and dropped:
        total = sum(attention[j] * features[j] for j in dropped)
        if rest == "mean":
            total = total / sum(attention[j] for j in dropped)
        result[max(dropped, key=lambda j: (float(attention[j]), -j))] = total
    places = sorted(result)
    return places, torch.stack([result[i] for i in places])


def visionzip(features, keys, attention, dominant, contextual):
    """Dominant places, and contextual places with their features before the projector, and who joins which."""
    n = len(features)
    chosen = by_attention(attention, dominant)
    left = [i for i in range(n) if i not in chosen]
    targets = left[:: max(1, len(left) // contextual)][:contextual]
    metric, members = keys.mean(dim=1), {target: [] for target in targets}
    for i in left:
        if i not in targets:
            members[max(targets, key=lambda t: (cosine(metric[i], metric[t]), -t))].append(i)
    found = {}
    for target, own in members.items():
        found[target] = features[target] + (features[own].mean(dim=0) if own else 0)
    return sorted(chosen), found, members


def hired(first, deep, tiles, keep, alpha):
    """One picture's tokens: `tiles` as (places, region), the whole view first, `keep` the number wanted."""
    (whole, _), *parts = tiles
    full = min(int(keep * alpha) if parts else keep, len(whole))
    budgets = [full]
    total = sum(float(sum(first[i] for i in region)) for _, region in parts)
    for places, region in parts:
        share = float(sum(first[i] for i in region)) / total
        budgets.append(min(len(places), int(share * (keep - full))))
    kept = set()
    for (places, _), count in zip(tiles, budgets, strict=True):
        kept |= {places[i] for i in by_attention(deep[torch.tensor(places)], count)}
    everything = sorted(i for places, _ in tiles for i in places)
    unused = sorted((i for i in everything if i not in kept), key=lambda i: (-float(deep[i]), i))
    return sorted([*kept, *unused[: keep - len(kept)]])
