"""What only a GPU can show: large sizes, agreement with the CPU, repeatability, streams, graphs, devices, memory.

The operator suite itself runs with the cuda backend too (conftest.py); `make gpu-test` runs both.
"""

import math

import pytest
import torch
from certificate import DISTANCE_MARGIN, check_clustering
from data import DTYPES, awkward_strides, clustered, with_margins

from pact_ext import _library, ops, reference
from pact_ext.attention import proportional_attention


def reason_to_skip():
    if torch.version.cuda is None:
        return "this torch is not a CUDA build"
    if not _library.cuda_loadable():
        return "libpact_cuda.so was not built: PACT_CUDA=1 python setup.py build_ext --inplace"
    return None if torch.cuda.is_available() else "there is no GPU that torch can use"


pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

CONFIG = {"prune_ratio": 0.45, "dc": 0.21, "dn": 2.0, "alpha": 1.5, "gaussian": True}
MIB = 2**20


def inputs(n, d=256, key_heads=4, query_heads=8, head_size=32, dtype=torch.bfloat16, device="cuda"):
    """hidden, keys, queries, cluster_keys."""
    shapes = (n, d), (n, key_heads, head_size), (n, query_heads, head_size)
    hidden, keys, queries = (torch.randn(shape, device=device).to(dtype) for shape in shapes)
    return hidden, keys, queries, clustered(n, key_heads * head_size, dtype, noise=0.4).to(device)


