"""How an exam is held: the processes, the questions, and what was measured before."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import transformers

from ..record import machine_facts
from .asking import Asked
from .curves import Sitting, exam
from .jobs import Jobs
from .options import load
from .part import Part
from .scenes import HELD_OUT


@contextlib.contextmanager
def seated(given: argparse.Namespace) -> Iterator[tuple[Jobs, list[Asked], Callable[[str], Part]]]:
    """Of what `options.curves` asks: processes that hold the exam, its questions, and the part of a file's name."""
    exam_of = (given.scenes, HELD_OUT, given.each)
    if given.jobs > 1:
        with Jobs(given.jobs, partial(Sitting.of, given.model, given.device, exam_of, given.batch, False)) as jobs:
            asked = exam(*exam_of)[1]
            yield jobs, asked, lambda name: Part(given.out / name, load(given.model, "cpu"), asked, given.batch)
        return
    sitting = Sitting.of(given.model, given.device, exam_of, given.batch, True)
    asked = sitting.asked
    yield Jobs(1, lambda: sitting), asked, lambda name: Part(given.out / name, sitting.model, asked, given.batch)


def facts(given: argparse.Namespace) -> dict[str, Any]:
    """What the figures depend on."""
    own = {"scenes": given.scenes, "first_seed": HELD_OUT, "batch": given.batch, "jobs": given.jobs}
    device = torch.device(given.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {**machine_facts(), "transformers": transformers.__version__, "device": name, **own}
