"""What a round multiplies a distance by."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certification.records import attacker, make_record, make_round
from tests.certification.rounds import expansion_factor


def test_growth_without_scaling_is_one():
    record = make_record([])
    assert expansion_factor(record, make_round(1), ()) == pytest.approx(1, abs=1e-12)
    assert expansion_factor(record, make_round(1, weights=(0.5, 0, 0, 0.5)), ()) == pytest.approx(1, abs=1e-12)


def test_growth_with_weight_decay_contracts():
    record = make_record([], weight_decay=2.0, client_sizes=(15, 15, 30, 30))
    found = expansion_factor(record, make_round(1), ())
    assert found == pytest.approx((2 * 0.96**3 + 2 * 0.96**6) / 4, rel=1e-9)


def test_growth_of_scaled_rounds():
    """max(1, 2 S alpha - 1), alpha = A / (1 + A), A = tau a / (1 - a), a = eta B^2 / 4."""
    plain = make_record([])
    a = 0.02 * 25 / 4
    alpha = (3 * a / (1 - a)) / (1 + 3 * a / (1 - a))
    for scale in (1.0, 2.0, 10.0, 100.0):
        attackers = (attacker(scale=scale),)
        total = 0.75 + 0.25 * scale
        expected = max(1.0, 2 * total * alpha - 1)
        assert expansion_factor(plain, make_round(1, attackers), attackers) == pytest.approx(expected, rel=1e-12)
    meek = (attacker(scale=0.3, weight=1.0),)  # |1 - 0.3 alpha| + 0.3 alpha = 1
    alone = make_record([], client_sizes=(15,), learning_rates=(0.02,), client_names=("a",), smoothness=(12.5,))
    assert expansion_factor(alone, make_round(1, meek, weights=(1.0,)), meek) == pytest.approx(1.0, rel=1e-12)
    edge = make_record([], learning_rates=(0.16,) * 4)  # a = 1: nothing is gained over 2 S - 1
    attackers = (attacker(scale=5.0),)
    assert expansion_factor(edge, make_round(1, attackers), attackers) == pytest.approx(2 * 2 - 1, rel=1e-12)


@given(st.integers(0, 10**6))
def test_growth_holds_for_linear_gradients(seed):
    """The server's map of scaled local training on quadratics with curvature up to beta is Lambda-Lipschitz."""
    rng = np.random.default_rng(seed)
    rate, tau, beta, decay = rng.uniform(0.01, 0.15), int(rng.integers(1, 4)), 12.5, rng.choice([0.0, 0.5])
    scale = rng.uniform(0, 30)
    record = make_record([], learning_rates=(rate,) * 4, client_sizes=(5 * tau,) * 4, weight_decay=decay)
    if rate > 2 / (beta + 2 * decay):
        return
    attackers = (attacker(scale=scale),)
    total = np.eye(3)
    for client in range(4):
        local = np.eye(3)
        for _ in range(tau):
            q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            curvature = q @ np.diag(rng.choice([0, beta, rng.uniform(0, beta)], size=3)) @ q.T
            local = (np.eye(3) - rate * (curvature + decay * np.eye(3))) @ local
        total = total + 0.25 * (scale if client == 0 else 1.0) * (local - np.eye(3))
    assert np.linalg.norm(total, 2) <= expansion_factor(record, make_round(1, attackers), attackers) * (1 + 1e-12)
