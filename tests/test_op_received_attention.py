"""pact::received_attention."""

import pytest
import torch
from data import DTYPES, adversarial, awkward_strides
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import _library, ops, reference

only_in_data = pytest.mark.only_in_data
LARGEST = torch.finfo(torch.float32).max

# (q, n, Hk, Hq / Hk, dh). On the CPU: pairs of row and head that fill less than a vector, a task of 16, more; keys on
# either side of a tile of 3, 6 or 12 and of a chunk of 256; a head past a sum block. In the emulator: rows that end a
# tile of 128, begin the next, and heads that are whole vectors or not.
SHAPES = [(1, 1, 1, 1, 1), (1, 40, 3, 7, 5), (2, 35, 2, 8, 8), (9, 257, 1, 2, 40), (129, 130, 1, 1, 16)]
SHAPES += [(2, 3, 1, 1, 1032)]  # half types are summed in parts as well
SHAPES += [(1, 100, 2, 1, 64), (1, 100, 1, 3, 128), (1, 100, 2, 7, 128)]  # on CUDA one row has kernels for these sizes
SHAPES += [(1, 530, 2, 17, 24)]  # one row: heads in three blocks of six, which overlap; keys shared by threads
SHAPES += [(1, 21, 2, group, 24) for group in (2, 4, 5, 6, 8)]  # the other blocks of heads, with keys left over
LARGE = [(40, 600, 2, 7, 128), (300, 300, 4, 1, 33), (5, 255, 1, 3, 600)]


def inputs(q, n, key_heads, group, head_size, dtype=torch.float32, device="cpu"):
    queries, keys = torch.randn(q, key_heads * group, head_size), torch.randn(n, key_heads, head_size)
    return queries.to(dtype).to(device), keys.to(dtype).to(device)


def check(queries, keys, **how):
    """Against float64. A float32 logit is off by less than 1e-6 of |scale| |q| |k|, some 16 roundings: that is what its
    weight is off by relatively, and the sum of its row again. Sums of weights are in units of 2^-61 of their bound."""
    received = ops.received_attention(queries, keys, **how)
    q, k = queries.cpu().double(), keys.cpu().double()
    how = {name: x.cpu() if isinstance(x, torch.Tensor) else x for name, x in how.items()}
    expected = reference.received_attention(q, k, **how)
    scale = how.get("scale", q.shape[-1] ** -0.5)
    logit = abs(scale) * q.norm(dim=-1).max().item() * k.norm(dim=-1).max().item()
    pairs = len(how.get("rows", q)) * q.shape[1]
    assert received.dtype == torch.float32
    torch.testing.assert_close(received.cpu().double(), expected, rtol=2e-6 * logit + 2e-6, atol=pairs * 2.0**-61)
    assert (received >= 0).all()
    assert received.double().sum().item() == pytest.approx(1, abs=2e-6)
    return received


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", SHAPES + [pytest.param(s, marks=pytest.mark.large) for s in LARGE], ids=str)
def test_agrees_with_float64(backend, shape, causal, dtype):
    check(*inputs(*shape, dtype, backend.device), causal=causal)


