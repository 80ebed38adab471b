"""Files that a command writes: complained about before any work, written at the end."""

from __future__ import annotations

from pathlib import Path

from .errors import CommandError


def check_output(image: Path, output: Path) -> None:
    """Complain before any work about a PNG that could not be written, or would overwrite the photograph."""
    try:
        checked_picture(output)
        if output.exists() and image.exists() and output.samefile(image):
            raise CommandError(f"--output would overwrite the photograph {image}")
    except OSError as error:  # a folder that may not be entered, a name that is too long
        raise CommandError(f"{error.filename}: {error.strerror}") from None


def checked_picture(output: Path) -> None:
    """Complain before an hour's work about a PNG that could not be written."""
    if output.suffix.lower() != ".png":
        raise CommandError(f"--output must end in .png, got {output}")
    check_writable(output, "--output")


def check_writable(output: Path, option: str) -> None:
    if not output.parent.is_dir():
        raise CommandError(f"the folder of {option} does not exist: {output.parent}")
    if output.is_dir():
        raise CommandError(f"{output} cannot be written: it is a folder")


def write(output: Path, content: bytes) -> None:
    try:
        output.write_bytes(content)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror or error}") from None
