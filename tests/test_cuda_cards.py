"""Warps that multiply by themselves and Hopper's warpgroups: the operators of either, run by the emulator, agree to the
bit where every sum is exact."""

import os

import pytest
import torch
from emulator import operators

from pact_ext import ops

CALLS = {
    "density": lambda keys: ops.density(keys, 0.7),
    "dbdpc": lambda keys: ops.dbdpc(keys, 0.3, 0.7),
    "assign": lambda keys: ops.assign(keys, torch.arange(0, len(keys), 3), 0.9),
    "max_distance": lambda keys: ops.max_distance(keys),
    "nearest_denser": lambda keys: ops.nearest_denser(keys, torch.arange(len(keys)) % 17 * 1.0),
    "farthest_points": lambda keys: ops.farthest_points(keys, 5),
}


@pytest.mark.skipif(bool(os.environ.get("LD_PRELOAD")), reason="minutes under a sanitizer")
@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [72, 264, 520])  # folded by neither, before 9.0, by both
def test_warps_and_warpgroups_agree(monkeypatch, op, dtype, width):
    monkeypatch.setattr(ops, "_ops", operators.load())
    keys = torch.randint(-2, 3, (260, width)).to(dtype)
    found = []
    for major in ("8", "9"):
        monkeypatch.setenv("PACT_EMULATED_MAJOR", major)
        result = CALLS[op](keys)
        found.append(result if isinstance(result, tuple) else (result,))
    for of_warps, of_groups in zip(*found, strict=True):
        assert torch.equal(of_warps, of_groups)
