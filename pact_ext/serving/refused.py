"""The class of every architecture that is not served: to look it up is an error that names it."""

from . import plugin, settings


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(name)
    raise ValueError(
        f"{settings.VARIABLE}: {name} is not served with fewer tokens; {', '.join(plugin.SERVED)} are. "
        f"Unset {settings.VARIABLE} to serve it whole"
    )
