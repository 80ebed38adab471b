"""The fuzzer: calls of every operator at fixed seeds, and that it tells what goes wrong in its process."""

from fuzz import worker
from fuzz.__main__ import fuzz


def test_operators():
    said = []
    assert not fuzz("operators", range(300), say=said.append), "\n".join(said)


def test_what_goes_wrong_is_told(monkeypatch):
    """A crash or a hang costs its own call alone, and each comes with the command that repeats it."""
    monkeypatch.setattr(worker, "LIMIT", 5)
    said = []
    assert fuzz("misbehaviour", range(6), say=said.append) == 3
    assert said[-1] == "misbehaviour: 3 answered, 3 failed"
    for seed, words in ((1, "wrong"), (2, "exit status -6"), (4, "no answer in 5 s")):
        (told,) = [i for i, text in enumerate(said) if text.endswith(f"tests/fuzz misbehaviour --seed {seed}")]
        assert words in said[told + 1]
