"""Private federated learning: independent trainings, and certified votes under attack. The formulas: test_privacy.py."""

import numpy as np
import pytest

from crfl.benchmark.methods import dpfl
from tests.benchmark.tasks import accuracy, small_task


def test_trainings_are_independent():
    """The share of votes of 400 trainings scatters from seed to seed as 400 independent votes do, and no more."""
    data = small_task(clients=30, spread=5.0).data  # hardly to be told apart
    shares = np.stack([dpfl.private_votes(data, dpfl.Private(), 400, seed)[:, 0] / 400 for seed in range(12)])
    mean = shares.mean(axis=0)
    between = (mean > 0.1) & (mean < 0.9)
    assert between.sum() >= 5
    scatter = shares.var(axis=0, ddof=1)[between] / (mean * (1 - mean) / 400)[between]
    assert 0.5 < scatter.mean() < 2


def test_a_client_moves_the_sum_by_its_share():
    """mu: one client of N equal ones moves the average by at most 2 S / N, whatever it sends."""
    private = dpfl.Private(rounds=7, noise=0.03, clip=2.0)
    std = private.noise * private.clip * private.rounds**0.5
    by_hand = private.rounds**0.5 * 2 * private.clip / 30 / std
    assert dpfl.user_mu(small_task(clients=30).data, private) == pytest.approx(by_hand)


def test_what_is_certified_stands():
    task = small_task(samples=1000, clients=200)
    pairs, gaussian = (entry.run(task) for entry in dpfl.ENTRIES)
    np.testing.assert_array_equal(pairs.prediction, gaussian.prediction)
    assert (pairs.strength <= gaussian.strength).all()
    assert accuracy(pairs.prediction, task) > 0.9
    strength = 3
    assert (gaussian.strength >= strength).mean() > 0.5
    attacked = dpfl.ENTRIES[0].attack(task, strength)
    assert (attacked == gaussian.prediction)[gaussian.strength >= strength].all()
