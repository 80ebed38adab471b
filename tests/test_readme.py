"""Every snippet and every command of the README is run. A command without a rule here fails the test."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pact_ext import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def without_a_hub(tmp_path, monkeypatch):
    """A photograph in the working folder, and a tiny model of random weights by whatever name one is loaded."""
    cbook, transformers = pytest.importorskip("matplotlib.cbook"), pytest.importorskip("transformers")
    from models import checkpoints

    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), tmp_path / "photo.jpg")
    folder = checkpoints.llava(tmp_path / "checkpoint")
    for name in ("AutoModelForImageTextToText", "AutoProcessor"):
        load = getattr(transformers, name).from_pretrained
        redirected = lambda name, load=load, **arguments: load(folder, **arguments)  # noqa: E731
        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", redirected)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda s: s.splitlines()[-1][:40])
def test_snippet(snippet, without_a_hub):
    exec(compile(snippet, "README.md", "exec"), {})


def run(*command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, timeout=1200, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def make(arguments, tmp_path):
    """The target itself, but for those that CI runs beside this, and what test_bench.py runs."""
    run("make", *(["-n"] if arguments[0] in ("test", "sanitize", "lint", "bench") else []), *arguments, cwd=ROOT)
    if arguments[0] == "demo":
        assert (ROOT / "pact-show.png").read_bytes().startswith(b"\x89PNG")


def pip(arguments, tmp_path, fresh_python):
    assert arguments == ["install", "."]
    run(fresh_python, "-m", "pip", "install", "-q", "--no-deps", str(ROOT))
    run(fresh_python, "-c", "import torch, pact_ext; torch.ops.pact.dbdpc(torch.eye(3), 0.2, 2.0)", cwd=tmp_path)


def pact_ext(arguments, tmp_path, monkeypatch, capsys):
    cbook = pytest.importorskip("matplotlib.cbook")
    if "--model" in arguments:
        from models import checkpoints

        arguments[arguments.index("--model") + 1] = str(checkpoints.llava(tmp_path / "checkpoint"))
    if "--random" in arguments:
        arguments[arguments.index("--random") + 1] = "tiny"
    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out
    if "--output" in arguments:
        assert (tmp_path / arguments[arguments.index("--output") + 1]).exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command, tmp_path, request):
    program, *arguments = shlex.split(command, comments=True)
    if program == "make":
        make(arguments, tmp_path)
    elif program == "pip":
        pip(arguments, tmp_path, request.getfixturevalue("fresh_python"))
    elif program == "pact-ext":
        pact_ext(arguments, tmp_path, *map(request.getfixturevalue, ("monkeypatch", "capsys")))
    else:
        pytest.fail(f"the README has a command that this test does not know: {command}")


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target
