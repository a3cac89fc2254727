"""Shared."""

import numpy as np

from crfl.certification.coupling.distance import CoupledScenario
from tests.certification.simulation import World


def client_rounds(record, budgets, silent=False, before_clip=True):
    return CoupledScenario(record, before_clip).max_malicious(np.array(budgets), silent).tolist()


def random_world(seed):
    """Arbitrary weights, schedules, decays, clips; tight and loose."""
    rng = np.random.default_rng(seed)
    clients, rounds, batch = int(rng.integers(2, 6)), int(rng.integers(1, 8)), int(rng.integers(1, 3))
    steps, size = int(rng.integers(1, 4)), float(rng.choice([0.3, 1.0, 3.0]))
    x = [rng.normal(size=(batch * steps, 2)) * size for _ in range(clients)]
    bias, decay = bool(rng.integers(2)), float(rng.choice([0.0, 0.0, 0.3]))
    bound = np.hypot(float(bias), max(np.linalg.norm(v, axis=1).max() for v in x))
    limit = 2 / (bound**2 / 2 + 2 * decay)
    rates = (
        np.full(rounds, limit * rng.uniform(0.05, 0.99))
        if rng.random() < 0.5
        else 0.99 * limit / np.arange(1, rounds + 1)
    )
    weights = rng.dirichlet(np.ones(clients), size=rounds)
    if rng.random() < 0.5:
        weights *= rng.random(weights.shape) < 0.7
        weights[weights.sum(1) == 0] = 1
        weights /= weights.sum(1, keepdims=True)
    return World(
        x,
        [rng.integers(0, 3, len(v)) for v in x],
        3,
        rounds,
        rates,
        batch,
        bias,
        weight_decay=decay,
        decay=None if rng.random() < 0.5 else rng.uniform(0, 0.3, rounds),
        clip=float(rng.choice([np.inf, 0.3, 1.0])),
        noise=float(rng.choice([0, 0.1])),
        weights=weights,
        update_clip=rates * steps * bound * rng.uniform(0.02, 1.5, rounds) * rng.choice([0.01, 0.1, 1.0]),
        seed=seed,
    )
