"""Position ids of three dimensions in the vLLM plugin, without vLLM: stand-ins for its classes of Qwen's interface.

tests/vllm runs the engine itself.
"""

from __future__ import annotations

import dataclasses
import types

import numpy as np
import pytest
import torch

from pact_ext import methods
from pact_ext.serving import rope
from pact_ext.serving.rows import Rows

IMAGE, VIDEO, START, END = 90, 91, 92, 93
MERGE, WIDTH = 2, 16


def element(data) -> types.SimpleNamespace:
    return types.SimpleNamespace(data=data)


def item(modality: str, shape: rope.Shape, seconds: float | None = None) -> dict:
    """What a processor tells of a picture or a video."""
    grid = torch.tensor([shape.frames, MERGE * shape.rows, MERGE * shape.columns])
    more = {} if seconds is None else {"second_per_grid_ts": element(torch.tensor(seconds))}
    return {f"{modality}_grid_thw": element(grid), **more}


CONFIG = types.SimpleNamespace(
    image_token_id=IMAGE,
    video_token_id=VIDEO,
    vision_config=types.SimpleNamespace(spatial_merge_size=MERGE, tokens_per_second=2),
)


class Model(torch.nn.Module):
    """Its vision tower gives what `towers` says."""

    def __init__(self, *, vllm_config, prefix=""):
        super().__init__()
        self.config = CONFIG

    def _parse_and_validate_multimodal_inputs(self, **kwargs):
        return kwargs

    def _process_image_input(self, fields):
        return fields["rows"]

    _process_video_input = _process_image_input


class Together(rope.ReducedRopeModel, Model):
    pass


class Apart(rope.ReducedRopeModel, Model):
    frames_apart = True


def settings_of(rate: float = 0.0, graphs: bool = False) -> types.SimpleNamespace:
    multimodal = types.SimpleNamespace(video_pruning_rate=rate, is_multimodal_pruning_enabled=lambda: False)
    return types.SimpleNamespace(
        model_config=types.SimpleNamespace(multimodal_config=multimodal),
        compilation_config=types.SimpleNamespace(cudagraph_mm_encoder=graphs),
    )


@pytest.fixture
def model_of(monkeypatch):
    def make(cls: type, budget: str) -> rope.ReducedRopeModel:
        monkeypatch.setenv("PACT_VLLM", budget)
        return cls(vllm_config=settings_of())

    return make


def columns_by_hand(tokens: list[int], shapes: list[rope.Shape], apart: bool) -> tuple[np.ndarray, int]:
    """Of the whole prompt, token by token; and the position behind it. `shapes`: of its runs of placeholders."""
    columns, behind, at, shapes = [], 0, 0, list(shapes)
    while at < len(tokens):
        if tokens[at] not in (IMAGE, VIDEO):
            columns.append((behind,) * 3)
            behind, at = behind + 1, at + 1
            continue
        frames, rows, width, pace = shapes.pop(0)
        places = [(int(t * pace), r, c) for t in range(frames) for r in range(rows) for c in range(width)]
        columns += [tuple(behind + x for x in place) for place in places]
        behind, at = behind + 1 + max(map(max, places)), at + len(places)
    return np.array(columns).T, behind


PICTURES = [rope.Shape(1, 3, 5), rope.Shape(1, 7, 2), rope.Shape(1, 1, 1)]
CLIP = rope.Shape(3, 2, 4, 2.5)


def conversation(apart: bool) -> tuple[list[int], list, list, list[rope.Shape]]:
    """A prompt's tokens with all placeholders, its items, their numbers of frames of their own, and shapes of runs."""
    tokens, items, runs = [5, START], [], []
    for shape in PICTURES:
        tokens += [IMAGE] * (shape.rows * shape.columns) + ([END, 6, START] if shape.rows != 7 else [])
        items.append(("image", shape, None))
        runs.append(shape)
    frame = CLIP._replace(frames=1)
    for part in [frame] * CLIP.frames if apart else [CLIP]:
        tokens += [7, START] + [VIDEO] * (part.frames * 8) + [END]
        runs.append(part)
    items.append(("video", CLIP, 1.25))
    return [*tokens, 8, 9], items, runs