@given(
    q=st.integers(1, 40),
    more=st.integers(0, 40),
    key_heads=st.integers(1, 4),
    group=st.integers(1, 4),
    head_size=st.integers(1, 40),
    causal=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_any_shape(q, more, key_heads, group, head_size, causal, seed):
    torch.manual_seed(seed)
    check(*inputs(q, q + more, key_heads, group, head_size), causal=causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [[0], [19], [3, 3, 3], [19, 0, 7, 7], list(range(20))[::-1]], ids=str)
def test_rows(backend, rows, dtype):
    queries, keys = inputs(20, 33, 2, 3, 16, dtype, backend.device)
    check(queries, keys, rows=torch.tensor(rows, device=backend.device))


@pytest.mark.parametrize("causal", [True, False])
def test_one_row_is_that_row_alone(backend, causal):
    queries, keys = inputs(20, 33, 2, 3, 16, device=backend.device)
    for row in (0, 11, 19):
        chosen = torch.tensor([row], device=backend.device)
        alone = ops.received_attention(queries[row : row + 1], keys, first=13 + row, causal=causal)
        assert torch.equal(ops.received_attention(queries, keys, rows=chosen, causal=causal), alone)


@pytest.mark.parametrize(("q", "first"), [(5, 0), (5, 20), (5, 30), (5, 2**31 - 1), (40, 0), (40, 17), (1, 0), (1, 16)])
def test_first(backend, q, first):
    queries, keys = inputs(q, 33, 1, 2, 8, device=backend.device)
    received = check(queries, keys, first=first)
    assert (received[first + q :] == 0).all()


@pytest.mark.parametrize("q", [50, 1026])  # on CUDA eight tiles of queries are a slice of their own
def test_more_queries_than_keys_when_all_are_seen(backend, q):
    check(*inputs(q, 9, 1, 1, 8, device=backend.device), causal=False)


@pytest.mark.parametrize("scale", [0.0, 1.0, -2.5, 30.0])
@pytest.mark.parametrize("q", [1, 7])
def test_scale(backend, q, scale):
    check(*inputs(q, 50, 2, 2, 16, device=backend.device), scale=scale)


@pytest.mark.parametrize("name", [name for name in adversarial() if name != "huge and tiny"])
def test_adversarial(backend, name):
    keys = adversarial()[name].to(backend.device)
    for rows in (None, torch.tensor([len(keys) - 1], device=backend.device)):
        check(*(keys[:, None],) * 2, **({} if rows is None else {"rows": rows}))


@pytest.mark.parametrize("rows", [None, [299]])
def test_equal_keys_share_evenly(backend, rows):
    queries, keys = inputs(300, 1, 1, 1, 8, device=backend.device)
    rows = rows and torch.tensor(rows, device=backend.device)
    received = ops.received_attention(queries[:, :1], keys.expand(300, 1, 8), rows=rows)
    share = 1 / torch.arange(1, 301, dtype=torch.float64)
    expected = share.flip(0).cumsum(0).flip(0) / 300 if rows is None else share[-1].expand(300)
    torch.testing.assert_close(received.cpu().double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("q", [1, 3])
def test_duplicates_receive_the_same_bits(backend, q):
    queries, keys = inputs(q, 45, 2, 2, 8, device=backend.device)
    received = ops.received_attention(queries, keys.repeat(4, 1, 1), causal=False).view(4, 45)
    assert (received == received[0]).all()


@pytest.mark.parametrize("far", [None, 1e8, 1e38])
def test_duplicates_in_whole_and_masked_tiles_receive_the_same_bits(backend, far):
    """On CUDA tiles that all queries see as a whole go another way, and so do rows of logits beyond 2^20."""
    queries, keys = inputs(129, 130, 1, 1, 8, device=backend.device)
    if far:
        queries[5] *= far
    received = ops.received_attention(queries, keys.repeat(2, 1, 1), causal=False, scale=1.0).view(2, 130)
    assert torch.equal(received[0], received[1])
    assert received.double().sum().item() == pytest.approx(1, abs=2e-6)


@pytest.mark.parametrize("least", [2.0**20 - 0.125, 2.0**20 - 1, -(2.0**20), -(2.0**20) - 0.125])
@pytest.mark.parametrize("ascending", [False, True])
def test_logits_on_either_side_of_2_to_the_20th(backend, least, ascending):
    """Exact in float32. On CUDA rows go another way beyond: the largest logit gets there in the first tile of keys, in
    the second, or by another warp."""
    logits = torch.tensor([0.0, 0.125, 1.0])[torch.randint(3, (300,))].sort(descending=not ascending).values + least
    keys = logits.float()[:, None].to(backend.device)
    received = ops.received_attention(torch.ones(2, 1, device=backend.device), keys, causal=False, scale=1.0)
    torch.testing.assert_close(received.cpu().double(), logits.double().softmax(0), rtol=2e-6, atol=0)


@pytest.mark.parametrize("q", [1, 3])
def test_large_logits_choose_one_key(backend, q):
    keys = torch.eye(12, device=backend.device)[:, None] * 1e15
    received = ops.received_attention(keys[4:5].repeat(q, 1, 1), keys, causal=False)
    assert received.tolist() == [0.0] * 4 + [1.0] + [0.0] * 7


@pytest.mark.parametrize("q", [1, 3])
def test_logits_beyond_float32_count_as_its_largest_number(backend, q):
    keys = torch.tensor([[1e25], [2e30], [-1e30], [0.0], [1e25]], device=backend.device)
    queries = torch.full((q, 1), 1e20, device=backend.device)
    assert ops.received_attention(queries, keys, causal=False).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0, 1 / 3])
    assert ops.received_attention(-queries, keys, causal=False).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("q", [1, 3])
@pytest.mark.parametrize("scale", [3e38, -3e38])
def test_the_only_key_gets_all_whatever_its_logit(backend, q, scale):
    queries = torch.tensor([[[9e9, 1.0]], [[-9e9, 1.0]], [[0.0, 1.0]]], device=backend.device)[:q].repeat(1, 3, 1)
    keys = torch.tensor([[[3e9, 0.0]]], device=backend.device)
    assert ops.received_attention(queries, keys, causal=False, scale=scale).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("q", [1, 3])
