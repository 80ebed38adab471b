"""What a command leaves behind: the file that it writes, and what it prints."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from .errors import CommandError


def check_picture(output: Path, photographs: Sequence[Path] = ()) -> None:
    """`check_file` for the PNG of --output."""
    if output.suffix.lower() != ".png":
        raise CommandError(f"--output must end in .png, got {output}")
    check_file(output, "--output", photographs)


def check_file(output: Path, option: str, photographs: Sequence[Path] = ()) -> None:
    """Complain before an hour's work about a file that could not be written, or would overwrite a photograph."""
    try:
        if not output.parent.is_dir():
            raise CommandError(f"the folder of {option} does not exist: {output.parent}")
        if output.is_dir():
            raise CommandError(f"{output} cannot be written: it is a folder")
        touched = [output] if output.exists() else []
        touched += [] if _is_device(output) else [Path(os.path.realpath(output)).parent]
        if not all(os.access(place, os.W_OK) for place in touched):
            raise CommandError(f"{output} cannot be written: Permission denied")
        for photograph in photographs:
            if output.exists() and photograph.exists() and output.samefile(photograph):
                raise CommandError(f"{option} would overwrite the photograph {photograph}")
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise CommandError(f"{error.filename}: {error.strerror}") from None


def write(output: Path, content: bytes) -> None:
    """All of a file or nothing: it is written beside its place, and then put there."""
    try:
        if _is_device(output):
            output.write_bytes(content)
        else:
            _replace(Path(os.path.realpath(output)), content)  # a link stays a link
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror or error}") from None


def _is_device(output: Path) -> bool:
    """Or a pipe: nothing that a file could take the place of."""
    return output.exists() and not output.is_file()


def _replace(output: Path, content: bytes) -> None:
    fresh = output.with_name(f".pact-ext-{os.getpid()}.tmp")
    try:
        fresh.write_bytes(content)
        if output.exists():
            shutil.copymode(output, fresh)
        os.replace(fresh, output)
    finally:
        fresh.unlink(missing_ok=True)


def say(text: str) -> None:
    """Print to stdout, and see that it gets there. Raises BrokenPipeError when nobody reads it any more."""
    if sys.stdout is None:
        raise CommandError("stdout cannot be written: it is closed")
    encoding = sys.stdout.encoding or "utf-8"  # a file's name may hold what the terminal cannot show
    try:
        print(text.encode(encoding, "backslashreplace").decode(encoding), end="", flush=True)
    except OSError as error:
        # Python would try again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise
        raise CommandError(f"stdout cannot be written: {error.strerror or error}") from None


def complain(problem: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            print("pact-ext: error:", " ".join(problem.split()), file=sys.stderr, flush=True)


def on_terminal() -> bool:
    """Whether someone looks at stderr, so that bars are worth drawing."""
    return sys.stderr is not None and sys.stderr.isatty()