def calls(n=700, dtype=torch.bfloat16, device="cuda"):
    """Every operator as (name, function, tensors): the function takes the tensors, and returns a tuple."""
    hidden, keys, queries, cluster_keys = inputs(n, dtype=dtype, device=device)
    centers = torch.arange(0, n, 3, device=device)
    labels = torch.arange(n, device=device) % 50 - 1
    numbers = torch.rand(n, device=device)
    bounds = torch.tensor([0, n // 2, n // 2, n // 2 + 1, n], dtype=torch.int32)
    counts = torch.tensor([10, 1, 1, n // 3], dtype=torch.int32)
    return [
        ("euti_scores", lambda h, k, q: (ops.euti_scores(h, k, q),), [hidden, keys, queries]),
        ("density", lambda u: (ops.density(u, 2.0),), [cluster_keys]),
        ("assign", lambda u, c: ops.assign(u, c, 0.3), [cluster_keys, centers]),
        ("segment_mean", lambda h, i: ops.segment_mean(h, i, 49), [hidden, labels]),
        ("max_distance", lambda u: (ops.max_distance(u),), [cluster_keys]),
        ("reduce_to", lambda *t: ops.reduce_to(*t, 100, **CONFIG), [hidden, keys, queries, cluster_keys]),
        ("received_attention", lambda q, k: (ops.received_attention(q, k),), [queries, keys]),
        ("received_attention of one row", lambda q, k: (ops.received_attention(q[-1:], k),), [queries, keys]),
        ("nearest_denser", lambda u, x: ops.nearest_denser(u, x), [cluster_keys, numbers]),
        ("farthest_points", lambda u: (ops.farthest_points(u, 40),), [cluster_keys]),
        ("dpp_select", lambda u, x: (ops.dpp_select(u, x, 40),), [cluster_keys, numbers]),
        ("dbdpc", lambda u: ops.dbdpc(u, 0.21, 2.0, gaussian=True), [cluster_keys]),
        ("reduce", lambda *t: ops.reduce(*t, **CONFIG), [hidden, keys, queries, cluster_keys]),
        # Without cu_centers, which is on the CPU.
        ("euti_scores_packed", lambda *t: (ops.euti_scores_packed(*t, bounds),), [hidden, keys, queries]),
        ("dbdpc_packed", lambda u: ops.dbdpc_packed(u, bounds, 0.21, 2.0, gaussian=True)[:2], [cluster_keys]),
        (
            "reduce_packed",
            lambda *t: ops.reduce_packed(*t, bounds, **CONFIG)[:4],
            [hidden, keys, queries, cluster_keys],
        ),
        (
            "reduce_to_packed",
            lambda *t: ops.reduce_to_packed(*t, bounds, counts, **CONFIG)[:4],
            [hidden, keys, queries, cluster_keys],
        ),
        (
            "reduce_padded",
            lambda *t: ops.reduce_padded(*t, bounds, int(counts.max()), **CONFIG),
            [hidden, keys, queries, cluster_keys],
        ),
    ]


CAPTURABLE = (
    *("euti_scores", "density", "assign", "segment_mean", "max_distance", "reduce_to", "received_attention"),
    *("received_attention of one row", "nearest_denser", "farthest_points", "dpp_select"),
    *("euti_scores_packed", "reduce_to_packed", "reduce_padded"),
)
READ_BACK = ("dbdpc", "reduce", "dbdpc_packed", "reduce_packed")
NAMES = (*CAPTURABLE, *READ_BACK)


def call(name, **kwargs):
    return next((function, tensors) for op, function, tensors in calls(**kwargs) if op == name)


def assert_same_bits(ours, expected):
    for one, other in zip(ours, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


# --- Large sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "dk", "dtype"),
    [
        (729, 512, torch.float32),
        (2880, 4096, torch.bfloat16),
        (4506, 512, torch.float16),
        (8192, 512, torch.bfloat16),
        (16384, 512, torch.float32),
        (16384, 512, torch.bfloat16),
    ],
)
def test_certificate_of_dbdpc(n, dk, dtype):
    keys = clustered(n, dk, dtype, noise=0.4)
    centers, labels = ops.dbdpc(keys.cuda(), 0.21, 2.0, gaussian=True)
    assert n // 20 < centers.shape[0] < n
    check_clustering(keys, 0.21, 2.0, True, centers, labels)


@pytest.mark.parametrize("n", [8192, 16384])
def test_certificate_of_reduce(n):
    hidden, keys, queries, cluster_keys = inputs(n, 512, 4, 28, 128)
    merged, sizes, centers, labels = ops.reduce(hidden, keys, queries, cluster_keys, **CONFIG)
    kept, dropped = reference.split(ops.euti_scores(hidden, keys, queries), 0.45)
    local = torch.searchsorted(kept, centers)
    assert torch.equal(kept[local], centers)
    check_clustering(cluster_keys[kept], 0.21, 2.0, True, local, labels[kept])

    joined, _ = ops.assign(cluster_keys, centers, 1.5 * 0.21)
    assert torch.equal(labels[dropped], joined[dropped])
    means, counts = ops.segment_mean(hidden, labels, centers.shape[0])
    assert_same_bits((merged, sizes), (means, counts))


def test_more_tokens_than_a_grid_dimension_or_a_product_of_32_bits_holds():
    n = 70_000  # n > 65,535 and n * n > 2^32
    directions = torch.eye(8).repeat(n // 8, 1)
    keys = (directions * (1 + torch.arange(n) % 5)[:, None]).bfloat16().cuda()
    centers, labels = ops.dbdpc(keys, 0.5, 1.0)
    assert centers.tolist() == list(range(8))
    assert torch.equal(labels, torch.arange(n, device="cuda") % 8)
    expected = n / 8 + (n - n / 8) * math.exp(-1)
    torch.testing.assert_close(ops.density(keys, 1.0), torch.full((n,), expected, device="cuda"), rtol=1e-6, atol=0)
    assert ops.max_distance(keys).item() == 1
    near, distance = ops.assign(keys, torch.arange(8, device="cuda"), math.inf)
    assert torch.equal(near, labels)
    assert (distance == 0).all()


def test_more_elements_than_32_bits_count():
    n, d = 540_000, 4096  # 2.2e9 elements
    x = torch.ones(n, d, dtype=torch.bfloat16, device="cuda")
    x[-1] = 3
    labels = torch.zeros(n, dtype=torch.int64, device="cuda")
    labels[-1] = 1
    means, counts = ops.segment_mean(x, labels, 2)
    assert counts.tolist() == [n - 1, 1]
    assert (means[0] == 1).all()
    assert (means[1] == 3).all()


# --- The CPU says the same ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 400, 900, 4096])
def test_the_cpu_and_the_gpu_agree_where_the_answer_is_beyond_doubt(n):
    keys = with_margins(n)
    assert_same_bits([r.cpu() for r in ops.dbdpc(keys.cuda(), 0.2, 2.0)], ops.dbdpc(keys, 0.2, 2.0))
    hidden, before, queries, _ = inputs(n, device="cpu", dtype=torch.float32)
    config = {**CONFIG, "gaussian": False, "scores": torch.randperm(n).float()}
    expected = ops.reduce(hidden, before, queries, keys, **config)
    config["scores"] = config["scores"].cuda()
    ours = ops.reduce(*(t.cuda() for t in (hidden, before, queries, keys)), **config)
    assert_same_bits([r.cpu() for r in ours], expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_cpu_and_the_gpu_agree_up_to_rounding(dtype):
    hidden, keys, queries, cluster_keys = inputs(1500, device="cpu", dtype=dtype)
    moved = [t.cuda() for t in (hidden, keys, queries)]
    scores = ops.euti_scores(hidden, keys, queries)
    torch.testing.assert_close(ops.euti_scores(*moved).cpu(), scores, rtol=2e-5, atol=0)  # softmax of float32 logits
    on_gpu = cluster_keys.cuda()
    torch.testing.assert_close(ops.density(on_gpu, 2.0).cpu(), ops.density(cluster_keys, 2.0), rtol=3e-6, atol=0)
    centers = torch.arange(0, 1500, 4)
    _, expected = ops.assign(cluster_keys, centers, math.inf)
    _, distances = ops.assign(on_gpu, centers.cuda(), math.inf)
    torch.testing.assert_close(distances.cpu(), expected, rtol=0, atol=DISTANCE_MARGIN)
    torch.testing.assert_close(
        ops.max_distance(on_gpu).cpu(), ops.max_distance(cluster_keys), rtol=0, atol=DISTANCE_MARGIN
    )


# --- Repeatability, streams, graphs, devices ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_same_bits_over_100_runs(name, dtype):
    function, tensors = call(name, n=1111, dtype=dtype)
    expected = function(*tensors)
    for _ in range(100):
        assert_same_bits(function(*tensors), expected)


@pytest.mark.parametrize("name", NAMES)
def test_side_streams(name):
    """The inputs are written late on the side stream: an operator on another stream would read what was before."""
    function, tensors = call(name)
    expected = function(*tensors)
    late = [torch.zeros_like(t) for t in tensors]
    torch.cuda.synchronize()
    for _ in range(3):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            for target, source in zip(late, tensors, strict=True):
                target.copy_(source)
            ours = function(*late)
            for target in late:
                target.zero_()
        stream.synchronize()
        assert_same_bits(ours, expected)
        torch.cuda.synchronize()


@pytest.mark.parametrize("name", CAPTURABLE)
def test_cuda_graphs(name):
    function, tensors = call(name)
    fixed = [t.clone() for t in tensors]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        function(*fixed)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ours = function(*fixed)
    for shift in (0, 1, 7):
        moved = [t.roll(shift, dims=0) for t in tensors]
        for target, source in zip(fixed, moved, strict=True):
            target.copy_(source)
        graph.replay()
        assert_same_bits(ours, function(*moved))


@pytest.mark.parametrize("name", READ_BACK)
def test_what_reads_back_says_so_when_captured(name):
    function, tensors = call(name)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match=f"pact::{name} cannot be captured in a CUDA graph"), torch.cuda.graph(graph):
        function(*tensors)
    torch.cuda.synchronize()
    function(*tensors)


@pytest.mark.parametrize("name", NAMES)
def test_reads_back_once_or_not_at_all(name):
    function, tensors = call(name)
    function(*tensors)
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        function(*tensors)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events()]
    copies = sum("Memcpy DtoH" in event for event in names)
    assert copies == (name in READ_BACK)


@pytest.mark.parametrize("name", NAMES)
def test_the_second_device(name):
    if torch.cuda.device_count() < 2:
        pytest.skip("this machine has one GPU")
    function, tensors = call(name)
    expected = function(*tensors)
    assert torch.cuda.current_device() == 0
    ours = function(*(t.to("cuda:1") for t in tensors))
    assert torch.cuda.current_device() == 0
    assert all(r.device == torch.device("cuda:1") for r in ours)
    assert_same_bits([r.cpu() for r in ours], [r.cpu() for r in expected])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_storage_offsets_and_strides(name, dtype):
    function, tensors = call(name, dtype=dtype)
    expected = function(*tensors)
    for views in zip(*([t, *awkward_strides(t)] for t in tensors), strict=True):
        assert_same_bits(function(*views), expected)
    column = [torch.cat([t, t], dim=-1)[..., : t.shape[-1]] if t.is_floating_point() else t for t in tensors]
    assert_same_bits(function(*column), expected)  # rows of a wider matrix, as a fused projection gives them


# --- What a bad input does ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_inf_raise_or_go_through_but_never_hang(name, bad):
    function, tensors = call(name)
    for position in (0, 350, 699):
        poisoned = [t.clone() for t in tensors]
        for t in poisoned:
            if t.is_floating_point():
                t[position].view(-1)[-1] = bad
        if name in READ_BACK:
            with pytest.raises(RuntimeError, match=f"pact::{name}: (keys|hidden) must be finite, got NaN or Inf"):
                function(*poisoned)
        else:
            result = function(*poisoned)
            if name in ("density", "max_distance"):
                assert result[0].isnan().any()
        torch.cuda.synchronize()


def test_all_nan():
    keys = torch.full((300, 64), math.nan, device="cuda")
    with pytest.raises(RuntimeError, match="pact::dbdpc: keys must be finite"):
        ops.dbdpc(keys, 0.2, 2.0)
    assert ops.density(keys, 2.0).shape == (300,)
    torch.cuda.synchronize()


def test_an_index_out_of_range_counts_as_none():
    keys = torch.eye(6, 8, device="cuda")
    labels, distances = ops.assign(keys, torch.tensor([6, 2, -1, 2**40, 0], device="cuda"), 0.5)
    assert labels.tolist() == [4, -1, 1, -1, -1, -1]
    assert distances.tolist() == [0, 1, 0, 1, 1, 1]
    labels, _ = ops.assign(keys, torch.tensor([-5, 99], device="cuda"), math.inf)
    assert (labels == -1).all()
    means, counts = ops.segment_mean(keys, torch.tensor([0, 5, -7, 2**40, 0, 1], device="cuda"), 2)
    assert counts.tolist() == [2, 1]
    assert torch.equal(means[1], keys[5])


def test_tensors_on_two_devices():
    keys = torch.randn(6, 8, device="cuda")
    with pytest.raises(RuntimeError, match="pact::assign: centers must be on the device of keys"):
        ops.assign(keys, torch.tensor([0]), 1.0)


# --- Memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prune_ratio", [0.0, 0.05, 0.45])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_peak_memory_of_reduce(prune_ratio, dtype):
    tensors = inputs(16384, 1024, 4, 28, 128, dtype)
    config = {**CONFIG, "prune_ratio": prune_ratio}
    outputs = ops.reduce(*tensors, **config)
    own = sum(t.nbytes for t in outputs)
    del outputs
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ops.reduce(*tensors, **config)
    assert (torch.cuda.max_memory_allocated() - before - own) / MIB < 80


@pytest.mark.parametrize("head_size", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_sizes_go_through_flash_attention(dtype, head_size):
    """No other backend is allowed: the extra channels are what FlashAttention takes, grouped heads and all."""
    n = 1000
    query = torch.randn(2, 8, n, head_size, device="cuda", dtype=dtype)
    key, value = (torch.randn(2, 2, n, head_size, device="cuda", dtype=dtype) for _ in range(2))
    log_sizes = torch.randint(1, 300, (2, n), device="cuda").float().log()
    log_sizes[1, :77] = -torch.inf
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        out = proportional_attention(query, key, value, log_sizes)
    expected = proportional_attention(*(x.double().cpu() for x in (query, key, value, log_sizes)))
    rounding = 4 * torch.finfo(dtype).eps  # of the weights and of the output, whose entries are below about 4
    assert (out.double().cpu() - expected)[0].abs().max() < 4 * rounding
    assert (out.double().cpu() - expected)[1, :, 77:].abs().max() < 4 * rounding
