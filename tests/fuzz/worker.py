"""A process of its own for the calls, so that a crash or a hang is a finding like any other."""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

FOLDER = Path(__file__).parent
START = 900  # seconds in which a worker must have loaded, the emulated operators built
LIMIT = 120  # and in which a call must have come back, on however busy a machine


def serve(kind: str) -> None:
    """In the process: a seed in, its call in words and what became of it out, until there are no more."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else prints
    faulthandler.enable()

    def reply(**words):
        replies.write(json.dumps(words) + "\n")

    module = importlib.import_module(f"fuzz.{kind}")
    module.prepare()
    reply(ready=True)
    for line in sys.stdin:
        try:
            case = module.draw(int(line))
            reply(case=str(case))
            reply(outcome=module.judge(case))
        except Exception as error:
            said = str(error) if isinstance(error, AssertionError) else traceback.format_exc(limit=-3)
            reply(error=said or traceback.format_exc(limit=-3))


class Worker:
    """Of one kind, "operators" or "models"; started when it is asked, and again after it died."""

    def __init__(self, kind: str):
        self.kind = kind
        self.process = None
        self.seeds: list[int] = []

    def _start(self) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment["MALLOC_PERTURB_"] = "1"  # memory is never zero by chance
        environment["UBSAN_OPTIONS"] = environment.get("UBSAN_OPTIONS", "") + ":halt_on_error=1"
        self.errors = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, open as long as the process
        self.process = subprocess.Popen(
            [sys.executable, str(FOLDER), "--worker", self.kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
            env=environment,
        )
        self.seeds, self.said = [], b""
        reply = self._reply(START)
        if "error" in reply:
            raise RuntimeError(f"no process to fuzz {self.kind} in: {reply['error']}")

    def _reply(self, seconds: float) -> dict:
        """The next line, or what became of the process instead."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self.said:
                if not selector.select(end - time.monotonic()):
                    self.process.send_signal(signal.SIGABRT)  # faulthandler says where it is
                    return {"error": f"no answer in {seconds} s\n{self._last_words()}"}
                said = os.read(self.process.stdout.fileno(), 2**16)
                if not said:
                    return {"error": f"the process died\n{self._last_words()}"}
                self.said += said
        line, _, self.said = self.said.partition(b"\n")
        return json.loads(line)

    def _last_words(self) -> str:
        code = self.process.wait()
        self.errors.seek(0)
        said = self.errors.read()[-4000:]
        self.process = None
        return f"exit status {code}\n{said}"

    def ask(self, seed: int) -> tuple[str, str | None, str | None]:
        """The call in words, what became of it, and what was wrong."""
        if self.process is None:
            self._start()
        self.seeds.append(seed)
        self.process.stdin.write(f"{seed}\n".encode())
        reply = self._reply(LIMIT)
        case = reply.get("case", "")
        if "error" not in reply:
            reply = self._reply(LIMIT)
        return case, reply.get("outcome"), reply.get("error")

    def stop(self) -> None:
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()
