"""bench.published, what the authors' code computes, finds what the reference finds where the answer is beyond doubt."""

import pytest
import torch
from data import reduction_inputs, with_margins

from bench import published
from pact_ext import reference

# Of 5 clusters the first round finds fewer than ten centres, so the host walks; of 12 and 30 it finds them all.
CASES = [(60, 64, 5), (400, 64, 12), (900, 256, 30)]


@pytest.mark.parametrize(("n", "dk", "clusters"), CASES)
def test_dbdpc(n, dk, clusters):
    keys = with_margins(n, dk, clusters)
    centers, labels = published.dbdpc(keys, 0.2, 2.0)
    expected_centers, expected_labels = reference.dbdpc(keys, 0.2, 2.0, gaussian=True)
    assert torch.equal(centers, expected_centers)
    assert torch.equal(labels, expected_labels)


def test_reduce():
    hidden, keys, queries, _ = reduction_inputs(400)
    near = with_margins(400)
    numbers = (0.45, 0.2, 2.0, 1.5)
    merged, sizes, centers = published.reduce(hidden, keys, queries, near, *numbers)
    expected = reference.reduce(hidden, keys, queries, near, *numbers, gaussian=True)
    assert torch.equal(centers, expected[2])
    assert torch.equal(sizes, expected[1])
    torch.testing.assert_close(merged, expected[0])


def test_centres_of_a_chain_take_rounds_and_the_walk():
    """Points along a circle, each near its two neighbours: what is a centre depends on what came before."""
    angle = torch.arange(0, 300) * 0.02
    keys = torch.stack([angle.cos(), angle.sin()], dim=1).double()
    keys = torch.cat([keys, keys[::7] * 2], dim=0)  # copies make some stretches denser
    distance = published.distances(keys)
    centers = published.find_centers(distance, 0.001, 0.1)
    among = distance[centers][:, centers].fill_diagonal_(torch.inf)
    assert (among > 0.001).all()
    assert (distance[:, centers] <= 0.001).any(dim=1).all()
