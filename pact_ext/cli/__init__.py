"""The pact-ext command, and how its errors are told. Each subcommand is a module of its own.

A subcommand's module has `add_parser(commands)`, which sets `run`: from the parsed arguments to what is printed. It
imports what needs an extra only when it runs, so that --help and the other commands do without.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .._version import __version__
from . import bench_model, info, layers, show_command
from .errors import CommandError
from .show_command import SHOW_CONFIG

__all__ = ["SHOW_CONFIG", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own). Returns the exit code: 0, or 2 after one line on stderr."""
    command = None
    try:
        arguments = _parser().parse_args(argv)
        command = arguments.command
        text = arguments.run(arguments)
    except CommandError as error:
        problem = str(error)
    except ImportError as error:
        problem = _missing(error, command)
    else:
        encoding = sys.stdout.encoding or "utf-8"  # a file's name may hold what the terminal cannot show
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        return 0
    print("pact-ext: error:", " ".join(problem.split()), file=sys.stderr)
    return 2


def _missing(error: ImportError, command: str | None) -> str:
    package = (error.name or "").split(".")[0]
    if package not in ("PIL", "matplotlib", "numpy"):
        return str(error)
    if command != "show" and package == "matplotlib":
        return f"{command} --output needs matplotlib, which is not installed: pip install 'pact-ext[show]'"
    needs, extra = ("matplotlib", "show") if command == "show" else ("transformers", "models")
    return f"{command} needs Pillow and {needs}, and {package} is not installed: pip install 'pact-ext[{extra}]'"


class _Parser(argparse.ArgumentParser):
    """argparse, but a wrong argument is one line like every other error."""

    def error(self, message: str):
        raise CommandError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = _Parser(prog="pact-ext", description="Kernels for visual-token reduction (PACT).", formatter_class=raw)
    parser.epilog = "example:\n  pact-ext show photo.jpg --output reduced.png"
    parser.add_argument("--version", action="version", version=f"pact-ext {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for module in (show_command, layers, bench_model, info):
        module.add_parser(commands)
    return parser
