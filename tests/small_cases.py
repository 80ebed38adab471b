"""Small cases of every kernel, for tools that watch memory while they run and look at no result.

``make gpu-sanitize`` runs them under compute-sanitizer; ``make sanitize``, by this file, in the emulator under
AddressSanitizer and UBSan.
"""

from __future__ import annotations

import torch

from pact_ext import ops

# (n, dk, d): one token; a tile's edges; an odd width, padded inside; several tiles in both directions.
SIZES = [(1, 8, 8), (65, 33, 31), (128, 64, 64), (300, 72, 257)]


def run(device: str) -> int:
    """Every operator, dtype and size; returns how many calls. Inputs are made on the host."""
    torch.manual_seed(0)
    count = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for n, dk, d in SIZES:
            on_host = [torch.randn(n, d), torch.randn(n, 1, dk), torch.randn(n, 2, dk), torch.randn(n // 4 + 1, dk)]
            on_host[3] = on_host[3].repeat(5, 1)[:n] + 0.4 * torch.randn(n, dk)
            hidden, keys, queries, near = (t.to(dtype).to(device) for t in on_host)
            centers = torch.arange(0, n, 3).flip(0).to(device)
            labels = (torch.arange(n) % 7 - 1).to(device)
            ops.euti_scores(hidden, keys, queries)
            ops.density(near, 2.0)
            ops.density(near, 2.0, gaussian=True)
            ops.max_distance(near)
            ops.assign(near, centers, 0.3)
            ops.segment_mean(hidden, labels, 6)
            for dc in (0.0, 0.3, 2.0):
                ops.dbdpc(near, dc, 2.0)
            for prune_ratio in (0.0, 0.5, 1.0):
                ops.reduce(hidden, keys, queries, near, prune_ratio, 0.3, 2.0, 1.5)
            ops.reduce(hidden, keys, queries, near, 0.5, 0.3, 2.0, 0.0, scores=torch.arange(float(n)).to(device))
            ops.received_attention(queries, keys)
            ops.received_attention(queries, keys, causal=False)
            ops.received_attention(queries, keys, rows=centers)
            ops.received_attention(queries[-1:], keys)
            few = min(n, 5)
            ops.farthest_points(near, few)
            ops.farthest_points(near, few, first=n - 1)
            ops.dpp_select(near, torch.arange(float(n)).to(device), few)
            ops.nearest_denser(near, torch.arange(float(n)).to(device) % 7)
            for budget in (1, n // 5 + 1, n - n // 4, n):  # fewer centres than are found, more, all tokens
                ops.reduce_to(hidden, keys, queries, near, budget, 0.5, 0.3, 2.0, 1.5)
            bounds = torch.tensor([0, 0, n // 3, n - n // 3, n], dtype=torch.int32)
            ops.euti_scores_packed(hidden, keys, queries, bounds)
            ops.dbdpc_packed(near, bounds, 0.3, 2.0)
            ops.reduce_packed(hidden, keys, queries, near, bounds, 0.5, 0.3, 2.0, 1.5)
            counts = torch.tensor([1, 1, n // 5 + 1, n], dtype=torch.int32)
            ops.reduce_to_packed(hidden, keys, queries, near, bounds, counts, 0.5, 0.3, 2.0, 1.5)
            ops.reduce_padded(hidden, keys, queries, near, bounds, n // 5 + 1, 0.5, 0.3, 2.0, 1.5)
            count += 30
    return count


if __name__ == "__main__":
    from emulator import operators

    ops._ops = operators.load()
    print(f"{run('cpu')} calls of emulated operators")
