"""pact-ext bench-model: what it records and prints, for random weights and for a checkpoint. No time is asserted."""

from __future__ import annotations

import json
import re

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")
pytest.importorskip("PIL", reason="images need the extra: pip install 'pact-ext[models]'")

from PIL import Image

import pact_ext
from models import checkpoints, tiny
from pact_ext import PactConfig, cli
from pact_ext.cli import bench_model
from pact_ext.models.benchmark import VARIANTS, benchmark
from pact_ext.models.random import KINDS, SHAPES, keeping, random_inputs, random_model

COLUMN = 2 * 2 * 16 * 4  # bytes of a token in the cache of a layer: keys and values, 2 heads of 16, float32
LIGHT = ["--device", "cpu", "--runs", "1", "--new-tokens", "3"]


def run(capsys, *arguments) -> str:
    assert cli.main(["bench-model", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def fails(capsys, *arguments) -> str:
    assert cli.main(["bench-model", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pact-ext: error: ")
    assert err.count("\n") == 1
    return err


# --- Random weights ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("visual", "side"), [(576, 24), (2880, 24), (108, 6), (50, 5), (7, 1), (1, 1)])
def test_any_number_of_visual_tokens(visual, side):
    model = random_model("tiny", visual, device="cpu")
    inputs = random_inputs(model, visual, 5, batch=2)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, visual + 5)
    assert inputs["pixel_values"].shape == (2 * visual // side**2, 3, 2 * side, 2 * side)
    places = inputs["input_ids"] == model.config.image_token_index
    assert places[:, 2 : 2 + visual].all()
    assert places.sum() == 2 * visual
    with torch.no_grad():
        assert model(**inputs, logits_to_keep=1).logits.isfinite().all()


def test_random_weights_are_the_same_every_time_and_fill_every_parameter():
    first, second = (random_model("tiny", 4, device="cpu", dtype="bfloat16") for _ in range(2))
    assert first.dtype == torch.bfloat16
    assert not first.training
    for (name, x), y in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(x, y)
        assert not x.requires_grad
        if "position_embedding" in name:
            assert not x.any()
        elif x.ndim > 1:
            assert float(x.float().std()) == pytest.approx(0.02, rel=0.2)
    for x, y in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(x, y)
    inputs = (random_inputs(first, 4, seed=seed) for seed in (0, 0, 1))
    one, same, other = (x["pixel_values"] for x in inputs)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_visual_tokens_come_in_clusters():
    model = random_model("tiny", 576, device="cpu")
    inputs = random_inputs(model, 576)
    seen = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
    hook.remove()
    features = seen[0][inputs["input_ids"] == model.config.image_token_index]
    centers, _ = torch.ops.pact.dbdpc(features, 0.2, 2.0)
    assert len(centers) < 4 * KINDS < 576 / 4


def test_the_shape_of_7b_is_the_published_one():
    shape = SHAPES["7b"]
    wanted = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    assert {key: shape[key] for key in wanted} == wanted
    assert (shape["intermediate_size"], shape["vocab_size"]) == (18944, 152064)


@pytest.mark.parametrize("ratio", [0.3, 0.05, 1])
def test_keeping_leaves_the_wanted_share(ratio):
    model = random_model("tiny", 100, device="cpu")
    with pact_ext.apply(model, keeping(ratio, layer=2)) as handle, torch.no_grad():
        model(**random_inputs(model, 100, batch=2))
    assert handle.config.layer == 2
    assert handle.report().visual_out == pytest.approx([100 * ratio] * 2, abs=1)


def test_wrong_arguments_of_the_functions():
    with pytest.raises(ValueError, match=r"shape must be one of 7b, 0\.5b, tiny, got 70b"):
        random_model("70b", 4)
    with pytest.raises(ValueError, match="visual_tokens must be at least 1, got 0"):
        random_model("tiny", 0)
    model = random_model("tiny", 100, device="cpu")
    with pytest.raises(ValueError, match="in images of 10 x 10, got 50"):
        random_inputs(model, 50)
    for ratio in (0, 1.5):
        with pytest.raises(ValueError, match=rf"ratio must be in \(0, 1\], got {ratio}"):
            keeping(ratio)
    for wrong in ({"runs": 0}, {"new_tokens": 0}):
        with pytest.raises(ValueError, match="runs and new_tokens must be at least 1, got"):
            benchmark(model, random_inputs(model, 100), keeping(0.5), **wrong)


# --- Measuring --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llava", "qwen2_vl", "internvl_qwen3"])
@pytest.mark.parametrize(("attention", "implementation"), [("dense", "eager"), ("fused", "sdpa")])
def test_record(variant, attention, implementation):
    model = tiny.build(variant, dtype=torch.float32, attn_implementation=implementation)
    inputs = tiny.inputs(model, batch=2)
    config = PactConfig(prune_ratio=0.5, dc=0.3, layer=2)
    steps = []
    record = benchmark(
        model, inputs, config, attention=attention, runs=2, new_tokens=3, progress=lambda: steps.append(1)
    )
    assert json.loads(json.dumps(record)) == record
    assert len(steps) == 6
    expected = {"device": "cpu", "dtype": "float32", "batch": 2, "new_tokens": 3, "runs": 2, "attention": attention}
    assert {key: record[key] for key in expected} == expected
    assert record["prompt_tokens"] == inputs["input_ids"].shape[1]
    assert PactConfig(**record["config"]) == config

    with pact_ext.apply(model, config, attention=attention) as handle:  # it has been removed
        out = model.generate(**inputs, max_new_tokens=3, return_dict_in_generate=True)
    report = handle.report().as_dict()
    assert record["report"] == {key: value for key, value in report.items() if key != "seconds"}
    held = sum(x.nbytes for layer in out.past_key_values.layers for x in (layer.keys, layer.values))
    assert record["reduced"]["cache_bytes"] == held
    assert record["stock"]["cache_bytes"] == held + report["cache_bytes_saved"]
    for name in VARIANTS:
        for key in ("first_token_seconds", "token_seconds"):
            assert len(record[name][key]) == 2
            assert min(record[name][key]) > 0
        assert record[name]["peak_bytes"] is None
    spent, whole = record["reduced"]["reduction_seconds"], record["reduced"]["first_token_seconds"]
    assert all(0 < part < all_ for part, all_ in zip(spent, whole, strict=True))
    assert set(record["ratio"]) == set(record["stock"])
    assert record["ratio"]["cache_bytes"] == held / record["stock"]["cache_bytes"]


def test_every_run_generates_all_its_tokens():
    model = random_model("tiny", 9, device="cpu")
    inputs = random_inputs(model, 9, 4)
    first = model.generate(**inputs, max_new_tokens=1)[0, -1].item()
    model.generation_config.eos_token_id = first  # the model would stop at once
    record = benchmark(model, inputs, keeping(0.5), runs=1, new_tokens=4)
    assert record["stock"]["cache_bytes"] == 6 * COLUMN * (9 + 4 + 3)
    alone = benchmark(model, inputs, keeping(0.5), runs=1, new_tokens=1)
    assert alone["stock"]["token_seconds"] is alone["ratio"]["token_seconds"] is None
    assert alone["stock"]["cache_bytes"] == 6 * COLUMN * (9 + 4)
    record |= {"model": "m", "model_type": "llava"}
    assert "each further token" in bench_model.table(record)
    assert "each further token" not in bench_model.table({**record, **alone})


# --- The command ------------------------------------------------------------------------------------------------


def test_random_in_the_table_and_in_json(capsys, tmp_path):
    file = tmp_path / "record.json"
    out = run(
        capsys, "--random", "tiny", "--visual-tokens", 100, "--text-tokens", 10, "--batch", 2, "--json", file, *LIGHT
    )
    record = json.loads(file.read_text())
    assert (record["model"], record["model_type"], record["dtype"]) == ("random tiny", "llava", "float32")
    assert record["torch"] == torch.__version__
    assert (record["batch"], record["prompt_tokens"], record["runs"], record["new_tokens"]) == (2, 110, 1, 3)
    assert PactConfig(**record["config"]) == keeping(0.3)
    assert record["stock"]["cache_bytes"] == 2 * 6 * COLUMN * 112
    assert record["reduced"]["cache_bytes"] == 2 * COLUMN * (4 * 112 + 2 * 42)
    lines = out.splitlines()
    assert lines[:5] == [
        "model       random tiny (llava), float32 on cpu",
        "prompt      2 x 110 tokens, 200 of them visual",
        "reduction   200 -> 60 visual tokens (70.0 % gone) at the input of layer 4 of 6, fused attention",
        "parameters  prune_ratio 0.7, dc 0",
        "runs        1 of 3 new tokens",
    ]
    assert lines[6] == "median                       stock   reduced   ratio"
    cells = {line[:24].strip(): line[24:].split() for line in lines[7:11]}
    assert list(cells) == ["first token, ms", "spent reducing, ms", "each further token, ms", "key-value cache, MiB"]
    number = re.compile(r"\d+\.\d+")
    assert all(number.fullmatch(cell) for row in cells.values() for cell in row)
    first = [record[name]["first_token_seconds"][0] for name in VARIANTS]
    assert cells["first token, ms"] == [*(f"{1e3 * x:.2f}" for x in first), f"{first[1] / first[0]:.3f}"]
    assert len(cells["spent reducing, ms"]) == 1
    assert lines[-1].startswith("Peak memory is told apart on a card only")


def test_table_of_a_card_tells_its_memory():
    model = random_model("tiny", 9, device="cpu")
    record = benchmark(model, random_inputs(model, 9), keeping(0.5), runs=1, new_tokens=2)
    record |= {"model": "m", "model_type": "llava"}
    record["stock"]["peak_bytes"], record["reduced"]["peak_bytes"] = 4 << 20, 3 << 20
    record["ratio"]["peak_bytes"] = 0.75
    assert bench_model.table(record).splitlines()[-1].split() == ["peak", "memory,", "MiB", "4.00", "3.00", "0.750"]


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        (["--keep", "0.5"], keeping(0.5)),
        (["--keep", "0.5", "--layer", "1"], keeping(0.5, 1)),
        (["--layer", "0"], keeping(0.3, 0)),
        (["--config", "qwen2-vl-7b"], PactConfig.preset("qwen2-vl-7b")),
        (["--dc", "0.1"], PactConfig.preset("llava-onevision-7b", dc=0.1)),
        (["--prune-ratio", "0.2", "--layer", "5"], PactConfig(prune_ratio=0.2, layer=5)),
    ],
)
def test_parameters(capsys, tmp_path, arguments, config):
    file = tmp_path / "record.json"
    run(capsys, "--random", "tiny", "--visual-tokens", 50, "--json", file, *arguments, *LIGHT)
    assert PactConfig(**json.loads(file.read_text())["config"]) == config


def test_checkpoint(capsys, tmp_path):
    folder = checkpoints.llava(tmp_path / "llava")
    photo, file = tmp_path / "photo.png", tmp_path / "record.json"
    Image.linear_gradient("L").resize((80, 60)).save(photo)
    arguments = ["--model", folder, photo, photo, "--batch", 3, "--prompt", "Why?", "--attention", "dense"]
    out = run(capsys, *arguments, "--json", file, *LIGHT)
    record = json.loads(file.read_text())
    assert record["report"]["visual_in"] == [128] * 3
    assert (record["attention"], record["model"]) == ("dense", str(folder))
    assert PactConfig(**record["config"]) == PactConfig.preset("llava-onevision-7b")
    assert "dense attention" in out


def test_wrong_command_lines(capsys, tmp_path):
    random = ["--random", "tiny", "--visual-tokens", "50"]
    for arguments, wanted in (
        ([], "either --model or --random must be given"),
        ([*random, "--model", "x"], "either --model or --random must be given"),
        (["--model", "x"], "--model must come with an IMAGE"),
        ([*random, "photo.jpg"], "IMAGE must be left out with --random"),
        ([*random, "--prompt", "Why?"], "--prompt must be left out with --random"),
        (["--model", "x", "p.jpg", "--text-tokens", "3"], "--text-tokens must be left out with --model"),
        (["--model", "./nowhere", "p.jpg"], "there is no folder ./nowhere"),
        (["--random", "70b"], "shape must be one of 7b, 0.5b, tiny, got 70b"),
        ([*random, "--runs", "0"], "--runs must be in 1 to 1000000, got 0"),
        (["--random", "tiny", "--visual-tokens", "-1"], "--visual-tokens must be in 1 to 1000000, got -1"),
        ([*random, "--keep", "0"], "--keep must be in (0, 1], got 0.0"),
        ([*random, "--keep", "0.5", "--prune-ratio", "0.1"], "--prune-ratio must be left out with --keep"),
        ([*random, "--dc", "-1"], "dc must be a number >= 0 and finite, got -1.0"),
        ([*random, "--config", "gpt"], "no preset named 'gpt'"),
        ([*random, "--layer", "6"], "config.layer must be in 0 to 5 for this model, got 6"),
        ([*random, "--attention", "sparse"], "argument --attention: invalid choice: 'sparse'"),
        ([*random, "--attention", "fused", "--attn-implementation", "eager"], "must be one of sdpa, flash_attention_2"),
        ([*random, "--device", "tpu"], "device must be cpu, or cuda"),
        ([*random, "--dtype", "int4"], "dtype must be one of bfloat16, float16, float32, got int4"),
        ([*random, "--json", "no/such.json"], "the folder of --json does not exist: no"),
        ([*random, "--json", tmp_path], "cannot be written: it is a folder"),
    ):
        assert wanted in fails(capsys, *arguments), arguments
