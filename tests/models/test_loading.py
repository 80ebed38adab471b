"""From a name to a model with its inputs: what is loaded, how a prompt is made, and what is said when it cannot be."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")
pytest.importorskip("PIL", reason="images need the extra: pip install 'pact-ext[models]'")

import huggingface_hub.constants
import transformers
from PIL import Image

from models import checkpoints, tiny
from pact_ext.models.loading import device_of, dtype_of, load, prepare, preset_for

FAMILIES = pytest.mark.parametrize("family", checkpoints.CHECKPOINTS)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(transformers.utils.hub, "_is_offline_mode", True, raising=False)  # up to transformers 4


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("checkpoints")
    return {family: make(parent / family) for family, make in checkpoints.CHECKPOINTS.items()}


@pytest.fixture(scope="module")
def image():
    return Image.linear_gradient("L").resize((130, 90))  # grey: `prepare` makes it RGB


def edited(folder, tmp_path, **changes):
    """A folder that holds only the configuration of a checkpoint, changed."""
    known = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | changes))
    return tmp_path


@FAMILIES
def test_load_gives_the_saved_weights_ready_to_run(folders, family):
    model, processor = load(str(folders[family]))
    saved = transformers.AutoModelForImageTextToText.from_pretrained(folders[family], dtype=torch.float32)
    assert model.config.model_type == family
    assert not model.training
    assert (model.dtype, model.device.type) == (dtype_of(None, model.device), device_of(None).type)
    if model.device.type == "cpu":
        mine = model.state_dict()
        assert all(torch.equal(mine[name], value) for name, value in saved.state_dict().items())
    assert type(processor).__name__.lower().startswith(family.replace("_", ""))


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_load_takes_dtype_device_and_attention(folders, dtype):
    model, _ = load(folders["llava"], device="cpu", dtype=dtype, attn_implementation="eager")
    assert model.dtype == {"bfloat16": torch.bfloat16}.get(dtype, dtype)
    assert model.device.type == "cpu"
    assert model.model.language_model.config._attn_implementation == "eager"


@FAMILIES
@pytest.mark.parametrize("template", [True, False])
def test_prepare_places_every_image_before_the_prompt(folders, family, template, image):
    model, processor = load(folders[family])
    if not template:
        processor.chat_template = None
    inputs = prepare(model, processor, [image, image], "What is it?")
    ids = inputs["input_ids"]
    text = processor.tokenizer.decode(ids[ids != model.config.image_token_id])
    expected = "USER: \n\nWhat is it? ASSISTANT:" if template else "\n\nWhat is it?"
    assert text.removeprefix("<s>").strip() == expected.strip()
    single = prepare(model, processor, [image], "What is it?")["input_ids"]
    tokens = int((single == model.config.image_token_id).sum())
    assert tokens == 64 if family == "llava" else tokens > 64
    assert int((ids == model.config.image_token_id).sum()) == 2 * tokens
    assert {value.device for value in inputs.values()} == {model.device}
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()


def test_prepare_fits_the_pixels_to_the_model(folders, image):
    model, processor = load(folders["llava"], device="cpu", dtype="bfloat16")
    processor.image_processor.do_convert_rgb = False
    pixels = prepare(model, processor, [image], "What is it?")["pixel_values"]
    assert (pixels.dtype, pixels.shape) == (torch.bfloat16, (1, 3, checkpoints.SIDE, checkpoints.SIDE))


def test_prompt_refuses_placeholders_and_no_images(folders, image):
    model, processor = load(folders["llava"])
    with pytest.raises(ValueError, match="prompt must be text alone, got one with <image> in it"):
        prepare(model, processor, [image], "Is <image> it?")
    with pytest.raises(ValueError, match="at least one image, got none"):
        prepare(model, processor, [], "What?")


def test_wrong_devices_and_dtypes():
    with pytest.raises(ValueError, match=r"device must be cpu, or cuda .*got tpu9"):
        device_of("tpu9")
    with pytest.raises(ValueError, match=r"got meta"):
        device_of("meta")
    with pytest.raises(ValueError, match=rf"\(here: {torch.cuda.device_count()}\), got cuda:64"):
        device_of("cuda:64")
    with pytest.raises(ValueError, match="dtype must be one of bfloat16, float16, float32, got int8"):
        dtype_of("int8", torch.device("cpu"))
    with pytest.raises(ValueError, match=r"got torch\.int8"):
        dtype_of(torch.int8, torch.device("cpu"))
    assert dtype_of(None, torch.device("cuda")) == torch.bfloat16
    assert dtype_of(None, torch.device("cpu")) == torch.float32


def test_what_is_no_checkpoint_is_told(folders, tmp_path):
    for name in ("./nowhere", "/nowhere", "a/b/c", str(folders["llava"] / "config.json")):
        with pytest.raises(ValueError, match=f"there is no folder {name}"):
            load(name)
    with pytest.raises(ValueError, match="must hold config.json"):
        load(tmp_path)
    with pytest.raises(ValueError, match="there is no such folder, and the configuration of no/such cannot be loaded"):
        load("no/such")


def test_damaged_weights_are_told(folders, tmp_path):
    folder = shutil.copytree(folders["llava"], tmp_path / "cut")
    (weights,) = folder.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="the model of .*cut cannot be loaded: .*header"):
        load(folder)


def test_other_models_are_refused_before_their_weights(folders, tmp_path):
    transformers.LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be of a known family \(.*llava, .*\), got 'llama'"):
        load(tmp_path)
    with pytest.raises(ValueError, match=r"in the format of transformers .*got LlavaLlamaForCausalLM"):
        load(edited(folders["llava"], tmp_path, architectures=["LlavaLlamaForCausalLM"]))


def test_a_model_without_its_processor_is_told(folders, tmp_path):
    with pytest.raises(ValueError, match=rf"the processor of {tmp_path} cannot be loaded|must come with its processor"):
        load(edited(folders["llava"], tmp_path))


def test_a_processor_that_needs_torchvision_says_so(tmp_path):
    if transformers.utils.is_torchvision_available():
        pytest.skip("torchvision is here")
    tiny.build("qwen2_vl").config.save_pretrained(tmp_path)
    checkpoints.tokenizer().save_pretrained(tmp_path)
    kind = {"image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(kind))
    with pytest.raises(ImportError, match=f"the processor of {tmp_path} needs torchvision: pip install torchvision"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "preset"),
    [("llava", "llava-onevision-7b"), ("llava_onevision", "llava-onevision-7b"), ("qwen2_5_vl", "qwen2-vl-7b")],
)
def test_preset_for(tmp_path, family, preset):
    tiny.build(family).config.save_pretrained(tmp_path)
    assert preset_for(tmp_path) == preset
