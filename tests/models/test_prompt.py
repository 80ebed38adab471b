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


@pytest.mark.parametrize(("per_image", "wanted"), [(False, [[1, 2, 4, 5, 8]]), (True, [[1, 2, 4], [5, 8]])])
def test_groups(per_image, wanted):
    model = tiny.build("llava", layers=1)
    ids = torch.full((2, 10), 5)
    ids[0, [1, 2, 4, 5, 8, 9]] = tiny.IMAGE
    present = torch.ones(2, 10, dtype=torch.bool)
    present[0, 9] = False  # a placeholder in the padding is none
    features = {"image": SimpleNamespace(pooler_output=[torch.zeros(3, 64), torch.zeros(3, 64)])}
    given = {"input_ids": ids, "mm_encoder_outputs": features}
    found = prompt.read(model.model, FAMILIES["llava"], given, present, per_image)
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
