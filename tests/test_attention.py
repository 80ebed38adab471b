"""Proportional attention through extra channels of the heads: eq. 11, in every dtype."""

from __future__ import annotations

import math
import sys
import types

import pytest
import torch
import torch.nn.functional as F

from pact_ext.attention import PADDING, dense_mask, extend, proportional_attention

SHAPES = [(1, 4, 4, 33, 16), (2, 6, 2, 70, 64), (2, 4, 1, 9, 128), (1, 2, 2, 1, 8), (1, 3, 3, 40, 65)]


def problem(batch, heads, key_heads, n, head_size, dtype=torch.float64, padding=True, seed=0):
    """Query, key, value, and log sizes between log 1 and log 300; the first tokens of the last row are padding."""
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(batch, h, n, head_size, generator=generator, dtype=torch.float64).to(dtype)
        for h in (heads, key_heads, key_heads)
    )
    sizes = torch.randint(1, 300, (batch, n), generator=generator)
    sizes[torch.rand(batch, n, generator=generator) < 0.5] = 1
    log_sizes = sizes.double().log()
    if padding:
        log_sizes[-1, : n // 4] = -torch.inf
    return query, key, value, log_sizes


def exact(query, key, value, log_sizes, scale=None, causal=True):
    """Eq. 11 as it reads: every key's weight times its size. A query that sees nothing gets 0."""
    query, key, value = (x.double() for x in (query, key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    weights = (query @ key.transpose(-1, -2) * scale).exp() * log_sizes.double().exp()[:, None, None]
    if causal:
        weights = weights.tril(key.shape[2] - query.shape[2])
    return (weights @ value / weights.sum(-1, keepdim=True)).nan_to_num()


def valid(out, log_sizes, queries):
    """The queries that see something other than padding."""
    return (log_sizes > -torch.inf).cumsum(1)[:, -queries:] > 0


def difference(out, expected, log_sizes):
    rows = valid(out, log_sizes, out.shape[2])[:, None, :, None].expand_as(out)
    return (out.double() - expected)[rows].abs().max()


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_channels_and_mask_compute_equation_11(shape, causal):
    query, key, value, log_sizes = problem(*shape)
    expected = exact(query, key, value, log_sizes, causal=causal)
    out = proportional_attention(query, key, value, log_sizes, causal=causal)
    assert out.shape == query.shape
    assert difference(out, expected, log_sizes) < 1e-12
    if causal:
        mask = dense_mask(log_sizes, query.shape[2], query.dtype)
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        assert difference(out, expected, log_sizes) < 1e-12


@pytest.mark.parametrize("causal", [True, False])
def test_one_query_beside_many_keys(causal):
    query, key, value, log_sizes = problem(2, 4, 2, 20, 32)
    out = proportional_attention(query[:, :, -1:], key, value, log_sizes, causal=causal)
    assert (out - exact(query[:, :, -1:], key, value, log_sizes)).abs().max() < 1e-12


def test_a_size_is_as_many_equal_tokens():
    query, key, value, _ = problem(1, 2, 2, 12, 16, padding=False)
    sizes = torch.tensor([1, 3, 1, 1, 7, 1, 1, 2, 1, 1, 1, 1])
    out = proportional_attention(query, key, value, sizes.double().log()[None])[:, :, -1]
    repeated = (x.repeat_interleave(sizes, dim=2) for x in (key, value))
    assert (out - F.scaled_dot_product_attention(query, *repeated)[:, :, -1]).abs().max() < 1e-13


@pytest.mark.parametrize("scale", [None, 1.0, 0.01, 3.7])
def test_scale(scale):
    query, key, value, log_sizes = problem(2, 4, 2, 20, 32)
    out = proportional_attention(query, key, value, log_sizes, scale=scale)
    assert difference(out, exact(query, key, value, log_sizes, scale=scale), log_sizes) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("head_size", [64, 72, 128])
def test_two_channels_carry_a_log_size_to_a_float32s_precision(dtype, head_size):
    scale = head_size**-0.5
    log_sizes = torch.arange(1, 3000).double().log()[None]
    n = log_sizes.shape[1]
    query, key = torch.zeros(1, 1, 1, head_size, dtype=dtype), torch.zeros(1, 1, n, head_size, dtype=dtype)
    q, k, v = extend(query, key, key, log_sizes.float(), scale)
    assert q.dtype == k.dtype == v.dtype == dtype
    assert q.shape[-1] == k.shape[-1] == v.shape[-1]
    assert q.shape[-1] % 8 == 0
    logits = (q.double() @ k.double().transpose(-1, -2))[0, 0, 0] * scale
    # Two halves of 8 (bfloat16) or 11 bits are 16 or more; a log size is below 8.1.
    assert (logits - log_sizes[0]).abs().max() < 8.1 * 2.0**-17


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_channels_are_no_worse_than_a_mask(dtype):
    worse = []
    for seed in range(8):
        query, key, value, log_sizes = problem(2, 4, 2, 96, 64, dtype, seed=seed)
        expected = exact(query, key, value, log_sizes)
        channels = proportional_attention(query, key, value, log_sizes)
        mask = dense_mask(log_sizes, query.shape[2], dtype)
        masked = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        assert channels.dtype == dtype
        square = [
            ((out.double() - expected)[valid(out, log_sizes, 96)[:, None, :, None].expand_as(out)])
            for out in (channels, masked)
        ]
        worse.append([x.square().mean().sqrt() for x in square])
    channels, masked = torch.tensor(worse).mean(0)
    assert channels <= masked


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_padding_weighs_nothing_and_makes_no_nan(dtype):
    query, key, value, log_sizes = problem(2, 2, 2, 24, 64, dtype)
    junk = log_sizes == -torch.inf
    outs = []
    for fill in (0.0, 100.0):
        k, v = (x.masked_fill(junk[:, None, :, None], fill) for x in (key, value))
        outs.append(proportional_attention(query, k, v, log_sizes))
        assert outs[-1].isfinite().all()
    rows = valid(outs[0], log_sizes, 24)[:, None, :, None].expand_as(query)
    assert torch.equal(outs[0][rows], outs[1][rows])
    assert math.exp(PADDING / 2) == 0


def test_dense_mask():
    low = torch.finfo(torch.float32).min
    mask = dense_mask(torch.tensor([[-torch.inf, 0.0, 0.5]]), 3, torch.float32, width=4)
    assert mask.tolist() == [[[[0, low, low, low], [low, 0, low, low], [low, 0, 0.5, low]]]]
    assert dense_mask(torch.zeros(2, 5), 2, torch.float16).shape == (2, 1, 2, 5)


def test_the_flash_kernel_gets_what_it_wants(monkeypatch):
    """flash-attn needs a card: a stand-in with its documented layout and alignment looks at what it is handed."""
    seen = []

    def flash_attn_func(q, k, v, *, softmax_scale, causal):
        seen.append((q, k, v))
        n, queries = k.shape[1], q.shape[1]
        lower_right = torch.ones(queries, n, dtype=torch.bool).tril(n - queries) if causal else None
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=lower_right, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    monkeypatch.setitem(sys.modules, "flash_attn", types.SimpleNamespace(flash_attn_func=flash_attn_func))
    query, key, value, log_sizes = problem(2, 4, 2, 30, 64)
    for queries in (30, 4):  # a whole prompt, and a later turn beside cached keys
        out = proportional_attention(query[:, :, -queries:], key, value, log_sizes, scale=0.2, kernel="flash")
        expected = exact(query[:, :, -queries:], key, value, log_sizes, scale=0.2)
        assert difference(out, expected, log_sizes) < 1e-12
        q, k, v = seen.pop()
        assert q.shape == (2, queries, 4, 72)
        assert k.shape == v.shape == (2, 30, 2, 72)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": torch.zeros(2, 3, 4)}, r"query must be \[B, Hq, q, dh\], got \[2, 3, 4\]"),
        ({"key": torch.zeros(2, 3, 7, 16)}, r"key must be \[2, Hk, n, 16\] with 4 % Hk == 0, got \[2, 3, 7, 16\]"),
        ({"value": torch.zeros(2, 2, 6, 16)}, r"value must be \[2, 2, 7, 16\], as key, got \[2, 2, 6, 16\]"),
        ({"log_sizes": torch.zeros(2, 6)}, r"log_sizes must be \[2, 7\], got \[2, 6\]"),
        ({"log_sizes": torch.zeros(2, 7, dtype=torch.int64)}, "log_sizes must be floating, got torch.int64"),
        ({"kernel": "fast"}, "kernel must be 'sdpa' or 'flash', got 'fast'"),
        ({"query": torch.zeros(2, 4, 3, 16)}, "query must be 1 or 7 long, as key, .* got 3"),
    ],
)
def test_errors(change, message):
    given = {"query": torch.zeros(2, 4, 7, 16), "key": torch.zeros(2, 2, 7, 16), "value": torch.zeros(2, 2, 7, 16)}
    given |= {"log_sizes": torch.zeros(2, 7)} | change
    with pytest.raises(ValueError, match="pact_ext.proportional_attention: " + message):
        proportional_attention(**given)
