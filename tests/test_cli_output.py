"""What the command writes and prints, when that cannot be done: nothing is left half done, nothing is told twice."""

from __future__ import annotations

import io
import os
import resource
import stat
import sys
from pathlib import Path

import pytest

from pact_ext import cli
from pact_ext.cli import output
from pact_ext.cli.errors import CommandError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


@pytest.fixture
def small_files():
    """No file may grow beyond 1000 bytes, as on a disk that fills up in the middle."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("old", [None, b"older"])
def test_a_file_is_whole_or_as_it_was(tmp_path, small_files, old):
    path = tmp_path / "picture.png"
    if old:
        path.write_bytes(old)
    with pytest.raises(CommandError, match=r"picture.png cannot be written: File too large"):
        output.write(path, bytes(5000))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == ([("picture.png", old)] if old else [])
    output.write(path, b"newer")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("picture.png", b"newer")]


def test_links_and_permissions_stay(tmp_path):
    file, link = tmp_path / "file.png", tmp_path / "link.png"
    file.touch(mode=0o640)
    link.symlink_to(file)
    output.write(link, b"content")
    assert link.is_symlink()
    assert file.read_bytes() == b"content"
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@needs_full
def test_a_device_is_written_to_and_not_replaced(tmp_path):
    link = tmp_path / "full.png"
    link.symlink_to(FULL)
    with pytest.raises(CommandError, match="full.png cannot be written: No space left on device"):
        output.write(link, b"content")
    assert FULL.is_char_device()
    assert os.listdir(tmp_path) == ["full.png"]


def closed_pipe() -> io.TextIOWrapper:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


@pytest.mark.parametrize("line", [["info"], ["--help"], ["--version"]])
@pytest.mark.parametrize(
    ("stdout", "code", "wanted"),
    [
        pytest.param(lambda: FULL.open("w"), 2, "No space left on device", marks=needs_full, id="full"),
        pytest.param(closed_pipe, 141, None, id="closed pipe"),
        pytest.param(lambda: None, 2, "it is closed", id="closed"),
    ],
)
def test_stdout_that_takes_nothing(capsys, monkeypatch, line, stdout, code, wanted):
    stream = stdout()
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(line) == code
    if stream is not None:
        stream.close()  # as Python does at its end: nothing is left to complain about
    expected = "" if wanted is None else f"pact-ext: error: stdout cannot be written: {wanted}\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("stderr", [lambda: None, pytest.param(lambda: FULL.open("w"), marks=needs_full)])
def test_stderr_that_takes_nothing(capsys, monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr())
    assert cli.main(["frobnicate"]) == 2
    assert capsys.readouterr().out == ""


def test_text_that_the_terminal_cannot_show(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    output.say("é \udce9\n")  # the second is a byte of a file's name that is no text
    assert written.getvalue() == b"\\xe9 \\udce9\n"
