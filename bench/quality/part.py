"""What a long measurement has already measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .asking import Asked


class Part:
    """The entries of a run that may stop at any moment: one for each line, for this model and these questions."""

    def __init__(self, path: Path, model, asked: list[Asked]) -> None:
        digest = hashlib.sha256(repr([(one.scene, one.question) for one in asked]).encode())
        for value in model.state_dict().values():
            digest.update(value.numpy().tobytes())
        self.path, self.of = path, digest.hexdigest()
        lines = path.read_text().splitlines() if path.exists() else []
        self.entries = [entry for of, entry in map(json.loads, lines) if of == self.of]

    def add(self, entry: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([self.of, entry]) + "\n")
