"""pact::dbdpc: the certificate on any data, exact equality where the answer is beyond doubt, and replay of the
sequential algorithm on the operators' own bits where it is not."""

import math

import pytest
import torch
from certificate import check_clustering, own_distances, replay
from data import DTYPES, SHAPES, adversarial, awkward_strides, clustered, with_margins
from hypothesis import given, settings
from hypothesis import strategies as st

from pact_ext import ops, reference


def check_replay(keys, dcs, dn):
    distance, density = own_distances(keys).cpu(), ops.density(keys, dn).cpu()
    for dc in dcs:
        centers, labels = ops.dbdpc(keys, dc, dn)
        expected = replay(distance, density, dc)
        assert torch.equal(centers.cpu(), expected[0])
        assert torch.equal(labels.cpu(), expected[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_certificate(backend, shape, dtype):
    """Each shape and each dtype meets both forms of the density, but not in all pairs."""
    dc, dn, gaussian = [(0.21, 2.0, True), (0.9, 0.3, False)][(SHAPES.index(shape) + DTYPES.index(dtype)) % 2]
    keys = clustered(*shape, dtype).to(backend.device)
    check_clustering(keys, dc, dn, gaussian, *ops.dbdpc(keys, dc, dn, gaussian=gaussian))


def test_certificate_at_llava_onevision_size():
    """On the best instruction set alone: the certificate costs more than the operator."""
    keys = clustered(4506, 512, torch.bfloat16, noise=0.4).view(4506, 4, 128)
    centers, labels = ops.dbdpc(keys, 0.21, 2.0, gaussian=True)
    assert 500 < centers.shape[0] < 4000
    check_clustering(keys, 0.21, 2.0, True, centers, labels)


@pytest.mark.parametrize("n", [1, 12, 100, 385, pytest.param(900, marks=pytest.mark.large)])
@pytest.mark.parametrize("dc", [0.05, 0.21, 0.5])
def test_equals_the_reference_where_the_answer_is_beyond_doubt(backend, n, dc):
    keys = with_margins(n)
    expected = reference.dbdpc(keys.double(), dc, 2.0)
    centers, labels = ops.dbdpc(keys.to(backend.device), dc, 2.0)
    assert torch.equal(centers.cpu(), expected[0])
    assert torch.equal(labels.cpu(), expected[1])


@pytest.mark.parametrize("name", adversarial())
def test_adversarial_replay(backend, name):
    """Ties in density and distance, distances of exactly dc: nothing is left to rounding."""
    check_replay(adversarial()[name].to(backend.device), (0.0, 0.3, 1.0, 2.0), 0.7)


@given(
    st.integers(1, 60),
    st.integers(1, 20),
    st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5]),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_replay_on_any_shape(n, dk, dc, dtype, coarse, seed):
    torch.manual_seed(seed)
    keys = torch.randint(-2, 3, (n, dk)).to(dtype) if coarse else clustered(n, dk, dtype)
    check_replay(keys, (dc,), 1.0)


@pytest.mark.parametrize("spread", [0.05, 1.0])
def test_sparse_and_dense_labelling_agree(backend, spread):
    """Few and many candidate centres per token take different routes, with the same distances."""
    keys = torch.cat([clustered(250, 20, noise=spread, groups=8), torch.zeros(5, 20)]).to(backend.device)
    for dc in (0.02, 0.2, 0.6, 1.2):
        centers, labels = ops.dbdpc(keys, dc, 0.5)
        assert torch.equal(labels[centers], torch.arange(centers.shape[0], device=backend.device))
        assert torch.equal(labels, ops.assign(keys, centers, math.inf)[0])


# --- Properties of the contract -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dc", [0.1, 0.5, 0.9])
def test_distance_bounds(backend, dc):
    n = 300
    keys = clustered(n, 32, noise=0.7).to(backend.device)
    centers, labels = ops.dbdpc(keys, dc, 0.5)
    distance = reference.pairwise_distance(keys.cpu().double())
    centers, labels = centers.cpu(), labels.cpu()
    assert (distance[centers][:, centers].fill_diagonal_(9) > dc - 2e-6).all()
    assert (distance[torch.arange(n), centers[labels]] <= dc + 2e-6).all()
    same_cluster = labels[:, None] == labels[None, :]
    assert distance[same_cluster].max() <= 2 * dc * (2 - dc) + 1e-5


def test_invariant_to_positive_scaling(backend):
    keys = with_margins(300).to(backend.device)
    scaled = keys * torch.logspace(-30, 30, 300, device=keys.device)[:, None]
    for ours, expected in zip(ops.dbdpc(scaled, 0.2, 2.0), ops.dbdpc(keys, 0.2, 2.0), strict=True):
        assert torch.equal(ours, expected)


def test_permutation_permutes_the_answer(backend):
    keys = clustered(400, 30).to(backend.device)
    assert ops.density(keys, 0.5).unique().shape[0] == 400, "the property needs distinct densities"
    order = torch.randperm(400, device=keys.device)
    centers, labels = ops.dbdpc(keys, 0.4, 0.5)
    moved_centers, moved_labels = ops.dbdpc(keys[order], 0.4, 0.5)
    assert torch.equal(order[moved_centers].sort().values, centers)
    assert torch.equal(order[moved_centers][moved_labels], centers[labels][order])


def test_dc_zero_keeps_distinct_directions(backend):
    keys = torch.randn(200, 16).to(backend.device)
    centers, labels = ops.dbdpc(keys, 0.0, 1.0)
    assert centers.tolist() == labels.tolist() == list(range(200))


def test_dc_zero_merges_equal_tokens(backend):
    keys = torch.randn(30, 16).repeat(4, 1).to(backend.device)
    centers, labels = ops.dbdpc(keys, 0.0, 1.0)
    assert centers.tolist() == list(range(30))
    assert labels.tolist() == list(range(30)) * 4


@pytest.mark.parametrize("dc", [2.0, 3.0, math.inf])
def test_dc_two_gives_one_cluster(backend, dc):
    keys = torch.cat([torch.randn(100, 5), -torch.randn(100, 5), torch.zeros(3, 5)]).to(backend.device)
    centers, labels = ops.dbdpc(keys, dc, 1.0)
    assert centers.shape == (1,)
    assert (labels == 0).all()


def test_one_token_and_equal_tokens(backend):
    for n in (1, 2, 193):
        keys = torch.randn(1, 6).repeat(n, 1).to(backend.device)
        centers, labels = ops.dbdpc(keys, 0.0, 1.0)
        assert centers.tolist() == [0]
        assert labels.tolist() == [0] * n


def test_antipodal_pairs(backend):
    x = torch.randn(1, 40)
    keys = torch.cat([x, -x, 3 * x, -3 * x]).to(backend.device)
    assert ops.dbdpc(keys, 1.99, 1.0)[0].tolist() == [0, 1]
    assert ops.dbdpc(keys[:2], 2.0, 1.0)[0].tolist() == [0]


def test_same_bits_every_run_and_thread_count(backend, threads):
    # Five rows of tiles for the threads to share; elsewhere two.
    keys = clustered(900 if backend.sees_data else 140, 48, noise=0.8).to(backend.device)
    expected = ops.dbdpc(keys, 0.5, 0.5)
    for count in backend.thread_counts:
        threads(count)
        for ours, other in zip(ops.dbdpc(keys, 0.5, 0.5), expected, strict=True):
            assert torch.equal(ours, other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_strides_change_nothing(backend, dtype):
    keys = clustered(150, 24, dtype).view(150, 3, 8).to(backend.device)
    expected = ops.dbdpc(keys, 0.3, 0.5)
    for view in [keys.flatten(1), *awkward_strides(keys)]:
        for ours, other in zip(ops.dbdpc(view, 0.3, 0.5), expected, strict=True):
            assert torch.equal(ours, other)


def test_called_as_other_projects_call_it():
    centers, labels = torch.ops.pact.dbdpc(torch.randn(9, 4), 0.2, 2.0)
    assert centers.dtype == labels.dtype == torch.int64


def test_nan_raises(backend):
    keys = torch.tensor([[1.0], [float("nan")]]).to(backend.device)
    with pytest.raises(RuntimeError, match="pact::dbdpc: keys must be finite, got NaN or Inf"):
        ops.dbdpc(keys, 0.1, 1.0)