def reduced_prompt(model, tokens, items, apart):
    """The prompt as the engine sees it, its items with where they begin, and the model's rows of each."""
    prompt, features, rows, at = [], [], [], 0
    generator = torch.Generator().manual_seed(0)
    for modality, shape, seconds in items:
        mark = IMAGE if modality == "image" else VIDEO
        n = shape.frames * shape.rows * shape.columns
        whole = torch.randn(n, WIDTH, generator=generator)
        data = item(modality, shape, seconds)
        fields = {"type": "pixel_values", "rows": [whole]} | {k: [v.data] for k, v in data.items()}
        (own,) = model.embed_multimodal(**{modality: fields})
        while tokens[at] != mark:
            prompt.append(tokens[at])
            at += 1
        begin = len(prompt)
        pieces = shape.frames if apart else 1
        for piece in range(pieces):
            prompt += [mark] * (len(own) // pieces)
            at += n // pieces
            while piece < pieces - 1 and tokens[at] != mark:
                prompt.append(tokens[at])
                at += 1
        place = types.SimpleNamespace(offset=begin, length=len(prompt) - begin)
        features.append(types.SimpleNamespace(modality=modality, data=data, mm_position=place))
        rows.append((whole, own))
    return prompt + tokens[at:], features, rows


@pytest.mark.parametrize("cls", [Together, Apart])
@pytest.mark.parametrize("chunk", [1000, 7, 1])
def test_what_stays_keeps_its_column_and_text_counts_on_as_behind_the_whole(cls, chunk, model_of):
    """Whatever the chunks of the prompt, and when the engine asks once more for some of them."""
    model, apart = model_of(cls, '{"method": "random", "keep": 0.5}'), cls is Apart
    tokens, items, runs = conversation(apart)
    expected, behind = columns_by_hand(tokens, runs, apart)
    prompt, features, rows = reduced_prompt(model, tokens, items, apart)
    positions, ahead = model.get_mrope_input_positions(prompt, features)
    assert ahead == behind - len(prompt)

    is_placeholder = torch.tensor([token in (IMAGE, VIDEO) for token in prompt])
    given = torch.cat([own for _, own in rows])
    for begin in [*range(0, len(prompt), chunk), 0, min(7, len(prompt) - 1)]:
        before, within = int(is_placeholder[:begin].sum()), int(is_placeholder[begin : begin + chunk].sum())
        chunks = [x for x in given[before : before + within].split(3) if len(x)]
        clean, positions, ahead = model.recompute_mrope_positions(prompt, chunks, positions, begin)
        assert all(torch.equal(x, y[:, :WIDTH]) for x, y in zip(clean, chunks, strict=True))
    assert ahead == behind - len(prompt)

    kept = torch.ones(len(tokens), dtype=torch.bool)
    places = torch.tensor([token in (IMAGE, VIDEO) for token in tokens]).nonzero().flatten()
    for whole, own in rows:
        here, places = places[: len(whole)], places[len(whole) :]
        kept[here] = (whole[:, None] == own[None, :, :WIDTH]).all(dim=2).any(dim=1)
    assert torch.equal(positions, torch.from_numpy(expected)[:, kept])


def test_text_alone_counts_from_zero(model_of):
    model = model_of(Together, '{"method": "random"}')
    positions, ahead = model.get_mrope_input_positions([1, 2, 3], [])
    assert (positions.tolist(), ahead) == ([[0, 1, 2]] * 3, 0)
    assert model.recompute_mrope_positions([1, 2, 3], [], positions, 3)[2] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_places_are_exact_in_every_dtype(dtype):
    places = torch.tensor([[0, 127, 128], [255, 256, 257], [16383, 9999, 4096]])
    rows = torch.randn(3, WIDTH).to(dtype)
    clean, found = rope.without_places(rope.with_places(rows, places))
    assert torch.equal(clean, rows)
    assert torch.equal(found, places)


@pytest.mark.parametrize("pool", [True, False])
def test_features_of_deeper_layers_go_where_their_tokens_go(pool, model_of):
    model = model_of(Apart, f'{{"method": "downsample", "pool": {str(pool).lower()}}}')
    model.visual_dim = WIDTH
    shape = rope.Shape(2, 4, 6)
    rows = torch.randn(48, 3 * WIDTH)
    (own,) = model.embed_multimodal(
        video={"type": "pixel_values_videos", "rows": [rows], "video_grid_thw": [torch.tensor([2, 8, 12])]}
    )
    assert own.shape == (2 * 6, 3 * WIDTH + 6)
    for frame, found in zip(rows.chunk(2), own.chunk(2), strict=True):
        selection = Rows(methods.Downsample(pool=pool), "grids").choose(frame[:, :WIDTH], shape.grids[:1])
        labels = selection.labels
        expected = torch.stack([frame[labels == k].mean(dim=0) for k in range(6)]) if pool else frame[selection.kept]
        torch.testing.assert_close(found[:, :-6], expected)
        assert torch.equal(rope.without_places(found)[1], shape._replace(frames=1).places()[selection.kept])


@pytest.mark.parametrize("cls", [Together, Apart])
def test_rows_that_a_request_brings_all_stay(cls, model_of):
    model, rows = model_of(cls, '{"method": "random", "keep": 1}'), torch.randn(48, WIDTH)
    (own,) = model.embed_multimodal(
        videos={"type": "video_embeds", "rows": [rows], "video_grid_thw": [torch.tensor([2, 8, 12])]}
    )
    assert torch.equal(own[:, :-6], rows)


# --- The processor -------------------------------------------------------------------------------------------------


class Processor:
    info = types.SimpleNamespace(get_hf_config=lambda: CONFIG)


@dataclasses.dataclass(frozen=True)
class Replacement:
    full: list[int]


class TogetherProcessor(rope.ReducedGridProcessor, Processor):
    pass


class ApartProcessor(rope.ReducedGridProcessor, Processor):
    frames_apart = True


@pytest.mark.parametrize("budget", ['{"method": "random", "keep": 0.5}', '{"method": "downsample", "keep": 0.3}'])
def test_as_many_placeholders_as_rows(budget, model_of, monkeypatch):
    shape, rows = rope.Shape(3, 4, 6), torch.randn(72, WIDTH)
    fields = {"type": "pixel_values_videos", "rows": [rows], "video_grid_thw": [torch.tensor([3, 8, 12])]}
    given = {"video": [item("video", shape)]}
    (own,) = model_of(Together, budget).embed_multimodal(video=fields)
    processor = TogetherProcessor()
    tokens = processor._fewer([VIDEO] * 72, processor._grids(given, "video", 0))
    assert tokens == [VIDEO] * len(own)

    (own,) = model_of(Apart, budget).embed_multimodal(video=fields)
    processor = ApartProcessor()
    tokens = processor._fewer(Replacement([3, START, *[VIDEO] * 24, END] * 3), processor._grids(given, "video", 0))
    assert tokens.full == [3, START, *[VIDEO] * (len(own) // 3), END] * 3


# --- At start ------------------------------------------------------------------------------------------------------


def test_the_engine_is_told_that_rows_bring_their_places(monkeypatch):
    monkeypatch.setenv("PACT_VLLM", '{"method": "random"}')
    given = settings_of()
    Together(vllm_config=given)
    assert given.model_config.multimodal_config.is_multimodal_pruning_enabled()
    Together(vllm_config=given)  # of a second model beside it


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (settings_of(rate=0.3), "PACT_VLLM: --video-pruning-rate takes tokens away as well, got 0.3: ask for one"),
        (settings_of(graphs=True), "PACT_VLLM: cudagraph_mm_encoder runs the vision tower without .* leave it off"),
    ],
    ids=["two reductions", "graphs of the tower"],
)
def test_what_would_get_in_the_way_is_an_error_at_start(given, message, monkeypatch):
    monkeypatch.setenv("PACT_VLLM", '{"method": "random"}')
    with pytest.raises(ValueError, match=message):
        Together(vllm_config=given)
