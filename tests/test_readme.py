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
    """A photograph in the working folder, and a tiny model of random weights by whatever name of the hub it has."""
    cbook, transformers = pytest.importorskip("matplotlib.cbook"), pytest.importorskip("transformers")
    from models import checkpoints

    shutil.copy(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False), tmp_path / "photo.jpg")
    folder = checkpoints.llava(tmp_path / "checkpoint")
    for name in ("AutoModelForImageTextToText", "AutoProcessor"):
        load = getattr(transformers, name).from_pretrained

        def redirected(name, load=load, **arguments):
            return load(name if Path(name).is_dir() else folder, **arguments)

        monkeypatch.setattr(getattr(transformers, name), "from_pretrained", redirected)
    monkeypatch.chdir(tmp_path)


def test_the_methods_of_the_readme():
    """The table says what the classes say, of all of them and in their order."""
    from pact_ext import methods

    rows = re.findall(r"^\| `([\w+-]+)` \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    facts = {fact.name: fact for fact in methods.facts()}
    rows = [row for row in rows if row[0] in facts]
    assert [name for name, *_ in rows] == methods.names()
    for name, where, needs, budget, source in rows:
        assert (where, needs, budget) == (facts[name].where, facts[name].needs, facts[name].budget), name
        assert source.split(",")[0].strip("*[") in facts[name].source, name


def test_the_method_of_the_contributing_page():
    """It works inside a model, by its name."""
    from models import tiny

    from pact_ext import apply, methods

    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)
    known = dict(methods.method.METHODS)
    try:
        exec(compile(snippet, "CONTRIBUTING.md", "exec"), {})
        model = tiny.build("llava")
        with apply(model, "largest-norm:keep=7") as handle:
            model(**tiny.inputs(model, 2))
            assert [row.n_out for row in handle.last] == [7, 7]
    finally:
        methods.method.METHODS.clear()
        methods.method.METHODS.update(known)


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
        assert (ROOT / "pact-demo.png").read_bytes().startswith(b"\x89PNG")


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
        page, _, heading = target.partition("#")
        assert page.startswith("https://") or (ROOT / page).exists(), target
        if heading and not page.startswith("https://"):
            text = (ROOT / (page or "README.md")).read_text()
            headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings], target
