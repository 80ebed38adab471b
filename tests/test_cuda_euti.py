"""The CUDA kernels of the EUTI scores and of the split, in the emulator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from data import DTYPES
from emulator import build

from pact_ext import reference

dev = build.load()
SEEDS = range(3)

# Of scores whose logits are small. Logits, sums in float32, enter the exponent: their absolute error, which grows with
# the scale, is the score's relative one.
RTOL = 1e-5


def elements(x):
    """The tensor's elements as numpy holds them: half types as their bits."""
    return x.numpy() if x.dtype == torch.float32 else x.view(torch.uint16).numpy()


def laid_out(x, stride, offset):
    """[n, width] as one array of rows of `stride` elements that begin `offset` elements in; NaN all around."""
    flat = torch.full((offset + x.shape[0] * stride,), float("nan"), dtype=x.dtype)
    flat[offset:].view(-1, stride)[:, : x.shape[1]] = x
    return elements(flat)


def inputs(n, d, key_heads, group, head_size, dtype=torch.float32):
    hidden = torch.randn(n, d).to(dtype)
    keys = torch.randn(n, key_heads, head_size).to(dtype)
    return hidden, keys, (torch.randn(n, key_heads * group, head_size) + 0.3).to(dtype)


def euti(hidden, keys, queries, scale=0.25, chunk_rows=32, chunk=32, aligned=False, by=(0, 8), offset=0, seed=0):
    """(scores, whether the input was found to be bad). Aligned: the 16-byte path, widths in whole vectors. `by`: the
    head size that the kernel of the logits knows, 0 for any, and the heads that it takes at a time."""
    n, key_heads, head_size = keys.shape
    group = queries.shape[1] // key_heads
    widest = max(hidden.shape[1], queries.shape[1] * head_size)
    stride = -(-widest // 8) * 8 if aligned else widest + 1
    arrays = [laid_out(x.flatten(1), stride, offset) for x in (hidden, keys, queries)]
    scores = np.full(n, np.nan, np.float32)
    dtype = str(hidden.dtype).removeprefix("torch.")
    shape = (n, hidden.shape[1], head_size, key_heads, group)
    bad = dev.euti(dtype, *arrays, offset, stride, *shape, scale, chunk_rows, chunk, aligned, *by, scores, seed)
    return torch.from_numpy(scores), bad


def check(hidden, keys, queries, scale=0.25, **how):
    scores, bad = euti(hidden, keys, queries, scale, **how)
    expected = reference.euti_scores(hidden.double(), keys.double(), queries.double(), scale)
    torch.testing.assert_close(scores.double(), expected, rtol=RTOL * max(1, abs(scale)), atol=1e-37)
    assert not bad
    return scores


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1, 1),
        (3, 7, 1, 3, 5),
        (17, 33, 3, 2, 17),
        (15, 64, 4, 7, 128),
        (16, 300, 33, 1, 8),
        (33, 9, 2, 1, 300),
        (2, 5, 520, 1, 2),  # more heads than the scores hold statistics of at a time
    ],
    ids=str,
)
def test_scores(shape, dtype):
    tensors = inputs(*shape, dtype)
    scores = check(*tensors)
    for seed in SEEDS:
        assert torch.equal(euti(*tensors, seed=seed)[0], scores)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 8, 1, 1, 8), (20, 1040, 2, 3, 72), (18, 24, 3, 5, 16)], ids=str)
def test_sixteen_byte_loads_give_the_same_bits(shape, dtype):
    tensors = inputs(*shape, dtype)
    scores = check(*tensors, aligned=True)
    assert torch.equal(euti(*tensors, aligned=True, offset=8, seed=1)[0], scores)
    assert torch.equal(euti(*tensors, offset=3, seed=2)[0], scores)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("group", [1, 3, 9])
def test_kernels_for_a_head_size_give_the_same_bits(group, head_size, dtype):
    tensors = inputs(70, 8, 2, group, head_size, dtype)
    scores = check(*tensors, scale=0.125, chunk=64)
    for heads in (1, 4, 8):
        found, bad = euti(*tensors, scale=0.125, chunk=64, aligned=True, by=(head_size, heads))
        assert not bad
        assert torch.equal(found, scores)
    tensors[1][69, 1, head_size - 1] = float("inf")
    assert euti(*tensors, aligned=True, by=(head_size, 4))[1]


@pytest.mark.parametrize(("n", "chunk"), [(33, 32), (97, 32), (128, 64), (100, 128), (100, 1024)])
def test_chunks_of_tokens(n, chunk):
    check(*inputs(n, 5, 2, 3, 20), chunk=chunk)


