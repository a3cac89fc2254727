"""Interval bounds: no poison leaves them, they are tight where that is known, and AGT's own numbers come out."""

import itertools
import os

import numpy as np
import pytest
import torch

from crfl.benchmark.entry import Task
from crfl.benchmark.methods import interval
from crfl.benchmark.methods.interval import Poison, Weights, gradient_descent, interval_training, predictions_that_stand
from tests.benchmark.tasks import accuracy, replaced, small_task


def samples(seed=0, n=7, d=3, classes=3):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, d)), random.integers(0, classes, n), random.normal(size=(classes, d))


@pytest.mark.parametrize("clip", [np.inf, 0.3])
@pytest.mark.parametrize("rates", [[0.7], [0.7, 0.5, 0.3]])
def test_every_flip_stays_within(rates, clip):
    """All ways to change two labels; after one step the intervals are the smallest that hold them all."""
    x, y, start = samples()
    bounds = interval_training(x, y, start, rates, Poison(2), clip)
    found = []
    for rows in itertools.combinations(range(7), 2):
        for labels in itertools.product(range(3), repeat=2):
            flipped = y.copy()
            flipped[list(rows)] = labels
            found.append(gradient_descent(x, flipped, start, rates, clip))
    assert (np.min(found, axis=0) >= bounds.lower).all()
    assert (np.max(found, axis=0) <= bounds.upper).all()
    if len(rates) == 1:
        np.testing.assert_allclose(np.min(found, axis=0), bounds.lower, atol=1e-12)
        np.testing.assert_allclose(np.max(found, axis=0), bounds.upper, atol=1e-12)


@pytest.mark.parametrize("clip", [np.inf, 0.3])
@pytest.mark.parametrize("rates", [[0.7], [0.7, 0.5, 0.3]])
def test_replaced_samples_stay_within(rates, clip):
    x, y, start = samples()
    x /= np.linalg.norm(x, axis=1).max()
    bounds, random = interval_training(x, y, start, rates, Poison(2, bound=1.0), clip), np.random.default_rng(1)
    for _ in range(300):
        poisoned, labels, rows = x.copy(), y.copy(), random.permutation(7)[:2]
        corners = random.normal(size=(2, 3)) ** 5  # near the axes, where single entries are largest
        poisoned[rows] = corners / np.linalg.norm(corners, axis=1, keepdims=True)
        labels[rows] = random.integers(0, 3, 2)
        weights = gradient_descent(poisoned, labels, start, rates, clip)
        assert (bounds.lower <= weights).all()
        assert (weights <= bounds.upper).all()


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_rounding_stays_within(size):
    """Without poison the intervals hold training in any order of the samples, and are hardly wider."""
    x, y, start = samples(n=400, d=20)
    rates = [1 / size**2] * 3
    bounds = interval_training(x * size, y, start / size, rates, Poison(0))
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(400)
        weights = gradient_descent(x[order] * size, y[order], start / size, rates)
        assert ((bounds.lower <= weights) & (weights <= bounds.upper)).all()
    assert (bounds.upper - bounds.lower).max() < 1e-9 / size


def test_huge_logits():
    """Exponentials that overflow or vanish."""
    x, y, start = samples()
    bounds = interval_training(x, y, 1e4 * start, [0.5], Poison(1))
    weights = gradient_descent(x, y, 1e4 * start, [0.5])
    assert ((bounds.lower <= weights) & (weights <= bounds.upper)).all()


def test_predictions_that_stand():
    weights = Weights(np.array([[1.0], [0.0]]), np.array([[1.0], [0.9]]))
    assert predictions_that_stand(weights, np.array([[1.0], [-1.0]]), np.array([0, 1])).tolist() == [True, True]
    weights = Weights(weights.lower, np.array([[1.0], [1.1]]))
    assert predictions_that_stand(weights, np.array([[1.0], [-1.0]]), np.array([0, 1])).tolist() == [False, False]


@pytest.mark.parametrize("entry", interval.ENTRIES, ids=lambda e: e.threat)
def test_what_is_certified_stands(entry):
    task = small_task()
    outcome = entry.run(task)
    assert accuracy(outcome.prediction, task) > 0.8
    strength = np.unique(outcome.strength[outcome.strength > 0])[0]
    stands = outcome.strength >= strength
    assert (entry.attack(task, strength) == outcome.prediction)[stands].all()
    if entry.threat == "replaced samples":
        rows = torch.cat(task.data.shards)[torch.randperm(600)[: int(strength)]]
        attacked = entry.run(Task("", replaced(task.data, rows), task.seed)).prediction
        assert (attacked == outcome.prediction)[stands].all()


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("CRFL_DATA_DIR"), reason="needs MNIST")
def test_agt_example():
    """The numbers that AGT's notebook on MNIST prints, to their three digits, and those of its figure."""
    from crfl.benchmark.agt_example import AgtExample

    example = AgtExample.load()
    assert example.accuracy(steps=0, images=slice(0, 1000)) == pytest.approx(0.088, abs=5e-4)
    for steps, images, stands, right in (
        (1, slice(1000, 2000), 0.654, 0.674),
        (2, slice(2000, 3000), 0.645, 0.762),
    ):
        assert example.accuracy(steps, images) == pytest.approx(right, abs=5e-4)
        assert example.certified(10, steps, images) == pytest.approx(stands, abs=5e-4)
    assert example.certified(50) == pytest.approx(0.23, abs=0.01)
    assert example.certified(50, clip=0.1) == pytest.approx(0.36, abs=0.01)
    assert example.coupled(50) > 2 * example.certified(50)
