"""pact-ext info: what is installed and what it runs on."""

from __future__ import annotations

import argparse
import json
import platform

import torch

from .. import _library
from .._version import __version__


def add_parser(commands) -> None:
    parser = commands.add_parser(
        "info",
        help="versions, backends and instruction sets, for a bug report",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Prints the versions, platform, backends and CPU instruction sets in use.",
        epilog="example:\n  pact-ext info --json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object (default: aligned text)")
    parser.set_defaults(run=lambda arguments: run(arguments.json))


def cuda_facts() -> dict | None:
    """The CUDA library: its architectures, and whether they fit the cards here. None when there is none."""
    info = _library.cuda_info()
    if info is None:
        return None
    cards = []
    for index in range(torch.cuda.device_count()):
        capability = torch.cuda.get_device_capability(index)
        cards.append(
            {
                "name": torch.cuda.get_device_name(index),
                "capability": "{}.{}".format(*capability),
                "fits": _library.cuda_fits(info["archs"], capability),
            }
        )
    return {**info, "loaded": _library.cuda_loadable(), "cards": cards}


def cuda_line(cuda: dict | None) -> str:
    """The same as one line."""
    if cuda is None:
        return "not built"
    line = f"built for {', '.join(cuda['archs'])} with nvcc {cuda['nvcc']}"
    if not cuda["loaded"]:
        return f"{line}; not loaded, this torch is a CPU build"
    if not cuda["cards"]:
        return f"{line}; no card here"
    for card in cuda["cards"]:
        fit = "supported" if card["fits"] else "NOT SUPPORTED, none of the architectures fits it"
        line += f"; {card['name']} ({card['capability']}): {fit}"
    return line


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
        "cuda": cuda_facts(),
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
    rows = {
        "pact_ext": known["pact_ext"],
        "torch": f"{known['torch']} (the library runs on >= {known['torch_abi_floor']})",
        "python": known["python"],
        "platform": f"{known['platform']}, {known['machine']}",
        "CUDA": cuda_line(known["cuda"]),
        "ISA": f"{known['isa']} (usable: {', '.join(known['isa_usable'])}; built: {', '.join(known['isa_built'])})",
        "threads": known["threads"],
        "library": f"{known['library']}, version {known['library_version']}",
        "compiler": known["compiler"],
    }
    return "\n".join(f"{name:<10}{value}" for name, value in rows.items())
