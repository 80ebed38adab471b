"""One model split between processes of this script, by transformers' tensor parallelism: what each of them computes.

`python tests/models/tensor_parallel.py CHECKPOINT OUT RANKS...` forks so many processes, for each number in turn, and
leaves a file of each process's results in OUT.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import traceback
from pathlib import Path

import torch
import transformers

import pact_ext
from models import tiny
from models.test_decoding import Fewer
from pact_ext import methods

METHODS = {
    "pact": lambda: pact_ext.PactConfig(layer=2, dc=0.6),
    "pact, scores": lambda: methods.Pact(pact_ext.PactConfig(layer=2, dc=0.6), keep=9, scores="received-all"),
    "sparsevlm": lambda: methods.SparseVLM(layers=(2, 4), keep=(0.6, 0.4)),
    "tome": lambda: methods.ToMe(r=3),
    "evicting": Fewer,
}
OF_FOUR = ("pact, scores", "evicting")


@torch.no_grad()
def results(model, names) -> dict[str, tuple]:
    """Of each method what two turns leave: logits, tokens, places; how attention was shared out, of one that asks."""
    found, inputs = {}, tiny.inputs(model, 2)
    for name in names:
        with pact_ext.apply(model, method := METHODS[name]()) as handle:
            logits, tokens = tiny.generate(model, inputs, 3)
            cache = model(**inputs, use_cache=True).past_key_values
            _, turn = tiny.more(model, inputs, tokens[:, :1], image=True)
            again = model(**turn, past_key_values=cache).logits
            shares = [step.shares for step, _ in getattr(method, "found", [])]
            found[name] = (logits, tokens, again, handle.columns, shares)
    return found


def run(rank: int, ranks: int, port: int, checkpoint: str, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        | {"LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    )
    split = {"tp_plan": "auto"} if ranks > 1 else {}
    model = transformers.AutoModelForImageTextToText.from_pretrained(checkpoint, dtype=torch.float64, **split).eval()
    torch.save(results(model, METHODS if ranks < 4 else OF_FOUR), out / f"{ranks}-{rank}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()


def main(checkpoint: str, out: str, *numbers: str) -> int:
    for ranks in map(int, numbers):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        children = set()
        for rank in range(ranks):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    run(rank, ranks, port, checkpoint, Path(out))
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.add(child)
        while children:
            child, status = os.wait()
            children.remove(child)
            if status:  # the others would wait for it
                for other in children:
                    os.kill(other, signal.SIGKILL)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
