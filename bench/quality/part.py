"""What a long measurement has already measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .asking import Asked


class Part:
    """The entries of a run that may stop at any moment: one for each line, for this model, these questions, and as many
    of them at once."""

    def __init__(self, path: Path, model, asked: list[Asked], batch: int = 32) -> None:
        digest = hashlib.sha256(repr([(one.scene, one.question) for one in asked]).encode())
        if batch != 32:
            digest.update(str(batch).encode())
        for value in model.state_dict().values():
            digest.update(value.cpu().numpy().tobytes())
        self.path, self.of = path, digest.hexdigest()
        *lines, torn = path.read_text().split("\n") if path.exists() else [""]
        if torn:  # by a stop while it was written
            path.write_text("".join(line + "\n" for line in lines))
        self.entries = [entry for of, entry in map(json.loads, lines) if of == self.of]

    def add(self, entry: dict) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps([self.of, entry]) + "\n")
