"""Every operator under opcheck, torch.compile with changing sizes, and torch.export with a dynamic dimension."""

import pytest
import torch
import torch._inductor.config
from torch._dynamo.testing import CompileCounterWithBackend

import pact_ext
from pact_ext import PactConfig, ops


def arguments(name, n):
    keys, hidden, queries = torch.randn(n, 2, 8), torch.randn(n, 12), torch.randn(n, 4, 8)
    bounds = torch.tensor([0, n // 3, n], dtype=torch.int32)
    return {
        "euti_scores": (hidden, keys, queries),
        "density": (keys, 2.0),
        "dbdpc": (keys, 0.3, 2.0),
        "assign": (keys, torch.tensor([0, 1]), 0.9),
        "segment_mean": (hidden, torch.arange(n) % 3 - 1, 2),
        "max_distance": (keys,),
        "reduce": (hidden, keys, queries, keys, 0.45, 0.3, 2.0, 1.5),
        "reduce_to": (hidden, keys, queries, keys, 2, 0.45, 0.3, 2.0, 1.5),
        "received_attention": (queries, keys),
        "nearest_denser": (keys, torch.rand(n)),
        "farthest_points": (keys, 2),
        "dpp_select": (keys, torch.rand(n), 2),
        "euti_scores_packed": (hidden, keys, queries, bounds),
        "dbdpc_packed": (keys, bounds, 0.3, 2.0),
        "reduce_packed": (hidden, keys, queries, keys, bounds, 0.45, 0.3, 2.0, 1.5),
        "reduce_to_packed": (hidden, keys, queries, keys, bounds, bounds[1:] // 3 + 1, 0.45, 0.3, 2.0, 1.5),
        "reduce_padded": (hidden, keys, queries, keys, bounds, 5, 0.45, 0.3, 2.0, 1.5),
    }[name]


OPS = ["euti_scores", "density", "dbdpc", "assign", "segment_mean", "max_distance", "reduce", "reduce_to"]
OPS += ["received_attention", "nearest_denser", "farthest_points", "dpp_select"]
OPS += ["euti_scores_packed", "dbdpc_packed", "reduce_packed", "reduce_to_packed", "reduce_padded"]


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(name, dtype):
    rows = lambda a: isinstance(a, torch.Tensor) and a.is_floating_point() and a.ndim > 1  # noqa: E731
    args = tuple(a.to(dtype) if rows(a) else a for a in arguments(name, 20))
    torch.library.opcheck(getattr(torch.ops.pact, name).default, args)


def test_opcheck_of_every_optional_argument():
    hidden, keys, queries, cluster_keys, *numbers = arguments("reduce", 20)
    torch.library.opcheck(
        torch.ops.pact.reduce.default,
        (hidden, keys, queries, cluster_keys, *numbers),
        {"scores": torch.rand(20), "scale": 1.0, "gaussian": True},
    )
    torch.library.opcheck(torch.ops.pact.euti_scores.default, (hidden, keys, queries), {"scale": 1.0})
    torch.library.opcheck(torch.ops.pact.density.default, (keys, 2.0), {"gaussian": True})
    torch.library.opcheck(torch.ops.pact.dbdpc.default, (keys, 0.3, 2.0), {"gaussian": True})
    torch.library.opcheck(
        torch.ops.pact.received_attention.default,
        (queries, keys),
        {"rows": torch.tensor([3, 1]), "first": 2, "causal": False, "scale": 1.0},
    )
    torch.library.opcheck(torch.ops.pact.farthest_points.default, (keys, 3), {"first": 1})


@pytest.fixture
def compiled_anew():
    """What the compiler has kept on disk from other runs does not know that a shape function has changed since."""
    with torch._inductor.config.patch(force_disable_caches=True):
        yield


@pytest.mark.usefixtures("compiled_anew")
@pytest.mark.parametrize("name", OPS)
def test_compiles_once_for_changing_n(name):
    op = getattr(ops, name)
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("inductor")
    # Doing something with the results makes the compiler work with their sizes.
    compiled = torch.compile(lambda *args: [r * 2 for r in outputs(op(*args))], fullgraph=True, backend=graphs)
    for n in (20, 33, 7, 64):
        args = arguments(name, n)
        for a in args:
            if isinstance(a, torch.Tensor) and a.shape[0] == n:
                torch._dynamo.mark_dynamic(a, 0)
        for ours, expected in zip(compiled(*args), outputs(op(*args)), strict=True):
            assert torch.equal(ours, expected * 2)
    assert graphs.frame_count == 1


@pytest.mark.parametrize("name", OPS)
def test_exports_with_a_dynamic_dimension(name):
    class Module(torch.nn.Module):
        def forward(self, *args):
            return getattr(ops, name)(*args)

    args, n = arguments(name, 20), torch.export.Dim("n", min=2)
    shapes = tuple({0: n} if isinstance(a, torch.Tensor) and a.shape[0] == 20 else None for a in args)
    program = torch.export.export(Module(), args, dynamic_shapes=(shapes,))
    for size in (20, 41):
        args = arguments(name, size)
        for ours, expected in zip(outputs(program.module()(*args)), outputs(getattr(ops, name)(*args)), strict=True):
            assert torch.equal(ours, expected)


def chained(hidden, keys):
    """Sizes that only the data tells, and the length of the input, handed on as arguments and as shapes."""
    centers, labels = ops.dbdpc(keys, 0.3, 2.0)
    means, counts = ops.segment_mean(hidden, labels, centers.shape[0])
    roomy, _ = ops.segment_mean(hidden, labels, hidden.shape[0])
    near, _ = ops.assign(keys, centers, 0.9)
    merged = ops.reduce(means, keys[centers], keys[centers], means, 0.4, 0.3, 2.0, 1.5, scores=counts.float())[0]
    density = ops.density(keys, 2.0)
    distances, _ = ops.nearest_denser(keys, density)
    chosen = ops.farthest_points(keys, centers.shape[0])  # as many as only the data tells
    diverse = ops.dpp_select(hidden, distances, hidden.shape[0] // 2)
    exact = ops.reduce_to(hidden, keys, keys, keys, hidden.shape[0] // 3, 0.4, 0.3, 2.0, 1.5, scores=density)
    received = ops.received_attention(keys, means[:, :8][:, None], first=hidden.shape[0])
    selected = chosen + 0, diverse + 0, exact[0] * 2, received
    return means * 2, roomy, near, merged, ops.euti_scores(merged, merged, merged), *selected


def test_chains_compile_once():
    torch._dynamo.reset()
    graphs = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(chained, fullgraph=True, dynamic=True, backend=graphs)
    for n in (20, 33, 7):
        args = torch.randn(n, 12), torch.randn(n, 2, 8)
        for ours, expected in zip(compiled(*args), chained(*args), strict=True):
            assert torch.equal(ours, expected)
    assert graphs.frame_count == 1


def test_chains_export_with_a_dynamic_dimension():
    class Module(torch.nn.Module):
        def forward(self, hidden, keys):
            return chained(hidden, keys)

    n = torch.export.Dim("n", min=6)  # of which a third is asked for
    args = torch.randn(20, 12), torch.randn(20, 2, 8)
    program = torch.export.export(Module(), args, dynamic_shapes=({0: n}, {0: n}))
    for size in (20, 41):
        args = torch.randn(size, 12), torch.randn(size, 2, 8)
        for ours, expected in zip(program.module()(*args), chained(*args), strict=True):
            assert torch.equal(ours, expected)


def test_errors_of_a_compiled_call():
    """What is known while compiling is an error then; what is a symbol, when the operator runs."""
    keys, centers = torch.randn(6, 4), torch.tensor([0])
    for backend in ("eager", "aot_eager"):
        torch._dynamo.reset()
        assign = torch.compile(ops.assign, fullgraph=True, dynamic=True, backend=backend)
        with pytest.raises(RuntimeError, match="pact::assign: centers must be int64, got int32"):
            assign(keys, centers.int(), 0.5)
        with pytest.raises(RuntimeError, match="pact::assign: max_distance must be a number, got nan"):
            assign(keys, centers, float("nan"))


@pytest.mark.parametrize("switches", [{}, {"cluster": False}, {"merge": False}], ids=str)
def test_reduction_compiles_without_a_graph_break(switches):
    config = PactConfig(**switches)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def run(hidden, keys, queries):
        r = pact_ext.reduce(hidden, keys, queries, position_ids=torch.arange(hidden.shape[0]), config=config)
        return r.merged, r.sizes, r.log_sizes, r.centers, r.labels, r.position_ids

    for n in (30, 47):
        tensors = arguments("euti_scores", n)
        expected = pact_ext.reduce(*tensors, position_ids=torch.arange(n), config=config)
        for ours, other in zip(run(*tensors), vars(expected).values(), strict=True):
            assert torch.equal(ours, other)
