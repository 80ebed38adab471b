"""How rankings of several seeds are compared."""

import json
import math

import pytest

from bench.quality import rankings


def record(scenes=10, **accuracy):
    stock = {"name": "stock", "keep": 1.0, "accuracy": 0.9}
    curves = [{"name": name, "keep": 0.25, "accuracy": value} for name, value in accuracy.items()]
    return {"facts": {"first_seed": 7, "scenes": scenes}, "questions": scenes, "curves": [stock, *curves]}


def test_kendalls_tau_b():
    assert rankings.tau([1, 2, 3], [10, 20, 30]) == 1
    assert rankings.tau([1, 2, 3], [3, 2, 1]) == -1
    assert rankings.tau([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(4 / 6)
    assert rankings.tau([1, 1, 2, 3], [1, 2, 2, 3]) == pytest.approx(4 / math.sqrt(5 * 5))
    assert math.isnan(rankings.tau([1, 1], [1, 2]))


def test_an_order_is_sure_where_all_show_it_by_more_than_the_margin():
    found = [record(a=0.9, b=0.8, c=0.75), record(a=0.85, b=0.845, c=0.8), record(a=0.7, b=0.8, c=0.6, other=0.1)]
    one = rankings.compared(found, 0.25, 0.01)
    assert one["accuracy"] == {"a": [0.9, 0.85, 0.7], "b": [0.8, 0.845, 0.8], "c": [0.75, 0.8, 0.6]}
    assert one["sure"] == [["a", "c"], ["b", "c"]]
    assert one["pairs"] == 3
    assert [[i, j, round(value, 3)] for i, j, value in one["tau"]] == [[0, 1, 1], [0, 2, 0.333], [1, 2, 0.333]]


def test_the_command(tmp_path, capsys):
    paths = []
    for name, one in {"x": record(a=0.5, b=0.25), "y": record(a=0.25, b=0.5), "z": record(scenes=11, a=1, b=0)}.items():
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "curves.json")
        paths[-1].write_text(json.dumps(one))
    arguments = ["--keep", "0.25", "--out", str(tmp_path)]
    assert rankings.main([*map(str, paths[:2]), *arguments]) == 0
    table = (tmp_path / "rankings.md").read_text()
    assert "| method | x | y |" in table
    assert "| a | 50.0 (1) | 25.0 (2) |" in table
    assert "tau-b: -1.00 (x, y). All order 0 of 1 pairs alike" in table
    assert json.loads((tmp_path / "rankings.json").read_text())["models"] == ["x", "y"]
    with pytest.raises(SystemExit):
        rankings.main([*map(str, paths), *arguments])
    assert "different questions" in capsys.readouterr().err
