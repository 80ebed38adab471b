"""What a user of the command line can mend, as one line."""

from __future__ import annotations

import re


class CommandError(Exception):
    """One line for stderr; `main` prints it and returns 2."""


def missing(error: ImportError, command: str) -> str:
    """A package that is not there, or the library."""
    package = (error.name or "").split(".")[0]
    if package not in ("PIL", "matplotlib", "numpy"):
        return str(error)
    if command not in ("show", "demo") and package == "matplotlib":
        return f"{command} --output needs matplotlib, which is not installed: pip install 'pact-ext[show]'"
    known = {"show": ("matplotlib", "show"), "demo": ("matplotlib", "models,show")}
    needs, extra = known.get(command, ("transformers", "models"))
    return f"{command} needs Pillow and {needs}, and {package} is not installed: pip install 'pact-ext[{extra}]'"


def shortage(error: Exception) -> str | None:
    """Not enough memory, on the CPU or on a card, as whoever noticed it says; None for any other error."""
    said = str(error).split("\n")[0]
    if "out of memory" in said:
        return said.split(". ")[0]
    if isinstance(error, MemoryError) or re.search("bad_alloc|can't allocate memory", said):
        asked = re.search(r"tried to allocate (\d+) bytes", said)
        return "out of memory" + (f": {int(asked[1]) / 2**30:.1f} GiB were asked for" if asked else "")
    return None
