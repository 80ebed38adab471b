"""The processor's floating-point mode belongs to each thread: no answer may depend on it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from data import clustered

from pact_ext import ops

CALLS = {
    "euti_scores": lambda x: ops.euti_scores(x, x, x),
    "density": lambda x: ops.density(x, 0.7),
    "dbdpc": lambda x: ops.dbdpc(x, 0.3, 0.7),
    "assign": lambda x: ops.assign(x, torch.arange(0, len(x), 3, device=x.device), 0.5),
    "segment_mean": lambda x: ops.segment_mean(x, torch.arange(len(x), device=x.device) // 2, len(x)),
    "max_distance": lambda x: ops.max_distance(x),
    "reduce": lambda x: ops.reduce(x, x, x, x, 0.4, 0.3, 0.7, 1.5),
    "reduce_to": lambda x: ops.reduce_to(x, x, x, x, 40, 0.4, 0.3, 0.7, 1.5),
    "reduce_packed": lambda x: ops.reduce_packed(x, x, x, x, torch.tensor([0, 40, 99, 150]).int(), 0.4, 0.3, 0.7, 1.5),
    "received_attention": lambda x: ops.received_attention(x, x),
    "nearest_denser": lambda x: ops.nearest_denser(x, x.float()[:, 0]),
    "farthest_points": lambda x: ops.farthest_points(x, 20),
    "dpp_select": lambda x: ops.dpp_select(x, x.float()[:, 0], 20),
}


def outputs(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_where_subnormal_numbers_are_flushed(backend, name):
    function = CALLS[name]
    keys = (clustered(150, 9) * 1e-41).to(backend.device)
    expected = outputs(function(keys))

    def flushing(threads, here):
        """On this thread if `here`, else on the others that torch starts for it."""
        torch.set_num_threads(threads)
        if not torch.set_flush_denormal(True):
            pytest.skip("this processor cannot flush subnormal numbers")
        torch.ones(2**20).mul_(2)  # the others start, and take this thread's mode
        for _ in range(10 if backend.sees_data else 1):  # the CPU's threads take turns
            torch.set_flush_denormal(here)
            ours = outputs(function(keys))
            torch.set_flush_denormal(False)  # or comparing would flush too
            for one, other in zip(ours, expected, strict=True):
                assert torch.equal(one, other)

    for threads, here in ((1, True), (4, False)):
        with ThreadPoolExecutor(1) as thread:  # one of our own, which takes the others with it when it ends
            thread.submit(flushing, threads, here).result()
