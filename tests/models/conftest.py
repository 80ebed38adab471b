"""The tests of models run on one thread, which is enough for tiny ones."""

import pytest


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)
