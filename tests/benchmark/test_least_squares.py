"""Least squares against label flips: by trying all labels, and all noise."""

import itertools

import numpy as np
import pytest
from scipy import stats

from crfl.benchmark.methods import least_squares
from crfl.benchmark.methods.least_squares import (
    beaten_probability,
    fewest_flips,
    label_weights,
    smoothed_flips,
    tolerated_probabilities,
)
from tests.benchmark.tasks import accuracy, small_task


def scores(alpha, labels, classes):
    """(k, C) of k rows of labels."""
    return np.stack([((labels == c) * alpha).sum(axis=1) for c in range(classes)], axis=1)


def all_labels(n, classes):
    return np.array(list(itertools.product(range(classes), repeat=n)))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("seed", range(20))
def test_fewest_flips_are_exact(classes, seed):
    random, every = np.random.default_rng(seed), all_labels(7, classes)
    y, alpha = random.integers(0, classes, 7), random.normal(size=7) + random.choice([0, 1])
    label = scores(alpha, y[None], classes)[0].argmax()
    changed = scores(alpha, every, classes).argmax(axis=1) != label
    assert fewest_flips(alpha, y, classes) == (label, (every[changed] != y).sum(axis=1).min())


def test_the_last_class_of_all_cannot_be_beaten():
    """A single class of positive weights needs half of them; no flip helps where all weights are zero but one's own."""
    assert fewest_flips(np.ones(5), np.zeros(5, dtype=int), 2) == (0, 3)


def noise_law(y, flip, classes):
    """All noisy labels (k, n) and their probabilities (k,)."""
    every = all_labels(len(y), classes)
    kept = (every == y).sum(axis=1)
    return every, (1 - flip) ** kept * (flip / (classes - 1)) ** (len(y) - kept)


@pytest.mark.parametrize("flip", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("seed", range(8))
def test_the_bound_is_above_the_probability(seed, flip):
    random = np.random.default_rng(seed)
    y, alpha = random.integers(0, 3, 8), random.normal(size=8) + 1
    every, law = noise_law(y, flip, 3)
    found = scores(alpha, every, 3)
    for label, rival in itertools.permutations(range(3), 2):
        exact = law[found[:, rival] >= found[:, label]].sum()
        assert beaten_probability(alpha, y, label, rival, flip, 3) >= exact


def test_the_bound_is_chernoffs():
    """Equal weights: the binomial's Chernoff bound exp(-n KL(1/2 | q)), whose rate is right. t need not be the best."""
    n, flip = 200, 0.25
    found = beaten_probability(np.full(n, 1 / n), np.zeros(n, dtype=int), 0, 1, flip, 2)
    assert (2 * np.sqrt(flip * (1 - flip))) ** n <= found <= (2 * np.sqrt(flip * (1 - flip))) ** (0.9 * n)
    assert found >= stats.binom.sf(n // 2 - 1, n, flip)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("flip", [0.1, 0.3])
def test_tolerated_probabilities_are_exact(classes, flip):
    """By the likelihood ratio of every outcome of the changed labels."""
    found = tolerated_probabilities(flip, classes, most=5)
    for r in range(1, 6):
        every, before = noise_law(np.zeros(r, dtype=int), flip, classes)
        after = noise_law(np.ones(r, dtype=int), flip, classes)[1]
        order = np.argsort(before / after)
        mass = np.cumsum(after[order])
        last = np.searchsorted(mass, 0.5)
        part = (0.5 - (mass[last - 1] if last else 0.0)) / after[order[last]]
        exact = before[order[:last]].sum() + part * before[order[last]]
        assert found[r - 1] == pytest.approx(exact, rel=1e-6)
        assert found[r - 1] <= exact
        assert len(every) == classes**r


@pytest.mark.parametrize("flip", [0.1, 0.3, 0.45])
def test_exact_numbers_are_at_least_the_papers(flip):
    """Equation 6 of the paper: r <= log(4 p (1 - p)) / (2 (1 - 2 q) log(q / (1 - q))), of two classes."""
    tolerated = tolerated_probabilities(flip, 2)
    for mistake in 10.0 ** -np.arange(1, 12, 0.5):
        paper = np.log(4 * mistake * (1 - mistake)) / (2 * (1 - 2 * flip) * np.log(flip / (1 - flip)))
        exact = np.searchsorted(-tolerated, -mistake)
        assert int(paper) <= exact <= 3 * paper + 3


def test_smoothed_predictions_stand():
    """All changes of as many labels as are certified, and the exact probabilities under all noise."""
    n, flip, alpha = 11, 0.1, np.linspace(0.8, 1.2, 11)
    y = np.array([1, *[0] * (n - 1)])
    label, certified = smoothed_flips(alpha, y, 2, flip, tolerated_probabilities(flip, 2, most=n))
    assert (label, certified) == (0, 1)
    every = all_labels(n, 2)
    beats = np.diff(scores(alpha, every, 2), axis=1)[:, 0] < 0
    for rows in itertools.combinations(range(n), certified):
        changed = y.copy()
        changed[list(rows)] ^= 1
        assert noise_law(changed, flip, 2)[1][beats].sum() > 0.5
    assert smoothed_flips(alpha, np.arange(n) % 2, 2, flip, tolerated_probabilities(flip, 2, most=n))[1] == -1


def test_weights_are_those_of_ridge_regression():
    random = np.random.default_rng(0)
    x, x_test = random.normal(size=(30, 4)), random.normal(size=(5, 4))
    y = np.eye(3)[random.integers(0, 3, 30)]
    ones, ones_test = np.c_[x, np.ones(30)], np.c_[x_test, np.ones(5)]
    penalty = 0.1 * np.square(ones).sum() / 5
    stacked = np.linalg.lstsq(np.r_[ones, np.sqrt(penalty) * np.eye(5)], np.r_[y, np.zeros((5, 3))], rcond=None)[0]
    np.testing.assert_allclose(np.concatenate(list(label_weights(x, x_test, 0.1))) @ y, ones_test @ stacked, atol=1e-12)


@pytest.mark.parametrize("entry", least_squares.ENTRIES, ids=lambda e: e.name)
def test_what_is_certified_stands(entry):
    task = small_task()
    outcome = entry.run(task)
    assert accuracy(outcome.prediction, task) > 0.9
    for strength in (1, 5, 20):
        stands = outcome.strength >= strength
        assert (entry.attack(task, strength) == outcome.prediction)[stands].all()
    assert (outcome.strength >= 1).mean() > 0.5
