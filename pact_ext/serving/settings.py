"""The environment variable PACT_VLLM: which method, with which budget; and what an engine cannot serve.

A variable, because every process of an engine has to agree: the one that writes placeholders, and those that compute
what takes their place. Arguments of a request (`--mm-processor-kwargs`) reach the first alone, and may differ from one
request to the next.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from .. import methods
from ..methods import Method

VARIABLE = "PACT_VLLM"
EXAMPLE = '{"method": "divprune", "keep": 0.25}'
GIVEN = frozenset({"row", "grids"})
"""What of a `View` there is before the decoder, besides the hidden states."""


def read(environment: Mapping[str, str]) -> Method | None:
    """The method that the variable asks for; None where it is not set, or empty.

    Raises:
        ValueError: not a JSON object with a method's name and its arguments; a name, an argument or a value that there
            is not; a method that cannot be served.
    """
    text = environment.get(VARIABLE, "")
    if not text.strip():
        return None
    try:
        wanted = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{VARIABLE} must be JSON, as {EXAMPLE}, got {text!r}: {error}") from None
    if not isinstance(wanted, dict) or not isinstance(wanted.get("method"), str):
        raise ValueError(f"{VARIABLE} must be a JSON object with a method's name, as {EXAMPLE}, got {text!r}")
    name = wanted.pop("method")
    if name not in methods.names():
        raise ValueError(f"{VARIABLE}: no method named {name!r}; there are {', '.join(servable())}")
    for argument, value in wanted.items():
        if not isinstance(value, int | float | str | None) or (isinstance(value, str) and not value.isidentifier()):
            raise ValueError(f"{VARIABLE}: {argument} must be a number, a word, true, false or null, got {value!r}")
    try:
        method = methods.parse(f"{name}:{','.join(f'{argument}={value}' for argument, value in wanted.items())}")
    except ValueError as error:
        raise ValueError(f"{VARIABLE}: {error}") from None
    reason = refusal(method)
    if reason is not None:
        raise ValueError(
            f"{VARIABLE}: vLLM cannot serve {method}: {reason}. Methods that it can serve: {', '.join(servable())}"
        )
    return method


def refusal(method: Method) -> str | None:
    """Why an engine cannot serve a method; None: it can."""
    sites = method.sites(methods.LAYERS)
    if method.decodes:
        return "it acts after every token of the answer"
    if sites != (0,):
        at = f"layer {sites[0]}" if len(sites) == 1 else "several layers"
        return f"it acts inside the decoder, at {at}, and tokens are counted before the decoder runs"
    missing = method.needs - GIVEN
    if missing:
        return f"it needs {', '.join(sorted(missing))}, and there is only what the projector gives"
    count = method.count_on([(24, 24)])
    if count is None:
        return "only the data tells how many tokens it leaves, and placeholders are counted beforehand"
    if count == 0:
        return "it leaves no token of a picture, and a picture without placeholders is no picture"
    return None


def servable() -> list[str]:
    """The names of the methods that an engine can serve with their own defaults."""
    return [name for name, cls in methods.method.METHODS.items() if refusal(cls()) is None]
