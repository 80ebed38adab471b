"""Methods with weights: LLaMA-VID and DyRate, held to their papers' formulas written out."""

import math

import pytest
import torch

from pact_ext import methods
from pact_ext.methods import ContextAttention, DyRate, Encoder, Grid, LlamaVID, RateClassifier, Step, View
from pact_ext.methods.trained import resolved


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def module(text=6, vision=5, hidden=6):
    torch.manual_seed(1)
    return ContextAttention(text, vision, hidden).double()


PROJECT = normal(5, 6, seed=9)


def view(method, grids, text=4, tail=3, seed=0):
    n = sum(rows * columns for rows, columns in grids)
    places, first = [], 0
    for rows, columns in grids:
        places.append(Grid(torch.arange(first, first + rows * columns), rows, columns))
        first += rows * columns
    encoder = Encoder(None, None, [], normal(n, 5, seed=seed), lambda x: x @ PROJECT)
    return View(
        normal(n, 6, seed=seed + 1),
        needs=method.needs,
        grids=places,
        text=normal(text, 6, seed=seed + 2),
        tail=tail,
        encoder=encoder,
    )


def expected(view, weights, side):
    """The tokens of each picture: equation 1 of LLaMA-VID and its pooling, token by token."""
    out, features = [], view.encoder.features
    text = view.text[len(view.text) - view.tail :] if view.tail else view.text
    for places, rows, columns, _ in view.grids:
        x = features[places]
        context = torch.zeros(x.shape[1], dtype=x.dtype)
        for word in text:
            query = weights["query.weight"] @ word + weights["query.bias"]
            keys = [weights["key.weight"] @ one + weights["key.bias"] for one in x]
            logits = torch.stack([query @ key for key in keys]) / math.sqrt(x.shape[1])
            share = logits.exp() / logits.exp().sum()
            context += sum(s * one for s, one in zip(share, x, strict=True)) / len(text)
        out.append(weights["value.weight"] @ context + weights["value.bias"])
        for i in range(side):
            for j in range(side):
                own = [
                    x[r * columns + c]
                    for r in range(i * rows // side, -(-(i + 1) * rows // side))
                    for c in range(j * columns // side, -(-(j + 1) * columns // side))
                ]
                out.append(torch.stack(own).mean(dim=0) @ PROJECT)
    return torch.stack(out)


@pytest.mark.parametrize("tail", [3, 0])
@pytest.mark.parametrize(
    ("keep", "grids", "side"),
    [
        (2, [(4, 4)], 1),
        (5, [(4, 4)], 2),
        (0.6, [(5, 3)], 2),
        (1, [(2, 2)], 0),
        (2, [(1, 1)], 0),
        (5, [(3, 3), (4, 2)], 2),
    ],
)
def test_llama_vid(keep, grids, side, tail):
    own = module()
    method = LlamaVID(keep=keep, weights=own)
    seen = view(method, grids, tail=tail)
    found = method.select(seen)
    assert (found.hidden - expected(seen, own.state_dict(), side)).abs().max() < 1e-12
    assert len(found.kept) == len(grids) * (1 + side * side)
    assert [method.count(rows * columns) for rows, columns in grids] == len(grids) * [1 + side * side]
    assert (found.kept[1:] > found.kept[:-1]).all()
    assert [int(grid.places[0]) in found.kept for grid in seen.grids] == len(grids) * [True]


def test_llama_vid_of_tiles_whose_rows_end_in_a_token():
    """It is what it would be without those."""
    plain = LlamaVID(keep=2, weights=module())
    seen = view(plain, [(2, 3)])
    expected = plain.select(seen)
    where = torch.tensor([0, 1, 2, 4, 5, 6])
    encoder = Encoder(None, None, [], seen.encoder.features, seen.encoder.project, places=where)
    ended = View(
        normal(8, 6),
        needs=plain.needs,
        grids=[Grid(where, 2, 3, torch.tensor([3, 7]))],
        text=seen.text,
        tail=seen.tail,
        encoder=encoder,
    )
    found = plain.select(ended)
    assert torch.equal(found.hidden, expected.hidden)
    assert torch.equal(found.kept, where[expected.kept])


def test_llama_vid_refuses():
    for weights, message in (
        (module(text=7), "llama-vid: weights must be for text of width 6, got text=7"),
        (module(vision=4), "llama-vid: weights must be for features of width 5, got vision=4"),
    ):
        method = LlamaVID(weights=weights)
        with pytest.raises(ValueError, match=message):
            method.select(view(method, [(2, 2)]))
    method = LlamaVID(weights=module())
    with pytest.raises(ValueError, match="llama-vid: the row must have text tokens, got none"):
        method.select(view(method, [(2, 2)], text=0, tail=0))
    with pytest.raises(TypeError, match="llama-vid: weights must be a ContextAttention or a path, got RateClassifier"):
        _ = LlamaVID(weights=RateClassifier()).module


# --- DyRate ---------------------------------------------------------------------------------------------------------


def classifier(rate, rates):
    found = RateClassifier(rates=rates)
    with torch.no_grad():
        found.net[-1].weight.zero_()
        found.net[-1].bias.copy_(torch.arange(rates) == rate)
    return found


@pytest.mark.parametrize(
    ("n_first", "n", "rate", "rates", "wanted"),
    [(10, 10, 0, 4, 10), (10, 10, 1, 4, 8), (10, 9, 3, 4, 3), (10, 3, 1, 4, 3), (1, 1, 3, 4, 1), (7, 7, 9, 10, 1)],
)
def test_dyrate_leaves_the_most_attended(n_first, n, rate, rates, wanted):
    received = torch.rand(n, generator=torch.Generator().manual_seed(n))
    kept = DyRate(weights=classifier(rate, rates)).evict(Step(received, torch.full((3, 4), 0.25), n_first))
    if wanted >= n:
        assert kept is None
    else:
        order = sorted(range(n), key=lambda i: (-float(received[i]), i))
        assert kept.tolist() == sorted(order[:wanted])


def test_a_classifier_looks_at_every_layer_or_at_their_mean():
    shares = normal(2, 3, 4).float()
    mean, every = RateClassifier(rates=5), RateClassifier(rates=5, layers=3)
    assert torch.allclose(mean(shares), mean(shares.mean(dim=1, keepdim=True)))
    assert every(shares).shape == (2, 5)
    assert (every(shares) - every(shares.flip(1))).abs().max() > 1e-4
    with pytest.raises(ValueError, match="RateClassifier: layers must be the decoder's 2, got 3"):
        every(shares[:, :2])


def test_the_training_mask_is_a_mixture_of_the_rates_masks():
    """Gumbel-softmax at a low temperature draws one rate, each as often as it is likely; at any, the sum is soft."""
    scores, generator = torch.tensor([0.1, 0.5, 0.3, 0.5, 0.2]), torch.Generator().manual_seed(0)
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(4000, 3)
    masks = methods.training_mask(logits, scores, temperature=1e-3, generator=generator)
    by_rate = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 0, 1, 0]]).float()  # of 5: 5, 3, 2
    which = (masks[:, None] - by_rate).abs().sum(dim=-1).min(dim=1)
    assert (which.values < 0.01).float().mean() > 0.98
    assert (torch.bincount(which.indices) / 4000 - torch.tensor([0.2, 0.5, 0.3])).abs().max() < 0.03
    soft = methods.training_mask(logits[:1], scores, generator=generator)
    assert soft[0, 1] == pytest.approx(1)
    assert 0 < soft[0, 0] < soft[0, 2] < 1
    again = [methods.training_mask(logits[:1], scores, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    assert torch.equal(*again)


def test_the_training_bias_scales_attention_off_the_diagonal():
    mask, visual = torch.tensor([[0.25, 1.0, 0.5]]).double(), torch.tensor([[1, 2, 4]])
    bias = methods.training_bias(mask, visual, 6)
    scores = normal(6, 6)
    factors = torch.ones(6, 6).double()
    factors[:, [1, 2, 4]] = mask
    factors.fill_diagonal_(1)
    weights = (scores.exp() * factors).tril()
    assert ((scores + bias[0, 0]).softmax(dim=1) - weights / weights.sum(dim=1, keepdim=True)).abs().max() < 1e-12


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [module(), RateClassifier(rates=3, layers=2, width=5)], ids=lambda x: type(x).__name__)
def test_weights_come_back_from_their_file(own, tmp_path):
    own.save(tmp_path / "weights.safetensors")
    again = resolved(str(tmp_path / "weights.safetensors"), type(own), "any")
    assert again.arguments == own.arguments
    for name, value in own.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
        assert again.state_dict()[name].dtype == value.dtype


def test_files_of_something_else(tmp_path):
    RateClassifier().save(tmp_path / "rates")
    (tmp_path / "damaged").write_bytes((tmp_path / "rates").read_bytes()[:-9])
    for name, message in (("rates", "got one of RateClassifier"), ("damaged", "")):
        with pytest.raises(ValueError, match=f"path must be a file that ContextAttention.save has written.*{message}"):
            ContextAttention.load(tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match=r"ContextAttention.load: path must be a file that save\(\) has written"
    ):
        ContextAttention.load(tmp_path / "missing")
    assert methods.parse(f"dyrate:weights={tmp_path}/rates").module.arguments == RateClassifier().arguments
