"""The pact-ext command. Each subcommand is a module of its own.

A subcommand's module has `add_parser(commands)`, which sets `run`: from the parsed arguments to what is printed. It
imports what needs an extra, or the library, only when it runs: --help and --version do without.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
from collections.abc import Sequence

from .._version import __version__
from . import bench_model, demo, info, layers, methods, output, show_command
from .errors import CommandError, missing, shortage
from .show_command import SHOW_CONFIG

__all__ = ["SHOW_CONFIG", "main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own).

    Returns the exit code: 0, or 2 after one line on stderr. A shell's code for a process that a signal ended stands
    for Ctrl-C, and for output that nobody reads any more.
    """
    try:
        output.say(_answer(argv))
    except CommandError as error:
        output.complain(str(error))
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    return 0


def _answer(argv: Sequence[str] | None) -> str:
    """What the command line prints."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            arguments = _parser().parse_args(argv)
    except SystemExit:
        return told.getvalue()  # --help or --version
    try:
        return arguments.run(arguments) + "\n"
    except ImportError as error:
        raise CommandError(missing(error, arguments.command)) from None
    except (MemoryError, RuntimeError) as error:
        if (problem := shortage(error)) is None:
            raise
        raise CommandError(problem) from None


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
    for module in (demo, show_command, layers, bench_model, methods, info):
        module.add_parser(commands)
    return parser
