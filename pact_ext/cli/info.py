"""pact-ext info: what is installed and what it runs on."""

from __future__ import annotations

import json
import platform

import torch

from .. import _library
from .._version import __version__


def facts() -> dict:
    """Everything `pact-ext info` prints, as plain values."""
    cpu = _library.cpu_info()
    library = _library.library_path()
    return {
        "pact_ext": __version__,
        "torch": torch.__version__,
        "torch_abi_floor": cpu["torch_abi_floor"],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "backends": {"cpu": True, "cuda": library.with_name("libpact_cuda.so").exists()},
        "isa": cpu["isa"],
        "isa_usable": cpu["isa_usable"],
        "isa_built": cpu["isa_built"],
        "threads": torch.get_num_threads(),
        "library": str(library.resolve()),
        "library_version": cpu["version"],
        "compiler": cpu["compiler"],
    }


def run(as_json: bool) -> str:
    known = facts()
    if as_json:
        return json.dumps(known, indent=2)
    backends = ", ".join(f"{name}: {'built' if built else 'not built'}" for name, built in known["backends"].items())
    rows = {
        "pact_ext": known["pact_ext"],
        "torch": f"{known['torch']} (the library runs on >= {known['torch_abi_floor']})",
        "python": known["python"],
        "platform": f"{known['platform']}, {known['machine']}",
        "backends": backends,
        "ISA": f"{known['isa']} (usable: {', '.join(known['isa_usable'])}; built: {', '.join(known['isa_built'])})",
        "threads": known["threads"],
        "library": f"{known['library']}, version {known['library_version']}",
        "compiler": known["compiler"],
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())
