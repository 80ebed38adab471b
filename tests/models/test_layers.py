"""pact-ext layers: its distances against the reference on the keys that the model itself computes, and its advice."""

from __future__ import annotations

import io
import json

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")
pytest.importorskip("PIL", reason="images need the extra: pip install 'pact-ext[models]'")

from PIL import Image

import pact_ext
from models import checkpoints, tiny
from pact_ext import PactConfig, cli, reference
from pact_ext.cli import layers
from pact_ext.models.layers import default_threshold, layer_distances, recommend
from pact_ext.models.loading import load, prepare

KINDS = pytest.mark.parametrize("variant", tiny.KINDS)


def expected_distances(model, inputs) -> torch.Tensor:
    """``[layers]`` float64, from what comes out of the projections (or the norms after them) in a stock prefill."""
    seen = []
    hooks = []
    for layer in tiny.decoder(model).layers:
        attention = layer.self_attn
        module = attention.k_norm if hasattr(attention, "k_norm") else attention.k_proj
        hooks.append(module.register_forward_hook(lambda module, args, output: seen.append(output.flatten(2))))
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    visual = inputs["input_ids"] == model.config.image_token_id
    return torch.stack(
        [
            max(reference.max_distance(keys[row, places]) for row, places in enumerate(visual) if places.any())
            for keys in seen
        ]
    )


@KINDS
def test_distances_are_those_of_the_keys_before_rotary_embedding(variant):
    model = tiny.build(variant)
    inputs = tiny.inputs(model)
    found = layer_distances(model, inputs)
    assert (found.dtype, found.shape, found.device.type) == (torch.float32, (6,), "cpu")
    torch.testing.assert_close(found.double(), expected_distances(model, inputs), rtol=0, atol=2e-6)
    assert len(found.unique()) > 1


