"""pact-ext methods, and --method of the commands that run a model."""

import json

import pytest

from pact_ext import cli, methods


def test_every_method_is_listed(capsys):
    assert cli.main(["methods"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == methods.names()
    assert head.split() == ["name", "acts", "at", "needs", "count", "served", "source"]
    column = {fact.name: fact for fact in methods.facts()}
    assert (column["pact"].where, column["pact"].budget, column["pact"].servable) == ("layer 4", "by the data", False)
    assert (column["random"].where, column["random"].servable) == ("projector", True)
    assert column["pyramiddrop"].where == "layers 8, 16, 24"


ORDER = """random downsample fastv vtw tome prumerge prumerge+ hired visionzip llama-vid dyrate entropyprune trim
    sparsevlm pyramiddrop kmeans dpc dbscan agglomerative divprune cdpruner dart pact"""


def test_names_are_in_order():
    assert methods.names() == [name for name in ORDER.split() if name in methods.METHODS]


def test_every_method_has_defaults_that_its_name_stands_for():
    for name in methods.names():
        assert str(methods.parse(name)) == name
        assert methods.parse(name).sites(32)


def test_a_model_is_timed_with_another_method(capsys, tmp_path):
    pytest.importorskip("transformers", minversion="4.57", reason="models need transformers")
    record = tmp_path / "record.json"
    sizes = ["--visual-tokens", "16", "--text-tokens", "4", "--runs", "1", "--new-tokens", "2"]
    run = ["bench-model", "--random", "tiny", *sizes, "--method", "fastv:keep=4;layer=1", "--json", str(record)]
    assert cli.main(run) == 0
    assert "16 -> 4 visual tokens" in capsys.readouterr().out
    found = json.loads(record.read_text())
    assert (found["method"], found["config"]) == ("fastv:layer=1,keep=4", None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["bench-model", "--random", "tiny", "--method", "fastv", "--dc", "0.1"],
            "--dc must be left out with --method",
        ),
        (["bench-model", "--random", "tiny", "--method", "fastvee"], "no preset named 'fastvee'"),
        (["show", "photo.jpg", "--method", "fastv"], "--method must be left out without --model"),
        (["show", "photo.jpg", "--model", "m", "--method", "fastv", "--config", "x"], "--config must be left out with"),
    ],
)
def test_what_does_not_go_with_a_method(arguments, message, capsys):
    assert cli.main(arguments) == 2
    assert message in capsys.readouterr().err
