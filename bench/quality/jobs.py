"""Points of a curve, one after the other or in processes side by side."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

_sitting: Any = None


class Jobs(contextlib.AbstractContextManager):
    """Processes that each hold a sitting, from the moment on that this is made.

    Args:
        count: of processes; with 1 there are none, and all is done in this one.
        prepare: makes the sitting, in each process; a module's function, or a partial of one.
    """

    def __init__(self, count: int, prepare: Callable[[], Any]) -> None:
        self.count, self.prepare, self.sitting, self.pool = count, prepare, None, None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(count, context, _begin, (prepare,))
            for _ in range(count):
                self.pool.submit(int)

    def __exit__(self, *exception) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def run(self, measure: Callable[[Any, Any], Any], tasks: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Of each task, what `measure(sitting, task)` gives, in the order in which they are done.

        Raises:
            concurrent.futures.process.BrokenProcessPool: a process has ended, or its sitting could not be made.
        """
        if self.pool is None:
            for task in tasks:
                self.sitting = self.sitting or self.prepare()
                yield task, measure(self.sitting, task)
            return
        futures = {self.pool.submit(_measure, measure, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _begin(prepare: Callable[[], Any]) -> None:
    global _sitting
    torch.set_num_threads(1)
    _sitting = prepare()


def _measure(measure: Callable[[Any, Any], Any], task: Any) -> Any:
    return measure(_sitting, task)
