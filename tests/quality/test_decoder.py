"""What the decoder can do before it is trained: find what is alike, and look back."""

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", minversion="4.57", reason="the small model is one of transformers")

from bench.quality.batches import HEAD, embedded, pack, told
from bench.quality.decoder import BACK
from bench.quality.model import build
from bench.quality.scenes import scene
from bench.quality.words import COLORS, GLYPHS, ID


@pytest.fixture(scope="module")
def looked():
    """Of one scene, the ids of its questions, what its patches are told to be, and each layer's attention."""
    one, model = next(one for one in map(scene, range(99)) if len(one.things) > 5), build(0)
    model.set_attn_implementation("eager")
    words, labels = model.get_input_embeddings(), torch.from_numpy(told(one))
    batch = pack([one.questions], np.arange(len(labels))[None])
    embeds = torch.cat([words(torch.tensor([HEAD])), embedded(labels, words.weight)[None], words(batch.ids)], dim=1)
    bias = torch.where(batch.mask, 0.0, torch.finfo(torch.float32).min)[:, None]
    with torch.no_grad():
        decoder = model.model.language_model
        found = decoder(
            inputs_embeds=embeds, attention_mask=bias, position_ids=batch.places, output_attentions=True
        ).attentions
    return batch, labels, [one[0] for one in found]


def test_a_word_finds_the_tokens_that_hold_it(looked):
    """The first head of each pair gives each token that holds the word asked for over twice an even share of all."""
    batch, labels, (attention, *_) = looked
    first = len(HEAD) + len(labels)
    gains = []
    for row, word in enumerate(batch.ids[0].tolist()):
        holds = (labels == word).any(dim=1)
        if word in {ID[name] for name in (*GLYPHS, *COLORS)} and holds.any():
            seen = attention[::2, first + row, len(HEAD) : first]
            even = 1 / int(batch.mask[0, first + row].sum())
            gains.append(seen[:, holds].mean(dim=1) / even)
    assert len(gains) > 5
    assert (torch.stack(gains).mean(dim=0) > 2).all()


def test_other_heads_look_back(looked):
    """The second head of each pair looks most at its own number of words before, where the question goes so far."""
    batch, labels, attention = looked
    first = len(HEAD) + len(labels)
    longest = [row for row in range(6, batch.ids.shape[1]) if batch.mask[0, first + row, first + row - 6]]
    assert longest
    for layer in attention[:2]:
        for head, back in enumerate(BACK):
            places = layer[2 * head + 1, first + torch.tensor(longest)].argmax(dim=1)
            hits = [int(place) == first + row - back for place, row in zip(places, longest, strict=True)]
            assert np.mean(hits) > 0.5  # the words push some elsewhere; by chance it is 1 in 300
