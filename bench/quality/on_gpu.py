"""Train the small model with several seeds, side by side on one GPU, and measure it, each phase in a time of its own.

    train      `words` beside `eyes` and then `both`, as many steps as there is time for; the models in float16
    accuracy   of every seed's model, by kind of question
    tuning     of the methods, on the first seed's model or the one given
    curves     of all methods, with what tuning has found
    ablations  beside the curves

A phase that runs out of time is ended, and the next begins. Checkpoints stay in the working folder, results come into
the output folder as they are measured, few files and small: a model of each seed (seed0.tar), accuracy.json,
tuned.json, the points measured (part.jsonl, ablations.part.jsonl), and all else in results.tar. The same call goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PHASES = ("train", "accuracy", "tuning", "curves", "ablations")
STEPS, BATCH = "words=1500,eyes=30000,both=30000", "words=32,eyes=64,both=32"
APART = ("accuracy.json", "tuned.json", "part.jsonl", "ablations.part.jsonl")
KEEPS = ("0.25", "0.1", "0.5", "0.05", "0.7", "0.15", "0.35", "0.02")  # the first that are told of first
SLOW = ("agglomerative",)  # ten thousand small kernels for each picture: for the CPU
BEFORE_BOTH = 0.5  # share of the training's time


def parse(argv: list[str] | None) -> argparse.Namespace:
    first, rest = __doc__.split("\n", 1)
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality.on_gpu",
        description=first,
        epilog=rest,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--work", type=Path, default=Path(".quality/gpu"), help="folder of checkpoints")
    parser.add_argument("--only", nargs="+", choices=PHASES, default=PHASES, metavar="PHASE")
    parser.add_argument("--model", type=Path, help="to measure, in place of the first seed's")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--steps", default=STEPS, help=f"at most, of a stage (default: {STEPS})")
    parser.add_argument("--batch", default=BATCH, help=f"scenes of a step (default: {BATCH})")
    parser.add_argument("--start", type=Path, help="weights that `both` begins from; no other stage is trained")
    parser.add_argument("--scenes", type=int, default=2000, help="to measure on")
    parser.add_argument("--at-once", type=int, default=100, metavar="N", help="questions that are asked at once")
    parser.add_argument("--keep", nargs="+", default=KEEPS, metavar="SHARE", help="budgets of the curves, in order")
    parser.add_argument("--without", nargs="*", default=SLOW, metavar="NAME", help="methods (default: the slowest)")
    parser.add_argument("--jobs", type=int, default=9, metavar="N", help="processes of the curves, and of the tuning")
    parser.add_argument("--ablation-jobs", type=int, default=3, metavar="N")
    for phase, seconds in zip(PHASES, (270, 60, 60, 240, 240), strict=True):
        parser.add_argument(
            f"--{phase}-seconds", type=float, default=seconds, metavar="S", help=f"(default: {seconds})"
        )
    parser.add_argument("--device", default="cuda")
    return parser.parse_args(argv)


class Beside:
    """A process of its own, whose output goes to a file; it is ended with all that it has begun."""

    def __init__(self, name: str, module: str, arguments: Sequence, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.name, self.log = name, logs / f"{name}.txt"
        own = {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        }
        self.begun = time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )

    def end(self, deadline: float) -> bool:
        """Whether it ended well by itself, by that moment."""
        try:
            self.process.wait(max(0.0, deadline - time.time()))
        except subprocess.TimeoutExpired:
            print(f"{self.name}: out of time", flush=True)
        self.stop()
        good = self.process.returncode == 0
        print(f"{self.name}: {time.time() - self.begun:.0f} s{'' if good else ', failed'}", flush=True)
        if not good:
            print("    " + "\n    ".join(self.log.read_text(errors="replace").splitlines()[-8:]), flush=True)
        return good

    def stop(self) -> None:
        for how in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, how)
                self.process.wait(3)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
        self.process.wait()


def train(given: argparse.Namespace) -> None:
    """Every seed's three stages; what there is of them is packaged."""
    start, seconds = time.time(), given.train_seconds
    cores = len(os.sched_getaffinity(0))
    each = max(1, cores // len(given.seeds) - 1)

    def stage(name: str, seed: int, until: float, workers: int, *more) -> Beside:
        how = ["--out", given.work / f"seed{seed}", "--stage", name, "--seed", seed, "--device", given.device]
        how += ["--fit", "--until", until, "--steps", given.steps, "--batch", given.batch, "--every", 1000]
        how += ["--workers", workers, *(["--bfloat16"] if given.device != "cpu" else []), *more]
        return Beside(f"{name}-{seed}", "bench.quality.train", how, given.work / "logs")

    running: list[Beside] = []
    try:
        if given.start is None:
            until = start + BEFORE_BOTH * seconds
            shares = {"words": 1, "eyes": max(1, each - 1)}
            running = [stage(name, seed, until, shares[name]) for seed in given.seeds for name in shares]
            for one in running:
                one.end(until + 10)
        more = [] if given.start is None else ["--start", given.start]
        running = [stage("both", seed, start + seconds - 3, each, *more) for seed in given.seeds]
        from . import checkpoint, package  # of which the import takes seconds, while others compute
        from .model import build

        for one in running:
            one.end(start + seconds + 7)
    finally:
        for one in running:
            one.stop()
    for seed in given.seeds:
        folder = given.work / f"seed{seed}"
        state = checkpoint.read(folder / "both.pt")
        if state is not None:
            print(f"seed {seed}: {state['step']} of {state['arguments']['steps']} steps of both", flush=True)
            model = build()
            model.load_state_dict(state["model"])
            package.save(model, folder / "model")
            with tarfile.open(given.out / f"seed{seed}.tar", "w") as tar:
                tar.add(folder / "model", f"seed{seed}/model")


def measure(given: argparse.Namespace) -> None:
    """Accuracy beside tuning, then the curves beside the ablations."""
    model = given.model or given.work / f"seed{given.seeds[0]}" / "model"
    models = [given.work / f"seed{seed}" / "model" for seed in given.seeds] if given.model is None else [model]
    models = [one for one in models if one.exists()]
    tuned, logs = given.out / "tuned.json", given.work / "logs"
    which = ["--device", given.device]
    without = ["--without", *given.without] if given.without else []
    asked = [model, *which, "--batch", given.at_once]
    exam = [*asked, "--scenes", given.scenes, "--each", 1, "--out", given.out]

    def begin(phase: str) -> tuple[Beside, float]:
        module, how = {
            "accuracy": ("evaluate", [*models, *which, "--scenes", given.scenes, "--out", given.out / "accuracy.json"]),
            "tuning": ("tuning", [*asked, "--jobs", given.jobs, "--out", tuned, *without]),
            "curves": ("__main__", [*exam, "--jobs", given.jobs, "--keep", *given.keep, *without]),
            "ablations": ("ablations", [*exam, "--jobs", given.ablation_jobs]),
        }[phase]
        if phase == "curves" and tuned.exists():
            how += ["--tuned", tuned]
        seconds = getattr(given, f"{phase}_seconds")
        return Beside(phase, f"bench.quality.{module}", how, logs), time.time() + seconds

    for phases in (("accuracy", "tuning"), ("curves", "ablations")):
        running = [begin(phase) for phase in phases if phase in given.only]
        try:
            for one, deadline in sorted(running, key=lambda each: each[1]):
                one.end(deadline)
        finally:
            for one, _ in running:
                one.stop()
        gather(given)


def gather(given: argparse.Namespace) -> None:
    """Few files: records, tables, plots and logs in one."""
    results = given.work / "results"
    results.mkdir(parents=True, exist_ok=True)
    for path in given.out.iterdir():
        if path.name not in APART and path.suffix != ".tar":
            shutil.move(path, results / path.name)
    for path in map(given.out.joinpath, APART):
        if path.exists():
            shutil.copy(path, given.work)
    part = given.work / "results.tar"
    with tarfile.open(part, "w") as tar:
        for path in (*results.iterdir(), *given.work.glob("logs/*.txt"), *given.work.glob("seed*/*.jsonl")):
            tar.add(path, "results/" + str(path.relative_to(given.work)).removeprefix("results/").replace("/", "-"))
    shutil.copy(part, given.out / "results.tar")


def table(given: argparse.Namespace) -> None:
    accuracy = given.out / "accuracy.json"
    if accuracy.exists():
        models = json.loads(accuracy.read_text())["models"]
        kinds = list(next(iter(models.values())))
        print(f"{'':<24}" + "".join(f"{kind:>9}" for kind in kinds))
        for name, shares in models.items():
            print(f"{name[-24:]:<24}" + "".join(f"{100 * shares[kind]:>9.1f}" for kind in kinds))
    for name in ("curves.md", "ablations.md"):
        if (given.work / "results" / name).exists():
            print((given.work / "results" / name).read_text())


def main(argv: list[str] | None = None) -> int:
    given = parse(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    given.work.mkdir(parents=True, exist_ok=True)
    for path in map(given.work.joinpath, APART):
        if path.exists() and not (given.out / path.name).exists():
            shutil.copy(path, given.out)
    if "train" in given.only:
        train(given)
        gather(given)
    measure(given)
    table(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
