"""Dealing of clients to groups: sizes, what it depends on, and that random groups are uniform."""

import itertools

import numpy as np
import pytest
from scipy import stats

from crfl.errors import SettingsError
from crfl.groups import deal_clients, draw_groups

NAMES = [f"client {i}" for i in range(103)]


def test_everybody_is_dealt_and_sizes_differ_by_one():
    for groups in (1, 7, 100, 103):
        sizes = np.bincount(deal_clients(NAMES, groups, seed=0), minlength=groups)
        assert sizes.sum() == 103
        assert sizes.max() - sizes.min() <= 1


def test_the_order_of_the_clients_does_not_matter():
    order = np.random.default_rng(0).permutation(103)
    shuffled = deal_clients([NAMES[i] for i in order], 10, seed=3)
    np.testing.assert_array_equal(shuffled, deal_clients(NAMES, 10, seed=3)[order])


def test_another_seed_deals_anew():
    """Pairs of clients share one of 10 groups with probability 1 / 10, under every seed and across seeds."""
    dealt = np.array([deal_clients(NAMES, 10, seed=s) for s in range(200)])
    together = np.mean([(dealt[:, i] == dealt[:, j]).mean() for i, j in itertools.combinations(range(40), 2)])
    assert together == pytest.approx(0.1, abs=0.01)
    assert stats.chisquare(np.bincount(dealt[:, 5], minlength=10)).pvalue > 1e-4


def test_random_groups_are_uniform_and_independent_of_their_number():
    drawn = draw_groups(6, 3000, 3, seed=1)
    assert (np.diff(drawn, axis=1) > 0).all()
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 20
    assert stats.chisquare(counts).pvalue > 1e-4
    np.testing.assert_array_equal(draw_groups(6, 5, 3, seed=1), drawn[:5])
    assert (draw_groups(6, 5, 6, seed=1) == np.arange(6)).all()


def test_wrong_numbers_are_errors():
    for groups in (0, 104, 2.5):
        with pytest.raises(SettingsError, match="groups: got"):
            deal_clients(NAMES, groups, seed=0)
    with pytest.raises(SettingsError, match="client_names"):
        deal_clients(["a", "a"], 1, seed=0)
    with pytest.raises(SettingsError, match="clients_per_group: got 7"):
        draw_groups(6, 5, 7, seed=1)
    with pytest.raises(SettingsError, match="groups: got 0"):
        draw_groups(6, 0, 2, seed=1)
