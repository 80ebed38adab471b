"""The pact-ext command: its arguments, and how its errors are told. Each subcommand is a module of its own."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .._version import __version__
from ..config import PRESETS, PactConfig
from .errors import CommandError

SHOW_CONFIG = PactConfig(prune_ratio=0.45, dc=0.06, dn=2.0, alpha=1.5, gaussian=True)
"""Defaults of `pact-ext show`: dc is fitted to its hand-made descriptors; the rest is as published."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's own). Returns the exit code: 0, or 2 after one line on stderr."""
    try:
        text = _run(_parser().parse_args(argv))
    except CommandError as error:
        problem = str(error)
    except ImportError as error:
        problem = _missing(error)
    else:
        encoding = sys.stdout.encoding or "utf-8"  # a file's name may hold what the terminal cannot show
        print(text.encode(encoding, "backslashreplace").decode(encoding))
        return 0
    print("pact-ext: error:", " ".join(problem.split()), file=sys.stderr)
    return 2


def _run(arguments: argparse.Namespace) -> str:
    # Imported here: `show` needs the extra of that name, which neither `info` nor --help does.
    if arguments.command == "info":
        from . import info

        return info.run(arguments.json)
    from . import show

    return show.run(arguments.image, arguments.output, arguments.patch, arguments.max_side, _config(arguments))


def _missing(error: ImportError) -> str:
    package = (error.name or "").split(".")[0]
    if package in ("PIL", "matplotlib", "numpy"):
        return f"show needs Pillow and matplotlib, and {package} is not installed: pip install 'pact-ext[show]'"
    return str(error)


def _config(arguments: argparse.Namespace) -> PactConfig:
    names = ("prune_ratio", "dc", "dn", "alpha", "gaussian")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    base = vars(SHOW_CONFIG) if arguments.config is None else None
    try:
        return PactConfig(**(base | given)) if base else PactConfig.preset(arguments.config, **given)
    except ValueError as error:
        raise CommandError(str(error).removeprefix("PactConfig: ")) from None


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

    show = commands.add_parser(
        "show",
        help="reduce the patches of a photograph and draw what happened",
        formatter_class=raw,
        description="Cuts a photograph into patches, reduces them with torch.ops.pact as a vision-language model's\n"
        "visual tokens would be, and draws four panels: the photograph, the importance of each\n"
        "patch, the clusters, and the photograph rebuilt from the merged tokens.\n\n"
        "Hand-made descriptors (colour, texture, gradients) stand in for a model's keys and queries,\n"
        "so the default of --dc is fitted to them; a preset's is fitted to its model.",
        epilog="example:\n  pact-ext show photo.jpg --output reduced.png --prune-ratio 0.6 --dc 0.1",
    )
    show.add_argument("image", metavar="IMAGE", type=Path, help="an image file of any size and mode Pillow reads")
    show.add_argument(
        "--output",
        metavar="PNG",
        type=Path,
        default=Path("pact-show.png"),
        help="the picture to write (default: %(default)s)",
    )
    show.add_argument(
        "--config",
        metavar="NAME",
        help=f"start from the published parameters of a model: {', '.join(sorted(PRESETS))} (default: those below)",
    )
    for flag, what in (
        ("prune-ratio", "share of the patches that the importance split drops, 0 to 1"),
        ("dc", "cutoff of the clustering: centres are farther apart than this cosine distance, >= 0"),
        ("dn", "normalisation of the density, > 0"),
        ("alpha", "a dropped patch nearer than ALPHA * DC to a centre joins its cluster, >= 0"),
    ):
        name = flag.replace("-", "_")
        default = getattr(SHOW_CONFIG, name)
        show.add_argument(f"--{flag}", metavar="X", type=float, help=f"{what} (default: {default})")
    show.add_argument(
        "--gaussian",
        action=argparse.BooleanOptionalAction,
        help="density exp(-(d/dn)^2), as in the published code, or exp(-d/dn), as in the paper (default: --gaussian)",
    )
    show.add_argument(
        "--patch", metavar="PX", type=int, default=14, help="side of a patch in pixels, 4 to 64 (default: %(default)s)"
    )
    show.add_argument(
        "--max-side",
        metavar="PX",
        type=int,
        default=672,
        help="a larger photograph is scaled down to this longer side; at most 16384 patches may result "
        "(default: %(default)s, so at most 48 x 48 patches of 14)",
    )

    info = commands.add_parser(
        "info",
        help="versions, backends and instruction sets, for a bug report",
        formatter_class=raw,
        description="Prints the versions, platform, backends and CPU instruction sets in use.",
        epilog="example:\n  pact-ext info --json",
    )
    info.add_argument("--json", action="store_true", help="print one JSON object (default: aligned text)")
    return parser
