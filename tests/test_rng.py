"""Named streams: reproducible, distinct, uniform, independent of who else is asked."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crfl import rng


def test_streams_are_named():
    first = torch.rand(8, generator=rng.stream(0, "noise", 1))
    assert torch.equal(first, torch.rand(8, generator=rng.stream(0, "noise", 1)))
    for other in (
        rng.stream(1, "noise", 1),
        rng.stream(0, "votes", 1),
        rng.stream(0, "noise", 2),
        rng.stream(0, "noise"),
    ):
        assert not torch.equal(first, torch.rand(8, generator=other))


def test_ids_are_not_confused():
    assert rng.seed_for(1, "a", 23) != rng.seed_for(1, "a", 2, 3)
    assert rng.seed_for(11, "a") != rng.seed_for(1, "1a")


@given(st.integers(0, 2**31), st.integers(0, 40), st.integers(1, 6))
def test_shuffles_are_permutations_that_depend_on_the_client_alone(seed, size, count):
    clients = range(10, 10 + count)
    together = rng.shuffles(rng.keys(seed, "batches", 3, clients), size)
    for client, order in zip(clients, together, strict=True):
        assert sorted(order) == list(range(size))
        assert np.array_equal(order, rng.shuffles(rng.keys(seed, "batches", 3, [client]), size)[0])


def test_shuffles_differ_by_round_epoch_and_client():
    orders = [
        rng.shuffles(rng.keys(0, "batches", r, [c], e), 50)[0].tolist()
        for r in range(3)
        for c in range(3)
        for e in range(3)
    ]
    assert len({tuple(o) for o in orders}) == 27


def test_every_order_is_equally_likely():
    orders = rng.shuffles(rng.keys(7, "batches", 1, range(24_000)), 4)
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-4


def test_positions_of_neighbouring_clients_and_rounds_are_uncorrelated():
    a = np.array([rng.shuffles(rng.keys(0, "batches", r, range(200)), 50) for r in (1, 2)])
    by_client = np.corrcoef(a[0, :-1].ravel(), a[0, 1:].ravel())[0, 1]
    by_round = np.corrcoef(a[0].ravel(), a[1].ravel())[0, 1]
    assert abs(by_client) < 0.04
    assert abs(by_round) < 0.04
