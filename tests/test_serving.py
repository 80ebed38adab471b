"""The vLLM plugin's own logic, without vLLM: what it reads, refuses, counts and keeps, in stand-ins for vLLM's classes.

tests/vllm runs the engine itself.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest
import torch

from pact_ext import methods, ops
from pact_ext.serving import interface, plugin, refused, settings
from pact_ext.serving.rows import Rows

QUARTER = '{"method": "divprune", "keep": 0.25}'


def read(text: str) -> methods.Method | None:
    return settings.read({"PACT_VLLM": text})


@pytest.mark.parametrize(
    ("text", "method"),
    [
        (QUARTER, methods.DivPrune(keep=0.25)),
        ('{"method": "divprune", "keep": 64, "start": "isolated"}', methods.DivPrune(keep=64, start="isolated")),
        ('{"method": "random", "keep": 1.0, "seed": 3}', methods.Random(keep=1.0, seed=3)),
        ('{"method": "downsample", "pool": false}', methods.Downsample(pool=False)),
        (" ", None),
    ],
)
def test_what_is_asked_for(text, method):
    assert read(text) == method


def test_nothing_is_asked_for():
    assert settings.read({}) is None


SERVED = r"random, downsample, divprune$"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("divprune", r"PACT_VLLM must be JSON, as \{.*\}, got 'divprune': Expecting value"),
        ('["divprune"]', r"PACT_VLLM must be a JSON object with a method's name, as .*, got '\[\"divprune\"\]'"),
        ('{"keep": 0.5}', r"PACT_VLLM must be a JSON object with a method's name"),
        ('{"method": "nothing"}', rf"PACT_VLLM: no method named 'nothing'; there are {SERVED}"),
        ('{"method": "divprune", "kept": 3}', r"PACT_VLLM: divprune: arguments .* of keep, start, got 'kept=3'"),
        ('{"method": "divprune", "keep": 0}', r"PACT_VLLM: DivPrune: keep must be a share .*, got 0"),
        ('{"method": "divprune", "keep": true}', r"PACT_VLLM: DivPrune: keep must be a share .*, got True"),
        ('{"method": "divprune", "keep": [1]}', r"PACT_VLLM: keep must be a number, a word, .*, got \[1\]"),
        ('{"method": "divprune", "start": "a,keep=3"}', r"PACT_VLLM: start must be a number, a word, .*"),
        ('{"method": "fastv"}', r"cannot serve fastv: it acts inside the decoder, at layer 2, .*" + SERVED),
        ('{"method": "pact", "keep": 0.25}', r"cannot serve pact:keep=0.25: it acts inside the decoder, at layer 4"),
        ('{"method": "pact", "keep": 9, "layer": 0}', r"it needs keys, queries, turned_keys, and there is only"),
        ('{"method": "pyramiddrop"}', r"cannot serve pyramiddrop: it acts inside the decoder, at several layers"),
        ('{"method": "random", "layer": 2}', r"cannot serve random:layer=2: it acts inside the decoder, at layer 2"),
        ('{"method": "cdpruner"}', r"cannot serve cdpruner: it needs text, and there is only what the projector gives"),
        ('{"method": "dyrate"}', r"cannot serve dyrate: it acts after every token of the answer"),
        ('{"method": "vtw", "layer": 0}', r"cannot serve vtw:layer=0: it leaves no token of a picture"),
    ],
)
def test_what_cannot_be_served_is_an_error(text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


def test_a_count_that_the_data_tells_is_refused():
    class ByTheData(methods.Method):
        sites = lambda self, layers: (0,)  # noqa: E731

    assert "only the data tells" in settings.refusal(ByTheData())


def test_what_can_be_served_is_known():
    """All that the table of methods calls servable."""
    assert settings.servable() == [fact.name for fact in methods.facts() if fact.servable]


SQUARE = {"divprune": methods.DivPrune, "random": methods.Random, "downsample": methods.Downsample}


@pytest.mark.parametrize("name", SQUARE)
@pytest.mark.parametrize("keep", [0.001, 0.25, 0.3, 7, 1000, 1.0])
@pytest.mark.parametrize("n", [1, 25, 64])
def test_as_many_rows_as_placeholders(name, keep, n):
    rows, features = Rows(SQUARE[name](keep=keep), "square"), torch.randn(n, 8, dtype=torch.bfloat16)
    kept = rows.reduce(features)
    assert kept.shape == (rows.count(n), 8)
    assert kept.dtype == features.dtype
    assert torch.equal(kept, rows.reduce(features.clone()))
    if keep in (1000, 1.0):
        assert torch.equal(kept, features)


def test_rows_are_those_of_the_method():
    features = torch.randn(64, 8)
    chosen = ops.farthest_points(features, 16).sort().values
    assert torch.equal(Rows(methods.DivPrune(keep=0.25)).reduce(features), features[chosen])
    means = features.reshape(4, 2, 4, 2, 8).mean(dim=(1, 3)).reshape(16, 8)
    torch.testing.assert_close(Rows(methods.Downsample(keep=0.25), "square").reduce(features), means)


def test_a_grid_that_is_not_there():
    with pytest.raises(ValueError, match=r"downsample needs the grid of a picture's tokens, and this model cuts"):
        Rows(methods.Downsample())
    with pytest.raises(ValueError, match=r"downsample needs a picture's tokens to be a square grid, got 65 of them"):
        Rows(methods.Downsample(), "square").count(65)


# --- In the place of vLLM's classes, with as much of their interface as is used ----------------------------------

PLACEHOLDER, SEPARATOR = 7, 8


class EmbeddingItems:
    pass


@dataclasses.dataclass(frozen=True)
class Update:
    modality: str
    replacement: object


class Processor:
    counts = types.MappingProxyType({"image": (64, 25), "video": (100,)})

    def __init__(self, info, dummy_inputs):
        self.made = (info, dummy_inputs)

    def _get_prompt_updates(self, mm_items, hf_processor_mm_kwargs, out_mm_kwargs):
        of = lambda kind: lambda item: [PLACEHOLDER] * self.counts[kind][item]  # noqa: E731
        return [Update(kind, of(kind)) for kind in mm_items]


class ReducedProcessor(interface.ReducedProcessor, Processor):
    embedding_items = EmbeddingItems


class Model(torch.nn.Module):
    def __init__(self, *, vllm_config, prefix=""):
        super().__init__()
        self.embeddings, self.prefix = vllm_config, prefix

    def embed_multimodal(self, **kwargs):
        return self.embeddings


class ReducedModel(interface.ReducedModel, Model):
    pass


@pytest.fixture
def quarter(monkeypatch):
    monkeypatch.setenv("PACT_VLLM", QUARTER)


def test_the_processor_writes_as_many_placeholders_as_rows_stay(quarter):
    processor = ReducedProcessor("info", dummy_inputs="dummies")
    assert processor.made == ("info", "dummies")
    images, videos = processor._get_prompt_updates({"image": object(), "video": object()}, {}, None)
    assert [images.replacement(item) for item in (0, 1)] == [[PLACEHOLDER] * 16, [PLACEHOLDER] * 6]
    assert videos.replacement(0) == [PLACEHOLDER] * 25


def test_rows_that_a_request_brings_stay_as_they_are(quarter):
    (update,) = ReducedProcessor("info", "dummies")._get_prompt_updates({"image": EmbeddingItems()}, {}, None)
    assert len(update.replacement(0)) == 64
    given = torch.randn(2, 64, 8)
    kept = ReducedModel(vllm_config=given).embed_multimodal(image_embeds=given)
    assert torch.equal(torch.stack(kept), given)


@pytest.mark.parametrize("kind", ["batch", "ragged", "led by one"])
def test_the_model_gives_the_rows_that_stay(quarter, kind):
    rows = [torch.randn(64, 8), torch.randn(64 if kind == "batch" else 25, 8)]
    embeddings = torch.stack(rows) if kind == "batch" else [x[None] for x in rows] if "led" in kind else tuple(rows)
    model = ReducedModel(vllm_config=embeddings, prefix="outer")
    kept = model.embed_multimodal(pixel_values=torch.zeros(1))
    assert model.prefix == "outer"
    assert isinstance(kept, tuple)
    for got, full in zip(kept, rows, strict=True):
        assert torch.equal(got, Rows(methods.DivPrune(keep=0.25)).reduce(full))


def test_pictures_do_not_depend_on_those_beside_them(monkeypatch):
    monkeypatch.setenv("PACT_VLLM", '{"method": "random", "keep": 5}')
    rows = [torch.randn(25, 8), torch.randn(25, 8)]
    both = ReducedModel(vllm_config=rows).embed_multimodal()
    alone = ReducedModel(vllm_config=rows[1:]).embed_multimodal()
    assert torch.equal(both[1], alone[0])


def test_a_process_without_the_variable_is_an_error(monkeypatch):
    monkeypatch.delenv("PACT_VLLM", raising=False)
    for make in (lambda: ReducedProcessor("info", "dummies"), lambda: ReducedModel(vllm_config=None)):
        with pytest.raises(ValueError, match="PACT_VLLM must be set in every process of the engine"):
            make()


def test_a_method_that_a_model_has_no_grid_for_is_an_error_at_start(monkeypatch):
    monkeypatch.setenv("PACT_VLLM", '{"method": "downsample"}')
    with pytest.raises(ValueError, match="PACT_VLLM: downsample needs the grid"):
        ReducedProcessor("info", "dummies")


# --- The entry point -----------------------------------------------------------------------------------------------


@pytest.fixture
def vllm(monkeypatch):
    """A vLLM that registers models, and logs."""
    registered, logged = {}, []
    registry = types.ModuleType("vllm.model_executor.models.registry")
    registry._MULTIMODAL_MODELS = {**dict.fromkeys(plugin.SERVED), "Gemma3ForConditionalGeneration": None}
    registry._TRANSFORMERS_BACKEND_MODELS = {"TransformersForCausalLM": None, "TransformersMultiModalForCausalLM": None}
    registry.ModelRegistry = types.SimpleNamespace(register_model=registered.__setitem__)
    models = types.ModuleType("vllm.model_executor.models")
    models.registry = registry
    logger = types.ModuleType("vllm.logger")
    logger.init_logger = lambda name: types.SimpleNamespace(info=lambda *message: logged.append((name, *message)))
    package = types.ModuleType("vllm")
    package.__version__ = "0.32.0"
    for module in (package, types.ModuleType("vllm.model_executor"), models, registry, logger):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return types.SimpleNamespace(package=package, registered=registered, logged=logged)


def test_every_served_model_is_registered_and_every_other_refused(vllm, quarter):
    plugin.register()
    others = ("Gemma3ForConditionalGeneration", "TransformersMultiModalForCausalLM")
    assert vllm.registered == plugin.SERVED | {name: f"pact_ext.serving.refused:{name}" for name in others}
    ((name, message, *arguments),) = vllm.logged
    assert name.startswith("vllm.")
    assert "divprune:keep=0.25" in message % tuple(arguments)


def test_vllm_stays_as_it_is_when_nothing_is_asked_for(vllm, monkeypatch):
    monkeypatch.delenv("PACT_VLLM", raising=False)
    vllm.package.__version__ = "0.99.0"
    plugin.register()
    assert not vllm.registered


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "0.320.0", "1.0", "dev"])
def test_an_unknown_version_is_refused_by_name(vllm, quarter, version):
    vllm.package.__version__ = version
    with pytest.raises(RuntimeError, match=rf"knows vLLM 0\.32\.\*, this is {version}\. Install .* or unset"):
        plugin.register()
    assert not vllm.registered


def test_a_budget_that_cannot_be_served_is_refused_before_anything_is_registered(vllm, monkeypatch):
    monkeypatch.setenv("PACT_VLLM", '{"method": "fastv"}')
    with pytest.raises(ValueError, match="cannot serve fastv"):
        plugin.register()
    assert not vllm.registered


def test_a_refused_model_is_named():
    with pytest.raises(ValueError, match="Gemma3ForConditionalGeneration is not served .* Llava.* Unset"):
        refused.Gemma3ForConditionalGeneration  # noqa: B018


def test_the_entry_point_is_declared():
    declared = '[project.entry-points."vllm.general_plugins"]\npact_ext = "pact_ext.serving.plugin:register"\n'
    assert declared in (Path(__file__).parents[1] / "pyproject.toml").read_text()