def test_equal_tokens_have_equal_scores_wherever_they_stand():
    hidden, keys, queries = (x[torch.arange(150) % 7] for x in inputs(7, 20, 2, 3, 40))
    scores = check(hidden, keys, queries, chunk=64)
    assert torch.equal(scores, scores[torch.arange(150) % 7])


@pytest.mark.parametrize(("n", "chunk_rows"), [(9, 1), (70, 32), (64, 7)])
def test_chunks_of_the_query_mean(n, chunk_rows):
    check(*inputs(n, 5, 1, 2, 6), chunk_rows=chunk_rows)


@pytest.mark.parametrize("scale", [0.0, 1.0, -2.5, 30.0])
def test_scale(scale):
    check(*inputs(40, 10, 2, 2, 16), scale)


@pytest.mark.parametrize("magnitude", [1e18, 1e-18, 1e-30])
def test_norms_beyond_the_range_of_squares(magnitude):
    hidden, keys, queries = inputs(20, 40, 1, 2, 8)
    check(hidden * magnitude * 10, keys, queries)


def test_large_finite_inputs_do_not_overflow():
    hidden, keys, queries = (x * 1e18 for x in inputs(20, 6, 1, 2, 8))
    check(hidden, keys, queries)
    scores, bad = euti(hidden, keys.abs() * 1e18, queries.abs())  # logits beyond float32 count as its largest number
    assert not bad
    assert not scores.isnan().any()


def test_zero_hidden_states():
    hidden, keys, queries = inputs(10, 6, 1, 2, 8)
    hidden[3] = 0
    assert check(hidden, keys, queries)[3] == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_bad_input(which, value, dtype, aligned):
    tensors = inputs(21, 16, 2, 2, 8, dtype)
    assert not euti(*tensors, aligned=aligned)[1]
    tensors[which].flatten(1)[20, -1] = value
    scores, bad = euti(*tensors, aligned=aligned)
    assert bad
    assert not np.isnan(value) or scores.isnan().any()


# --- Split ------------------------------------------------------------------------------------------------------


def split(scores, m, keys=4, threads=64, seed=0):
    n = len(scores)
    kept, dropped = np.full(m + 1, -7, np.int32), np.full(n - m + 1, -7, np.int32)
    bad = dev.split(scores, m, kept, dropped, keys, threads, seed)
    assert kept[m] == dropped[n - m] == -7
    return kept[:m], dropped[: n - m], bad


rng = np.random.default_rng(0)
SCORES = {
    "one": np.array([2.5]),
    "normal": rng.normal(size=300),
    "positive": np.exp(rng.normal(size=257) * 20),
    "all equal": np.full(130, 0.125),
    "few values": rng.integers(-2, 3, size=200) / 4,
    "zeros of both signs": np.where(rng.random(97) < 0.5, 0.0, -0.0),
    "subnormal": rng.integers(-5, 5, size=64) * 1.4e-45,
    "descending": -np.arange(129.0),
    "last digit": 1 + rng.integers(0, 2**9, size=300) * 2.0**-23,
    "every digit": np.nan_to_num(rng.integers(0, 2**32, size=280, dtype=np.uint32).view(np.float32)),
}


@pytest.mark.parametrize("scores", SCORES.values(), ids=SCORES)
def test_split(scores):
    scores = scores.astype(np.float32)
    n = len(scores)
    order = np.lexsort((np.arange(n), -scores))
    for m in sorted({1, n, n // 2, n - 1, 33} & set(range(1, n + 1))):
        for seed, (keys, threads) in enumerate([(4, 64), (1, 32), (4, 128), (1, 96)]):
            kept, dropped, bad = split(scores, m, keys, threads, seed)
            assert not bad
            np.testing.assert_array_equal(kept, np.sort(order[:m]))
            np.testing.assert_array_equal(dropped, np.sort(order[m:]))


def test_split_by_a_whole_block():
    scores = np.random.default_rng(0).random(2500, np.float32)
    kept, _, _ = split(scores, 1300, threads=1024)
    np.testing.assert_array_equal(kept, np.sort(np.argsort(-scores, kind="stable")[:1300]))


def test_split_takes_nan_for_the_lowest_and_says_so():
    scores = np.array([1, np.nan, -np.inf, -3e38, np.nan, 2], np.float32)
    kept, dropped, bad = split(scores, 5)
    assert bad
    assert kept.tolist() == [0, 1, 2, 3, 5]
    assert dropped.tolist() == [4]
    assert split(scores, 2)[0].tolist() == [0, 5]
    assert split(np.array([1, np.inf], np.float32), 1)[2]
    far = np.zeros(300, np.float32)
    far[299] = np.nan  # past what the registers hold
    assert split(far, 1, keys=1, threads=32)[2]
