"""What the run on a GPU starts, with which arguments, and the few files that it leaves; nothing is computed."""

import json
import tarfile

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

from bench.quality import __main__ as curves
from bench.quality import checkpoint, on_gpu, options
from bench.quality.model import build


@pytest.fixture
def started(monkeypatch):
    """By name, the module and the arguments of each process that would have run."""
    found = {}

    class Beside:
        def __init__(self, name, module, arguments, logs):
            found[name] = (module, [*map(str, arguments)])
            logs.mkdir(parents=True, exist_ok=True)
            (logs / f"{name}.txt").write_text("said")

        def end(self, deadline):
            return True

        def stop(self):
            pass

    monkeypatch.setattr(on_gpu, "Beside", Beside)
    return found


def test_all_phases_and_the_files_they_leave(started, tmp_path, capsys):
    out, work = tmp_path / "out", tmp_path / "work"
    state = {"model": build().state_dict(), "step": 3, "arguments": {"steps": 4}}
    for seed in (0, 1):
        checkpoint.write(work / f"seed{seed}" / "both.pt", state)
    out.mkdir()
    (out / "tuned.json").write_text("{}")
    (out / "curves.md").write_text("a table")
    (out / "accuracy.json").write_text(json.dumps({"models": {"seed0/model": {"needle": 0.5, "all": 0.75}}}))
    assert on_gpu.main(["--out", str(out), "--work", str(work), "--device", "cpu"]) == 0
    assert {path.name for path in out.iterdir()} == {
        "accuracy.json",
        "tuned.json",
        "results.tar",
        *(f"seed{seed}.tar" for seed in (0, 1)),
    }
    with tarfile.open(out / "results.tar") as tar:
        assert {"results/curves.md", "results/logs-curves.txt"} <= {*tar.getnames()}
    with tarfile.open(out / "seed1.tar") as tar:
        assert "seed1/model/model.safetensors" in tar.getnames()
    said = capsys.readouterr().out
    assert "a table" in said
    assert "seed 1: 3 of 4 steps" in said
    assert "75.0" in said
    stages = {f"{stage}-{seed}" for stage in ("words", "eyes", "both") for seed in (0, 1, 2)}
    assert started.keys() == stages | set(on_gpu.PHASES[1:])
    (out / "accuracy.json").unlink()
    assert on_gpu.main(["--out", str(out), "--work", str(work), "--only", "curves"]) == 0
    assert (out / "accuracy.json").exists()
    assert started["curves"][1][-2:] == ["--tuned", str(out / "tuned.json")]
    assert started["accuracy"][1][:2] == [str(work / f"seed{seed}" / "model") for seed in (0, 1)]


def test_phases_alone_and_another_model(started, tmp_path):
    where = ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--device", "cpu"]
    assert on_gpu.main([*where, "--only", "curves", "--model", "other", "--keep", "0.5", "0.1", "--jobs", "3"]) == 0
    ((module, arguments),) = started.values()
    assert module == "bench.quality.__main__"
    given = curves.parse(arguments)
    assert (str(given.model), given.keep, given.jobs, given.each, given.tuned) == ("other", [0.5, 0.1], 3, 1, None)
    started.clear()
    start = ["--start", "weights", "--seeds", "4"]
    assert on_gpu.main([*where, "--only", "train", *start]) == 0
    assert [*started] == ["both-4"]
    assert started["both-4"][1][-2:] == ["--start", "weights"]


def test_a_process_that_runs_out_of_time_is_ended(tmp_path, capfd):
    (tmp_path / "logs").mkdir()
    one = on_gpu.Beside(
        "slow", "timeit", ["-n", "1", "import time; print('so far', flush=True); time.sleep(60)"], tmp_path
    )
    assert not one.end(one.begun + 3)
    assert one.process.returncode < 0
    assert "slow: out of time" in capfd.readouterr().out


def test_a_model_is_loaded_in_float32(tmp_path):
    from bench.quality import package

    package.save(build(), tmp_path)
    loaded = options.load(tmp_path, "cpu")
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert not loaded.training
