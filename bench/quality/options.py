"""Options that the measurements share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

FOLDER = Path(".bench/quality")


def parser(prog: str, told: str) -> argparse.ArgumentParser:
    """Of a module with that docstring; asks for a model, a device and how many to do at once."""
    first, rest = told.split("\n", 1)
    found = argparse.ArgumentParser(prog=prog, description=first, epilog=rest)
    found.add_argument("model", type=Path, help="folder of the trained model")
    found.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    found.add_argument("--batch", type=int, default=32, metavar="N", help="questions at once (default: 32)")
    return found


def jobs(found: argparse.ArgumentParser) -> None:
    found.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="processes side by side; with more than one, nothing is timed"
    )


def methods(found: argparse.ArgumentParser, names: Sequence[str]) -> None:
    found.add_argument("--methods", nargs="+", choices=names, default=list(names), metavar="NAME", help="only those")
    found.add_argument("--without", nargs="+", choices=names, default=[], metavar="NAME", help="all but those")


def chosen(given: argparse.Namespace) -> list[str]:
    """The methods that were asked for."""
    return [name for name in given.methods if name not in given.without]


def curves(found: argparse.ArgumentParser, keeps: Sequence[float]) -> None:
    """What is asked, at which budgets, and where the record goes."""
    jobs(found)
    found.add_argument("--scenes", type=int, default=2000, help="how many that were never trained on")
    found.add_argument("--each", type=int, metavar="N", help="questions of a scene (default: one of each kind)")
    found.add_argument("--keep", type=float, nargs="+", default=keeps, metavar="SHARE", help="budgets")
    found.add_argument("--out", type=Path, default=FOLDER, help="folder (default: .bench/quality)")


def load(model: Path, device: str) -> transformers.PreTrainedModel:
    """In float32, without TF32 in convolutions either, ready to be asked."""
    torch.backends.cudnn.allow_tf32 = False
    found = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    return found.eval().to(device)
