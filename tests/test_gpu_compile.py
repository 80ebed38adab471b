"""torch.compile on a GPU: graphs of the operators, on Inductor and in CUDA graphs, give the operators' own bits."""

import pytest
import torch
from test_compile import chained
from test_gpu import CAPTURABLE, assert_same_bits, call, reason_to_skip

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))


@pytest.fixture(autouse=True)
def compiled_anew():
    torch.compiler.reset()
    with torch._inductor.config.patch(force_disable_caches=True):
        yield
    torch.compiler.reset()


def test_a_chain_of_every_operator_is_one_graph():
    compiled = torch.compile(chained, fullgraph=True, dynamic=True)
    for n in (40, 41, 300):
        hidden, keys = torch.randn(n, 12, device="cuda"), torch.randn(n, 2, 8, device="cuda")
        assert_same_bits(compiled(hidden, keys), chained(hidden, keys))


@pytest.mark.parametrize("name", CAPTURABLE)
def test_what_never_reads_back_runs_in_a_graph_of_its_own_making(name):
    function, tensors = call(name)
    compiled = torch.compile(lambda *t: tuple(x + 0 for x in function(*t)), fullgraph=True, mode="reduce-overhead")
    for shift in (0, 1, 7):
        moved = [t.roll(shift, dims=0) for t in tensors]
        torch.compiler.cudagraph_mark_step_begin()
        assert_same_bits([x.clone() for x in compiled(*moved)], function(*moved))
