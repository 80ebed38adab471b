"""pact-ext show --model: what it prints and draws, against the model run by hand."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")
pytest.importorskip("PIL", reason="drawing needs the extra: pip install 'pact-ext[models]'")

import transformers
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, AutoProcessor

import pact_ext
from models import checkpoints
from pact_ext import PactConfig, cli, plot_tokens
from pact_ext.cli import show_model
from pact_ext.cli.errors import CommandError
from pact_ext.models.grids import image_grid
from pact_ext.models.loading import prepare

PROMPT = "What is red?"
SIZE = 130, 90
FAMILIES = pytest.mark.parametrize("family", checkpoints.CHECKPOINTS)
NUMBERS = {"llava": ("8 x 8 tokens of 90 x 90 px", 64), "llava_next": ("8 x 8 tokens of 130 x 90 px, 204 more", 268)}


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the models are too small to share


@pytest.fixture(scope="module")
def photo():
    """A gradient with a disc, a box and a noisy corner: some patches alike, others not."""
    ramp = Image.linear_gradient("L").resize(SIZE)
    image = Image.merge("RGB", [ramp, ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT), Image.new("L", SIZE, 90)])
    drawing = ImageDraw.Draw(image)
    drawing.ellipse([50, 20, 90, 60], fill="red")
    drawing.rectangle([0, 60, 128, 75], fill="navy")
    noise = torch.randint(256, (30, 40, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image.paste(Image.fromarray(noise.numpy()), (30, 0))
    return image


@pytest.fixture(scope="module")
def path(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    photo.save(path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {name: save(tmp_path_factory.mktemp(name)) for name, save in checkpoints.CHECKPOINTS.items()}


@pytest.fixture(scope="module")
def opened(folders):
    """Model and processor of each folder, opened without the code under test."""
    return {
        name: (AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder))
        for name, folder in folders.items()
    }


def rows_of(text: str) -> dict[str, str]:
    return {line[:13].strip(): line[13:] for line in text.splitlines()}


@FAMILIES
def test_prints_and_draws_the_models_own_reduction(family, folders, opened, path, photo, tmp_path, capsys):
    output = tmp_path / "tokens.png"
    arguments = ["--output", str(output), "--model", str(folders[family]), "--prompt", PROMPT, "--dc", "0.3"]
    assert cli.main(["show", str(path), *arguments]) == 0
    rows = rows_of(capsys.readouterr().out)

    model, processor = opened[family]
    inputs = prepare(model, processor, [photo], PROMPT)
    with pact_ext.apply(model, PactConfig.preset("llava-onevision-7b", dc=0.3)) as handle, torch.no_grad():
        model(**inputs)
    (reduction,), report = handle.last, handle.report()
    grid, tokens = NUMBERS[family]
    assert list(rows) == [
        *["model", "photograph", "grid", "tokens in", "tokens out", "discarded", "reduction", "layer", "per layer"],
        *["cache", "prefill", "picture"],
    ]
    assert rows["model"] == f"{folders[family]} ({family}), float32 on cpu"
    assert rows["photograph"] == f"{path}, 130 x 90 px"
    assert rows["grid"].startswith(grid)
    assert rows["tokens in"] == f"{tokens}, and {inputs['input_ids'].shape[1] - tokens} of text"
    merged = int((reduction.sizes > 1).sum())
    assert 0 < merged < reduction.n_out < tokens
    assert rows["tokens out"] == f"{reduction.n_out}, {merged} of them for two tokens or more"
    assert rows["discarded"] == str(int((reduction.labels < 0).sum()))
    assert rows["reduction"] == f"{100 * (1 - reduction.n_out / tokens):.1f} %"
    assert rows["layer"] == "4 of 6"
    assert rows["per layer"] == f"{(4 * tokens + 2 * reduction.n_out) / 6:.1f} visual tokens on average"
    assert rows["cache"].startswith(f"{report.cache_bytes / 2**20:.2f} MiB, ")
    assert re.fullmatch(r"[\d.]+ ms, [\d.]+ ms of it reducing \(one run, the first\)", rows["prefill"])
    assert rows["picture"] == f"{output}, {output.stat().st_size / 1e3:.0f} kB"

    part = photo.crop((20, 0, 110, 90)) if family == "llava" else photo
    expected = plot_tokens(part, reduction, image_grid(model, inputs))
    drawn = Image.open(output)
    assert (drawn.mode, drawn.size) == ("RGB", expected.size)
    assert drawn.tobytes() == expected.tobytes()


def test_same_bytes_every_time_and_nothing_else_is_said(folders, path, tmp_path, capfd):
    transformers.logging.set_verbosity_info()  # until the command says otherwise
    transformers.logging.enable_progress_bar()
    outputs = [tmp_path / name for name in ("a.png", "b.png")]
    for output in outputs:
        show_model.run(path, output, str(folders["llava"]), PactConfig(), PROMPT)
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert capfd.readouterr() == ("", "")


def test_parameters_and_dtype_reach_the_model(folders, path, tmp_path, capsys):
    arguments = ["show", str(path), "--output", str(tmp_path / "x.png"), "--model", str(folders["llava"])]
    assert cli.main([*arguments, "--prune-ratio", "0", "--dc", "2", "--dtype", "bfloat16", "--device", "cpu"]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["model"].endswith("(llava), bfloat16 on cpu")
    assert (rows["discarded"], rows["tokens out"]) == ("0", "1, 1 of them for two tokens or more")


def test_only_the_last_logits_are_made(opened, photo):
    model, processor = opened["llava"]
    columns = []
    with model.lm_head.register_forward_pre_hook(lambda module, args: columns.append(args[0].shape[1])):
        show_model.shown(photo, model, processor, PactConfig(), PROMPT)
    assert columns == [1]
    with pact_ext.apply(model):  # and the model was given back
        pass


# --- The part of the photograph that the model saw ----------------------------------------------------------


def seen_by_model(processor, photo) -> torch.Tensor:
    """``[H, W, 3]``, 0 to 255: the whole picture as its pixel values have it."""
    pixels = processor(photo, return_tensors="pt")["pixel_values"][0]
    pixels = pixels[0] if pixels.ndim == 4 else pixels
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    return (255 * (pixels * std + mean)).permute(1, 2, 0)


@FAMILIES
@pytest.mark.parametrize("size", [SIZE, (90, 130), (64, 64), (300, 40)])
def test_part_is_what_the_pixel_values_show(family, opened, photo, size):
    check_part(opened[family][1].image_processor, photo.resize(size))


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 56, "width": 56}, "crop_size": {"height": 56, "width": 40}},
        {"size": {"height": 56, "width": 56}, "do_center_crop": False},
        {"do_resize": False, "crop_size": {"height": 50, "width": 60}},
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 56, "width": 56}},  # black around
    ],
    ids=["squeezed and cut", "squeezed", "cut", "within black"],
)
def test_part_follows_the_processors_settings(opened, photo, options):
    check_part(type(opened["llava"][1].image_processor)(**options), photo)


def test_part_of_a_padded_photograph(photo):
    processor = getattr(transformers, "LlavaImageProcessorPil", None) or transformers.LlavaImageProcessor
    options = {"do_pad": True, "image_mean": [0.01] * 3}  # what is padded is of the mean colour
    check_part(processor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}, **options), photo)


def check_part(processor, photo) -> None:
    expected = seen_by_model(processor, photo)
    part = show_model.seen(photo, processor).resize(expected.shape[1::-1], Image.Resampling.BICUBIC)
    actual = torch.frombuffer(bytearray(part.tobytes()), dtype=torch.uint8).reshape(expected.shape).float()
    wrong = photo.resize(part.size, Image.Resampling.BICUBIC)
    other = torch.frombuffer(bytearray(wrong.tobytes()), dtype=torch.uint8).reshape(expected.shape).float()
    assert (actual - expected).abs().mean() < 5  # a pixel off at an edge, by rounding
    if show_model.seen(photo, processor).size != photo.size:
        assert (other - expected).abs().mean() > 10


# --- Errors -------------------------------------------------------------------------------------------------


def fails(capsys, *arguments) -> str:
    """The one line on stderr of a command line that must fail."""
    assert cli.main(["show", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pact-ext: error: ")
    assert err.count("\n") == 1
    return err


def test_errors_are_one_line(folders, path, tmp_path, capsys):
    model = ["--model", folders["llava"]]
    output = tmp_path / "tokens.png"
    for arguments, message in (
        ([path, *model, "--output", tmp_path / "x.jpg"], "--output must end in .png"),
        ([path, *model, "--output", path], "--output would overwrite the photograph"),
        ([path, *model, "--output", tmp_path / "no" / "x.png"], "the folder of --output does not exist"),
        ([path, *model, "--output", tmp_path / ("x" * 300 + ".png")], "File name too long"),
        ([tmp_path / "no.jpg", *model, "--output", output], "there is no file"),
        ([__file__, *model, "--output", output], "is not an image that Pillow can read"),
        ([path, "--model", tmp_path / "nowhere", "--output", output], "nowhere"),
        ([path, *model, "--output", output, "--prompt", "<image>"], "image"),
    ):
        assert message in fails(capsys, *arguments)
    assert not output.exists()


def test_a_layer_that_the_model_has_not(folders, path, tmp_path):
    with pytest.raises(CommandError, match=r"^config.layer must be in 0 to 5 for this model, got 9"):
        show_model.run(path, tmp_path / "x.png", str(folders["llava"]), PactConfig(layer=9), PROMPT)
