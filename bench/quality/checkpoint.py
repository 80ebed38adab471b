"""Files of a training that may stop at any moment: written whole or not at all, and known when damaged."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path

import torch


def write(path: Path, state: dict) -> None:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(hashlib.sha256(content).digest() + content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def read(path: Path) -> dict | None:
    """None where there is none.

    Raises:
        ValueError: the file is not as it was written.
    """
    if not path.exists():
        return None
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise ValueError(f"{path} is damaged: its checksum is another; remove it to begin anew")
    return torch.load(io.BytesIO(content[32:]), weights_only=True)
