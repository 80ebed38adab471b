"""Inputs for the operator tests."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# (n, dk): one token, odd sizes, the edges of panels and tiles on every instruction set, widths past one sum block, and
# of two whole ones.
SHAPES = [(1, 1), (2, 3), (7, 5), (12, 8), (48, 64), (49, 512), (191, 33), (192, 64), (193, 257), (390, 264)]
SHAPES += [(33, 4096)]


def clustered(n: int, dk: int, dtype: torch.dtype = torch.float32, noise: float = 0.5, groups: int | None = None):
    """Gaussian keys around shared directions: some pairs near, most far, distances without structure."""
    groups = max(1, n // 4) if groups is None else groups
    directions = torch.randn(groups, dk)
    return (directions[torch.arange(n) % groups] + noise * torch.randn(n, dk)).to(dtype)


def with_margins(n: int, dk: int = 64, clusters: int = 12) -> Tensor:
    """Keys whose clustering is beyond doubt for 0.05 <= dc <= 0.5 and a density exp(-d/2): clusters in orthogonal
    subspaces, one member of each on its axis, the others 0.1 to 0.3 rad (distance 0.005 to 0.045) away from it.
    (Two tokens alone in a cluster would tie: leave it more.)"""
    basis = torch.linalg.qr(torch.randn(dk, dk, dtype=torch.float64)).Q
    own = dk // clusters  # dimensions of a cluster's subspace, the first of them its axis
    label = torch.arange(n) % clusters
    angle = torch.where(torch.arange(n) < clusters, 0.0, 0.1 + 0.2 * torch.rand(n, dtype=torch.float64))
    aside = basis[label * own + torch.randint(1, own, (n,))]
    keys = basis[label * own] * angle.cos()[:, None] + aside * angle.sin()[:, None]
    order = torch.randperm(n)
    return (keys * (0.5 + torch.rand(n, 1, dtype=torch.float64)))[order].float()


def reduction_inputs(n, d=40, key_heads=2, query_heads=4, head_size=16, dtype=torch.float32, device="cpu"):
    """hidden, keys, queries and cluster_keys of a reduction."""
    hidden = torch.randn(n, d).to(dtype)
    keys = clustered(n, key_heads * head_size, dtype, noise=0.4).view(n, key_heads, head_size)
    queries = torch.randn(n, query_heads, head_size).to(dtype)
    cluster_keys = clustered(n, key_heads * head_size, dtype, noise=0.4).view(n, key_heads, head_size)
    return tuple(t.to(device) for t in (hidden, keys, queries, cluster_keys))


def adversarial() -> dict[str, Tensor]:
    """Inputs that greedy clustering, ties and rounding stumble over; small integers, so that much is exact. More tokens
    than a panel of any instruction set (48), and no more: a replay asks for the distances to each of them."""
    unit = torch.eye(4)
    zeros = torch.zeros(3, 4)
    return {
        "one token": torch.tensor([[3.0, -1.0]]),
        "one zero token": torch.zeros(1, 5),
        "all equal": torch.tensor([[0.3, -1.7, 2.2]]).repeat(55, 1),
        "all zero": torch.zeros(50, 7),
        "zeros among others": torch.cat([unit, zeros, unit, -unit]),
        "antipodal": torch.cat([unit, -unit]).repeat(7, 1),
        "duplicates": torch.randn(10, 6).repeat(6, 1),
        "scaled duplicates": torch.cat([factor * (torch.eye(7, 6) - 0.25) for factor in (1.0, 2.0, 0.5, 1024.0)]),
        "orthogonal, all densities tie": torch.eye(60),
        "integer grid": torch.cartesian_prod(*[torch.arange(-2.0, 3.0)] * 2, torch.arange(-1.0, 2.0)),
        "huge and tiny": torch.randn(40, 9) * torch.logspace(-37, 37, 40)[:, None],
        "subnormal": torch.randn(20, 9) * 1e-41,
    }


def awkward_strides(x: Tensor) -> list[Tensor]:
    """The same values behind other strides and storage offsets."""
    wide = torch.empty(*x.shape[:-1], x.shape[-1] * 2 + 1, dtype=x.dtype, device=x.device)
    wide[..., 1::2] = x
    offset = torch.empty(x.numel() + 1, dtype=x.dtype, device=x.device)
    offset[1:] = x.flatten()
    return [wide[..., 1::2], x.transpose(0, -1).contiguous().transpose(0, -1), offset[1:].view(x.shape)]


def packed(lengths, dtype=torch.float32, device="cpu"):
    """hidden, keys, queries, cluster_keys, and where each sequence begins."""
    parts = [reduction_inputs(max(n, 1), dtype=dtype) for n in (*lengths, 0)]
    tensors = [torch.cat([x[:n] for x, n in zip(own, (*lengths, 0), strict=True)]) for own in zip(*parts, strict=True)]
    return [x.to(device) for x in tensors], torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
