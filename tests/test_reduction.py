"""PactConfig and pact_ext.reduce."""

import dataclasses
import math

import pytest
import torch
from data import clustered

import pact_ext
from pact_ext import PRESETS, PactConfig, ops, reference


def tensors(n=120):
    return torch.randn(n, 24), clustered(n, 32, noise=0.3).view(n, 2, 16), torch.randn(n, 4, 16)


def test_published_presets():
    assert PactConfig.preset("llava-onevision-7b") == PactConfig(
        prune_ratio=0.45, dc=0.21, dn=2.0, alpha=1.5, gaussian=True, layer=4
    )
    assert PactConfig.preset("qwen2-vl-7b") == PactConfig(
        prune_ratio=0.20, dc=0.10, dn=2.0, alpha=1.5, gaussian=True, layer=4
    )
    assert PactConfig.preset("qwen2-vl-7b", alpha=0.5, layer=2) == PactConfig(
        prune_ratio=0.20, dc=0.10, alpha=0.5, layer=2
    )
    assert set(PRESETS) == {"llava-onevision-7b", "qwen2-vl-7b"}


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PactConfig().dc = 1.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prune_ratio": 1.5}, r"PactConfig: prune_ratio must be a number in \[0, 1\], got 1.5"),
        ({"prune_ratio": "half"}, "prune_ratio must be a number .* got 'half'"),
        ({"dc": -0.1}, "dc must be a number >= 0 and finite, got -0.1"),
        ({"dc": math.nan}, "dc must be .* got nan"),
        ({"dn": 0}, "dn must be a number > 0 and finite, got 0"),
        ({"alpha": -1}, "alpha must be a number >= 0"),
        ({"scale": math.inf}, "scale must be a number finite, or None, got inf"),
        ({"layer": -1}, "layer must be an integer >= 0, got -1"),
        ({"layer": 1.5}, "layer must be an integer >= 0, got 1.5"),
        ({"gaussian": 1}, "gaussian must be True or False, got 1"),
        ({"prune": False, "cluster": False}, "prune and cluster are both False"),
    ],
    ids=str,
)
def test_config_is_validated(fields, message):
    with pytest.raises(ValueError, match=message):
        PactConfig(**fields)


def test_unknown_names():
    with pytest.raises(ValueError, match="no preset named 'gpt-9'; there are llava-onevision-7b, qwen2-vl-7b"):
        pact_ext.reduce(*tensors(), config="gpt-9")
    with pytest.raises(TypeError, match="config must be a PactConfig or the name of a preset, got dict"):
        pact_ext.reduce(*tensors(), config={"dc": 1})


def test_reduction_holds_what_the_operator_returns():
    hidden, keys, queries = tensors()
    rotated = torch.roll(keys, 1, dims=2)
    r = pact_ext.reduce(hidden, keys, queries, cluster_keys=rotated, config="qwen2-vl-7b")
    merged, sizes, centers, labels = ops.reduce(hidden, keys, queries, rotated, 0.2, 0.1, 2.0, 1.5, gaussian=True)
    assert torch.equal(r.merged, merged)
    assert torch.equal(r.sizes, sizes)
    assert torch.equal(r.centers, centers)
    assert torch.equal(r.labels, labels)
    assert torch.equal(r.log_sizes, sizes.float().log())
    assert r.position_ids is None
    assert (r.n_in, r.n_out) == (120, centers.shape[0])
    assert r.reduction_ratio == 1 - r.n_out / 120


def test_position_ids_are_the_centers():
    hidden, keys, queries = tensors()
    flat, rows = torch.arange(500, 620), torch.randint(0, 99, (3, 120))
    r = pact_ext.reduce(hidden, keys, queries, position_ids=flat)
    assert torch.equal(r.position_ids, r.centers + 500)
    r = pact_ext.reduce(hidden, keys, queries, position_ids=rows)
    assert torch.equal(r.position_ids, rows[:, r.centers])
    for bad in (flat[:-1], rows[:2], rows.T, rows[None]):
        with pytest.raises(ValueError, match=r"pact_ext.reduce: position_ids must be \[n\] or \[3, n\]"):
            pact_ext.reduce(hidden, keys, queries, position_ids=bad)


