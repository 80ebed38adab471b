"""pact-ext info: against what the libraries and torch say."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from pact_ext import __version__, _library, cli


def test_info_json(capsys):
    assert cli.main(["info", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    facts = json.loads(out)
    cpu = _library.cpu_info()
    assert facts["pact_ext"] == __version__ == facts["library_version"]
    assert facts["torch"] == torch.__version__
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    for name in ("compiler", "torch_abi_floor", "isa_usable", "isa_built"):
        assert facts[name] == cpu[name]
    assert facts["isa"] in cpu["isa_usable"]
    assert facts["threads"] >= 1
    assert Path(facts["library"]) == _library.library_path().resolve()


def test_info_text(capsys):
    assert cli.main(["info"]) == 0
    lines = capsys.readouterr().out.splitlines()
    cpu = _library.cpu_info()
    names = [line[:10].strip() for line in lines]
    assert names == ["pact_ext", "torch", "python", "platform", "CUDA", "ISA", "threads", "library", "compiler"]
    values = dict(zip(names, (line[10:] for line in lines), strict=True))
    assert all(value[0] != " " for value in values.values())  # aligned
    assert values["pact_ext"] == __version__
    assert values["ISA"].startswith(f"{cpu['isa']} (usable: {', '.join(cpu['isa_usable'])}; built: ")
    assert values["threads"] == str(torch.get_num_threads())


BUILT = {"version": "1", "archs": ["8.0", "9.0"], "nvcc": "13.0.88", "torch_abi_floor": "2.10"}


@pytest.mark.parametrize(
    ("built", "loadable", "capabilities", "line"),
    [
        (None, False, [], "not built"),
        (BUILT, False, [], "built for 8.0, 9.0 with nvcc 13.0.88; not loaded, this torch is a CPU build"),
        (BUILT, True, [], "built for 8.0, 9.0 with nvcc 13.0.88; no card here"),
        (BUILT, True, [(9, 0)], "built for 8.0, 9.0 with nvcc 13.0.88; card 0 (9.0): supported"),
        (
            BUILT,
            True,
            [(8, 6), (7, 5)],
            "built for 8.0, 9.0 with nvcc 13.0.88; card 0 (8.6): supported; "
            "card 1 (7.5): NOT SUPPORTED, none of the architectures fits it",
        ),
    ],
)
def test_info_tells_what_cuda_code_is_built_and_whether_it_fits(
    capsys, monkeypatch, built, loadable, capabilities, line
):
    monkeypatch.setattr(_library, "cuda_info", lambda: built)
    monkeypatch.setattr(_library, "cuda_loadable", lambda: loadable)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert cli.main(["info"]) == 0
    assert f"CUDA      {line}\n" in capsys.readouterr().out
    assert cli.main(["info", "--json"]) == 0
    cuda = json.loads(capsys.readouterr().out)["cuda"]
    assert cuda is None if built is None else cuda["archs"] == ["8.0", "9.0"]
    assert cuda is None or [card["capability"] for card in cuda["cards"]] == [f"{a}.{b}" for a, b in capabilities]