def test_of_several_rows_the_largest_counts():
    model = tiny.build("llava_next")
    inputs = tiny.inputs(model, batch=3, text_only_row=True)
    found = layer_distances(model, inputs).double()
    torch.testing.assert_close(found, expected_distances(model, inputs), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distances_in_other_dtypes(dtype):
    model = tiny.build("qwen2_vl", dtype=dtype)
    inputs = tiny.inputs(model)
    found = layer_distances(model, inputs).double()
    torch.testing.assert_close(found, expected_distances(model, inputs).double(), rtol=0, atol=2e-6)


def test_the_model_stays_as_it_was():
    model = tiny.build("llava")
    inputs = tiny.inputs(model)
    before = model(**inputs).logits
    layer_distances(model, inputs)
    assert torch.equal(model(**inputs).logits, before)
    with pytest.raises(ValueError, match="inputs must hold visual tokens, got none"):
        layer_distances(model, tiny.inputs(model, text_only=True))
    with pytest.raises(ValueError, match="inputs must hold input_ids, got pixel_values"):
        layer_distances(model, {"pixel_values": inputs["pixel_values"]})
    with pytest.raises(ValueError, match=r"pact_ext\.layer_distances: model must be of a known family"):
        layer_distances(torch.nn.Linear(1, 1), inputs)
    with pact_ext.apply(model, PactConfig(layer=2)), pytest.raises(RuntimeError, match="must not be reduced"):
        layer_distances(model, inputs)
    assert not any(layer._forward_pre_hooks for layer in tiny.decoder(model).layers)


@pytest.mark.parametrize(
    ("rows", "threshold", "first", "layer"),
    [
        ([[0.1, 0.5, 0.9]], 0.4, 0, 1),
        ([[0.1, 0.5, 0.9]], 0.5, 0, 2),  # it must be passed, not met
        ([[0.9, 0.5, 0.9]], 0.4, 0, 0),
        ([[0.9, 0.5, 0.9]], 0.4, 1, 1),
        ([[0.9, 0.5, 0.1]], 0.6, 1, None),
        ([[0.1, 0.5, 0.9]], 0.9, 0, None),
        ([[0.1, 0.9, 0.9], [0.1, 0.1, 0.7], [0.1, 0.2, 0.8]], 0.4, 0, 2),  # one image does not make a median
        ([[0.1, 0.9, 0.9], [0.1, 0.1, 0.7]], 0.45, 0, 1),  # between the two
    ],
)
def test_recommendation(rows, threshold, first, layer):
    assert recommend(torch.tensor(rows), threshold, first) == layer


def test_threshold_bounds_the_clusters():
    assert default_threshold(PactConfig.preset("llava-onevision-7b")) == pytest.approx(0.7518)
    assert default_threshold(PactConfig(dc=1.5)) == 2
    # Two vectors on opposite sides of a third, both dc from it: nothing in one cluster is farther apart.
    dc = 0.21
    angle = torch.arccos(torch.tensor(1 - dc, dtype=torch.float64))
    keys = torch.stack([torch.stack([torch.cos(x), torch.sin(x)]) for x in (-angle, 0 * angle, angle)])
    assert float(reference.max_distance(keys)) == pytest.approx(default_threshold(PactConfig(dc=dc)))


# --- The command ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.llava(tmp_path_factory.mktemp("checkpoint") / "llava")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    parent, paths = tmp_path_factory.mktemp("images"), []
    for name in "abc":
        generator = torch.Generator().manual_seed(ord(name))
        pixels = torch.randint(256, (7, 9, 3), dtype=torch.uint8, generator=generator)
        paths.append(parent / f"{name}.png")
        Image.fromarray(pixels.numpy()).resize((90, 70), Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def command(*arguments) -> list[str]:
    return ["layers", *map(str, arguments)]


def fails(capsys, *arguments) -> str:
    assert cli.main(command(*arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pact-ext: error: ")
    assert err.count("\n") == 1
    return err


def test_json(capsys, folder, images):
    assert cli.main(command("--model", folder, *images, "--json", "--device", "cpu", "--prompt", "Why?")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    known = json.loads(out)
    model, processor = load(folder, device="cpu")
    wanted = torch.stack(
        [layer_distances(model, prepare(model, processor, [Image.open(path)], "Why?")) for path in images]
    )
    torch.testing.assert_close(torch.tensor(known["distances"]), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(known["median"]), wanted.sort(dim=0).values[1], rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(known["max"]), wanted.amax(dim=0), rtol=0, atol=1e-6)
    assert known["threshold"] == pytest.approx(0.7518)
    assert known["recommended"] == recommend(wanted, known["threshold"])
    assert (known["preset"], known["first_layer"], known["model_type"]) == (4, 0, "llava")
    assert known["images"] == [str(path) for path in images]


def test_table_marks_the_recommended_layer_and_the_presets(capsys, folder, images):
    assert cli.main(command("--model", folder, *images, "--json", "--device", "cpu")) == 0
    known = json.loads(capsys.readouterr().out)
    second = sorted(known["median"])[-2]  # passed by one layer alone
    best = known["median"].index(max(known["median"]))
    assert cli.main(command("--model", folder, *images, "--threshold", second, "--device", "cpu")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"model        {folder} (llava), float32 on cpu"
    assert lines[1:3] == ["images       3", f"threshold    {second:.3f}"]
    start = lines.index("layer      max   median") + 1
    for layer in range(6):
        marks = ", ".join(["recommended"] * (layer == best) + ["preset"] * (layer == 4))
        row = f"{layer:>5}  {known['max'][layer]:7.3f}{known['median'][layer]:9.3f}  {marks}"
        assert lines[start + layer] == row.rstrip()
    if best != 4:
        assert lines[-1] == f"To reduce there: PactConfig.preset(..., layer={best})"
    assert cli.main(command("--model", folder, *images, "--threshold", 2)) == 0
    out = capsys.readouterr().out
    assert "recommended" not in out
    assert "No layer's median passes the threshold" in out


def test_table_tells_layers_that_cannot_be_reduced():
    record = {"model": "m", "model_type": "qwen3_vl", "dtype": "bfloat16", "device": "cuda:0", "images": ["a"]}
    record |= {"threshold": 0.5, "max": [0.9] * 4, "median": [0.9] * 4, "recommended": 2, "preset": 4, "first_layer": 2}
    lines = layers._table(record, None).splitlines()
    assert [line[23:] for line in lines[5:9]] == ["  cannot be reduced", "  cannot be reduced", "  recommended", ""]


def test_picture(capsys, folder, images, tmp_path):
    pytest.importorskip("matplotlib", reason="drawing needs the extra: pip install 'pact-ext[show]'")
    output = tmp_path / "layers.png"
    for threshold in (0.5, 2):
        output.unlink(missing_ok=True)
        assert cli.main(command("--model", folder, images[0], "--output", output, "--threshold", threshold)) == 0
        assert capsys.readouterr().out.endswith(f"picture      {output}\n")
        picture = Image.open(io.BytesIO(output.read_bytes()))
        assert picture.size == (960, 480)
        colors = {color for count, color in picture.convert("RGB").getcolors(1 << 20) if count > 1000}
        assert ((0xD6, 0x00, 0x6C) in colors) == (threshold < 1)  # the recommended bar


def test_errors(capsys, folder, images, tmp_path):
    photo = images[0]
    for arguments, wanted in (
        ([photo], "the following arguments are required: --model"),
        (["--model", folder], "the following arguments are required: IMAGE"),
        (["--model", folder, "nowhere.png"], "there is no file nowhere.png"),
        (["--model", "./nowhere", photo], "there is no folder ./nowhere"),
        (["--model", tmp_path, photo], "must hold config.json"),
        (["--model", folder, photo, "--threshold", "2.5"], "--threshold must be a cosine distance, 0 to 2, got 2.5"),
        (["--model", folder, photo, "--threshold", "nan"], "--threshold must be a cosine distance, 0 to 2, got nan"),
        (["--model", folder, photo, "--config", "gpt"], "no preset named 'gpt'"),
        (["--model", folder, photo, "--output", "a.jpg"], "--output must end in .png, got a.jpg"),
        (["--model", folder, photo, "--output", "no/a.png"], "the folder of --output does not exist: no"),
        (["--model", folder, photo, "--device", "tpu"], "device must be cpu, or cuda"),
        (["--model", folder, photo, "--dtype", "int4"], "dtype must be one of bfloat16, float16, float32, got int4"),
        (["--model", folder, photo, "--prompt", "<image>"], "prompt must be text alone, got one with <image> in it"),
    ):
        assert wanted in fails(capsys, *arguments)