def test_cluster_only_keeps_every_token_in_a_cluster():
    hidden, keys, queries = tensors()
    r = pact_ext.reduce(hidden, keys, queries, config=PactConfig(prune=False, dc=0.3))
    assert (r.labels >= 0).all()
    centers, labels = ops.dbdpc(keys, 0.3, 2.0, gaussian=True)
    assert torch.equal(r.centers, centers)
    assert torch.equal(r.labels, labels)


def test_prune_only_passes_the_kept_tokens_unchanged():
    hidden, keys, queries = tensors()
    r = pact_ext.reduce(hidden, keys, queries, config=PactConfig(cluster=False, prune_ratio=0.6))
    kept, dropped = reference.split(ops.euti_scores(hidden, keys, queries), 0.6)
    assert torch.equal(r.centers, kept)
    assert torch.equal(r.merged, hidden[kept])
    assert r.sizes.tolist() == [1] * kept.shape[0]
    assert torch.equal(r.labels[kept], torch.arange(kept.shape[0]))
    assert (r.labels[dropped] == -1).all()
    scores = torch.arange(120.0)
    r = pact_ext.reduce(hidden, keys, queries, scores=scores, config=PactConfig(cluster=False, prune_ratio=0.6))
    assert r.centers.tolist() == list(range(120 - r.n_out, 120))


def test_recovery_switched_off_discards_every_dropped_token():
    hidden, keys, queries = tensors()
    with_recovery = pact_ext.reduce(hidden, keys, queries, config=PactConfig(dc=0.3))
    without = pact_ext.reduce(hidden, keys, queries, config=PactConfig(dc=0.3, recover=False))
    _, dropped = reference.split(ops.euti_scores(hidden, keys, queries), 0.45)
    assert (with_recovery.labels[dropped] >= 0).any()
    assert (without.labels[dropped] == -1).all()
    assert torch.equal(with_recovery.centers, without.centers)


def test_merging_switched_off_keeps_the_centers_own_states():
    hidden, keys, queries = tensors()
    merged = pact_ext.reduce(hidden, keys, queries, config=PactConfig(dc=0.3))
    r = pact_ext.reduce(hidden, keys, queries, config=PactConfig(dc=0.3, merge=False))
    assert torch.equal(r.merged, hidden[r.centers])
    assert not torch.equal(r.merged, merged.merged)
    assert torch.equal(r.sizes, merged.sizes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("counts", [None, [9, 5, 40, 1]])
@pytest.mark.parametrize("switches", [{}, {"cluster": False}, {"merge": False}, {"recover": False}], ids=str)
def test_several_sequences_are_each_what_they_are_alone(switches, counts, dtype):
    hidden, keys, queries = (x.to(dtype) for x in tensors(90))
    bounds, ids = [0, 60, 60, 89, 90], torch.arange(270).view(3, 90)
    if switches.get("cluster") is False and counts is not None:
        counts = [9, 0, 20, 1]  # of a config that only prunes, at most all there are
    found = pact_ext.reduce_packed(
        hidden,
        keys,
        queries,
        torch.tensor(bounds, dtype=torch.int32),
        position_ids=ids,
        config=PactConfig(**switches),
        counts=None if counts is None else torch.tensor(counts, dtype=torch.int32),
    )
    assert [one.n_in for one in found] == [60, 0, 29, 1]
    assert found[1].merged.shape == (0, 24)
    for b in (0, 2, 3):
        rows = slice(bounds[b], bounds[b + 1])
        alone = pact_ext.reduce(
            hidden[rows],
            keys[rows],
            queries[rows],
            position_ids=ids[:, rows],
            config=PactConfig(**switches),
            count=None if counts is None else counts[b],
        )
        for name, ours in vars(found[b]).items():
            assert torch.equal(ours, getattr(alone, name)), name


def test_position_ids_of_several_sequences_must_fit():
    with pytest.raises(
        ValueError, match=r"reduce_packed: position_ids must be \[n\] or \[3, n\] for hidden \[120, 24\]"
    ):
        pact_ext.reduce_packed(*tensors(), torch.tensor([0, 120]).int(), position_ids=torch.arange(119))