def test_sums_that_overflow_before_they_are_scaled(backend, q):
    """6e38 and 3e38 times 1e-38: the CPU computes those in double. In float32, on CUDA, the first one wins all."""
    queries = torch.full((q, 2), 1e19, device=backend.device)
    keys = torch.tensor([[3e19, 3e19], [3e19, 0.0]], device=backend.device)
    received = ops.received_attention(queries, keys, causal=False, scale=1e-38)
    expected = torch.tensor([6.0, 3.0]).softmax(0) if backend.sees_data else torch.tensor([1.0, 0.0])
    assert received.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_two_dimensional_keys_and_queries(backend):
    queries, keys = inputs(9, 20, 2, 2, 8, device=backend.device)
    expected = ops.received_attention(queries, keys)
    assert torch.equal(ops.received_attention(queries.flatten(1), keys), expected)
    assert torch.equal(ops.received_attention(queries, keys.flatten(1)), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("q", "n", "group"), [(1, 600, 2), (1, 600, 7), (70, 70, 2), pytest.param(300, 600, 2, marks=pytest.mark.large)]
)
def test_same_bits_every_thread_count_and_stride(backend, threads, q, n, group, dtype):
    queries, keys = inputs(q, n, 2, group, 16, dtype, backend.device)
    expected = ops.received_attention(queries, keys)
    runs = [(count, (queries, keys)) for count in backend.thread_counts]
    strided = zip(awkward_strides(queries), awkward_strides(keys), strict=True)
    for count, views in [*runs, *((2, views) for views in strided)]:
        threads(count)
        assert torch.equal(ops.received_attention(*views), expected)
    rows = torch.arange(q, device=backend.device).repeat_interleave(2)[::2]
    assert torch.equal(ops.received_attention(queries, keys, rows=rows), expected)


def test_avx2_and_avx512_agree_bit_for_bit():
    info = _library.cpu_info()
    if not {"avx2", "avx512"} <= set(info["isa_usable"]):
        pytest.skip("this processor lacks AVX-512 or AVX2")
    for q, group in (*((1, group) for group in (1, 2, 3, 4, 7, 8, 9)), (90, 3)):
        results = []
        queries, keys = inputs(q, 500, 2, group, 300)
        for isa in ("avx2", "avx512"):
            _library.use_cpu_isa(isa)
            results.append(ops.received_attention(queries, keys))
        _library.use_cpu_isa(info["isa"])
        assert torch.equal(*results)


@only_in_data
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "where",
    ["seen by the last row alone", "last of its head", "seen by none", "one row of many heads", "not chosen"],
)
def test_nan_and_inf_raise(backend, where, bad, dtype):
    queries, keys = inputs(40, 300, 2, 2, 5, dtype)
    how, name = {}, "keys"
    if where == "seen by the last row alone":
        keys[299, 0, 0] = bad
        queries[39, :, 0] = 0  # Inf times 0 is NaN, and that shows as well
    elif where == "last of its head":
        queries[7, 3, 4], name = bad, "queries"
    elif where == "seen by none":
        keys[299, 1, 4], how = bad, {"first": 100}
    elif where == "one row of many heads":
        queries, keys[0, 1, 4] = queries[39:].repeat(1, 3, 1), bad
    else:
        queries[7, 3, 4], name, how = bad, "queries", {"rows": torch.tensor([6, 8])}
    with pytest.raises(RuntimeError, match=f"pact::received_attention: {name} must be finite, got NaN or Inf"):
        ops.received_attention(queries, keys, **how)


@pytest.mark.parametrize("q", [1, 70])  # 70: NaN from both halves of a tile in one sum
@pytest.mark.parametrize("name", ["queries", "keys"])
def test_nan_goes_through_where_nobody_waits(backend, name, q):
    if backend.sees_data:
        pytest.skip("it raises")
    queries, keys = inputs(q, 80, 2, 2, 8, device=backend.device)
    (queries if name == "queries" else keys)[0, 1, 3] = float("nan")
    received = ops.received_attention(queries, keys)
    assert received[: 81 - q].isnan().all()
    received = ops.received_attention(queries[1:], keys[1:]) if q > 1 else torch.zeros(1)
    assert received.isfinite().all()


@pytest.mark.parametrize("bad", [-1, 20, 2**62, -(2**63)])
@pytest.mark.parametrize("others", [[], [19, 3]])
def test_rows_out_of_range(backend, bad, others):
    """On CUDA, where nobody looks before, they count as none and their share of the mean is nothing."""
    queries, keys = inputs(20, 33, 2, 3, 16, device=backend.device)
    rows = torch.tensor([bad, *others], device=backend.device)
    if backend.sees_data:
        with pytest.raises(RuntimeError, match=rf"pact::received_attention: rows must be in \[0, 20\), got {bad}"):
            ops.received_attention(queries, keys, rows=rows)
        return
    received = ops.received_attention(queries, keys, rows=rows)
    if others:
        expected = reference.received_attention(queries.double(), keys.double(), rows=rows[1:]) * 2 / 3
        torch.testing.assert_close(received.double(), expected, rtol=1e-5, atol=1e-12)
    else:
        assert (received == 0).all()
