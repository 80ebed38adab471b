"""What a call brings: its arguments by name, its padding by any mask, its visual tokens in groups."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the tests of models need transformers")

from models import tiny
from pact_ext.models import prompt
from pact_ext.models.families import FAMILIES


def test_arguments_by_position_by_name_and_beyond_the_signature():
    def forward(self, input_ids=None, pixel_values=None, **kwargs): ...

    assert prompt.arguments(forward, ("self", 1), {"pixel_values": 2, "more": 3}) == {
        "self": "self",
        "input_ids": 1,
        "pixel_values": 2,
        "more": 3,
    }


LOW = torch.finfo(torch.float32).min
SEEN = [[False, True, True, True], [True, True, True, False]]  # the second row's last token is itself padding
WANTED = [[True, True], [True, False]]


@pytest.mark.parametrize(
    "mask",
    [
        torch.tensor(SEEN),
        torch.tensor(SEEN).long(),
        torch.tensor(SEEN)[:, None, None].expand(-1, -1, 2, -1),
        torch.where(torch.tensor(SEEN), 0.0, LOW)[:, None, None].expand(-1, -1, 2, -1),
    ],
    ids=["2-D bool", "2-D integer", "4-D bool", "4-D float"],
)
def test_presence(mask):
    """Two tokens that follow two others."""
    assert prompt.presence(mask, 2, 2).tolist() == WANTED
    assert prompt.presence({"full_attention": mask, "sliding_attention": None}, 2, 2).tolist() == WANTED


def test_presence_in_a_static_caches_mask():
    """Its columns go on where nothing is written yet; only the last query sees all of this call."""
    causal = torch.ones(1, 1, 2, 6, dtype=torch.bool).tril(2)
    assert prompt.presence(causal, 2, 2).tolist() == [[True, True]]
    assert prompt.presence(causal.where(torch.arange(6) != 3, False), 2, 2).tolist() == [[True, False]]


@pytest.mark.parametrize("mask", [None, {}, {"full_attention": None}])
def test_presence_without_a_mask(mask):
    assert prompt.presence(mask, 0, 2) is None


@pytest.mark.parametrize(("per_image", "wanted"), [(False, [[1, 2, 4, 5, 8]]), (True, [[1, 2, 4], [5, 8]])])
def test_groups(per_image, wanted):
    model = tiny.build("llava", layers=1)
    ids = torch.full((2, 10), 5)
    ids[0, [1, 2, 4, 5, 8, 9]] = tiny.IMAGE
    mask = torch.ones(2, 10)
    mask[0, 9] = 0  # a token that the mask hides is left out
    features = {"image": SimpleNamespace(pooler_output=[torch.zeros(3, 64), torch.zeros(3, 64)])}
    given = {"input_ids": ids, "attention_mask": mask, "mm_encoder_outputs": features}
    found = prompt.read(model.model, FAMILIES["llava"], given, 0, per_image)
    assert [group.tolist() for group in found.visual[0]] == wanted
    assert found.visual[1] == []


def test_images_are_brought_by_pixels_or_by_features():
    family = FAMILIES["llava"]
    assert prompt.brings_images(family, {"pixel_values": torch.zeros(1)})
    assert prompt.brings_images(family, {"pixel_values_videos": torch.zeros(1)})
    assert prompt.brings_images(family, {"pixel_values": None, "mm_encoder_outputs": {"image": object()}})
    assert not prompt.brings_images(family, {"pixel_values": None, "mm_encoder_outputs": {"image": None}})
    assert not prompt.brings_images(family, {"mm_encoder_outputs": {}})
    assert prompt.brings_images(FAMILIES["idefics3"], {"image_hidden_states": torch.zeros(1)})
