"""The wheel: its name, its contents, and that it works in a fresh virtual environment; what a failed build says."""

import re
import runpy
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from setuptools.dist import Distribution

ROOT = Path(__file__).parents[1]


def run(*command, **kwargs):
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, ".", cwd=ROOT)
    (path,) = folder.iterdir()
    return path


def test_wheel_serves_every_python(wheel):
    assert re.fullmatch(r"pact_ext-[\d.]+\+cpu-py3-none-(linux|macosx)\w+\.whl", wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert "pact_ext/libpact_cpu.so" in names
        assert "pact_ext/py.typed" in names
        assert {"pact_ext/small/model/model.safetensors", "pact_ext/small/scenes/questions.json"} <= {*names}
        assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"pact_ext"}
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
        (tags,) = (archive.read(name).decode() for name in names if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: false" in tags
    required = HeaderParser().parsestr(metadata).get_all("Requires-Dist")
    assert [r for r in required if "extra ==" not in r] == ["torch>=2.10"]
    assert set(HeaderParser().parsestr(metadata).get_all("Provides-Extra")) >= {"show", "test", "bench"}
    assert HeaderParser().parsestr(metadata)["License-Expression"] == "BSD-3-Clause"


def test_wheel_works_in_a_fresh_environment(wheel, fresh_python, tmp_path):
    run(fresh_python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel)
    code = """
import pathlib, sys, torch, pact_ext
assert pathlib.Path(sys.prefix) in pathlib.Path(pact_ext.__file__).parents, pact_ext.__file__
centers, labels = torch.ops.pact.dbdpc(torch.eye(4).repeat(2, 1), 0.2, 2.0)
print(centers.tolist(), labels.tolist(), pact_ext.__version__)
"""
    out = run(fresh_python, "-c", code, cwd=tmp_path)
    version = runpy.run_path(ROOT / "pact_ext" / "_version.py")["__version__"]
    assert out.strip() == f"[0, 1, 2, 3] [0, 1, 2, 3, 0, 1, 2, 3] {version}"
    assert version in run(fresh_python.parent / "pact-ext", "info", cwd=tmp_path)


def test_rebuild_compiles_nothing_that_did_not_change():
    command = (sys.executable, "setup.py", "build_ext", "--inplace")
    run(*command, cwd=ROOT)
    assert "ninja: no work to do" in run(*command, cwd=ROOT)


@pytest.fixture
def setup_module():
    return runpy.run_path(str(ROOT / "setup.py"), run_name="setup")


@pytest.mark.parametrize(
    ("missing", "remedy"),
    [("cmake", "Install it: pip install cmake."), ("ninja", "pip install ninja."), ("c++", "apt-get install g")],
)
def test_missing_tool_is_one_sentence_with_the_remedy(setup_module, monkeypatch, missing, remedy):
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, **kw: None if name == missing else which(name, **kw))
    monkeypatch.delenv("CXX", raising=False)
    build = setup_module["CMakeBuild"](Distribution())
    with pytest.raises(SystemExit, match=re.escape(remedy)) as caught:
        build.run()
    assert str(caught.value).strip().startswith(f"pact_ext cannot be built: {missing} is not on the PATH")
    assert "\n" not in str(caught.value).strip()


def test_missing_torch_is_one_sentence_with_the_remedy(setup_module, monkeypatch, tmp_path):
    import importlib.util
    import sysconfig

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(tmp_path))
    with pytest.raises(SystemExit, match="no torch >= 2.10 in this Python environment. Install it first: pip install"):
        setup_module["torch_folder"]()
    (tmp_path / "torch" / "include" / "torch" / "csrc" / "stable").mkdir(parents=True)
    (tmp_path / "torch" / "version.py").write_text("__version__ = '2.9.0+cpu'\n")
    with pytest.raises(SystemExit, match="torch 2.9 is too old. Upgrade it"):
        setup_module["torch_folder"]()
