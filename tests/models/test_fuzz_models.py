"""The fuzzer of models: conversations at fixed seeds."""

import pytest

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

from fuzz.__main__ import fuzz


def test_conversations():
    said = []
    assert not fuzz("models", range(24), say=said.append), "\n".join(said)
