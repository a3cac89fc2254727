"""Least squares on fixed features, certified against label flips: smoothed by random flips, and as it is.

Rosenfeld, Winston, Ravikumar and Kolter, "Certified robustness to label-flipping attacks via randomized smoothing", ICML 2020
(arXiv 2002.03018). Scores of ridge regression are linear in the labels: s_c(x) = sum_i alpha_i [y_i = c] with weights alpha
that depend on the features alone. The smoothed classifier predicts A if, labels being changed at random with probability q,
A beats every other class with probability above 1/2. That probability has a Chernoff bound in closed form, so nothing is
sampled. The paper turns it into a number of flips by a divergence; here the Neyman-Pearson lemma gives the exact number.

A score that is linear in the labels needs no smoothing: the second entry counts the fewest flips that change its argmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import linalg

from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, Outcome, Task
from crfl.benchmark.union import flip_labels, union
from crfl.data.federated import FederatedData

__all__ = ["ENTRIES", "beaten_probability", "fewest_flips", "smoothed_flips", "tolerated_probabilities"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PAPER = "Rosenfeld, Winston, Ravikumar and Kolter, ICML 2020, https://arxiv.org/abs/2002.03018"
ASSUMPTIONS = (
    "The server solves least squares on the union of all samples.",
    "The attacker changes labels alone: neither samples nor the feature map.",
)
MOST, BLOCK, FEW = 1000, 2**24, 4096
"""Most flips that are certified by smoothing; numbers that are held at a time; gains that are sorted at first."""
EPS = float(np.finfo(np.float64).eps)


def label_weights(x: FloatArray, x_test: FloatArray, ridge: float) -> Iterator[FloatArray]:
    """alpha (block of test samples, n) = x_test^T (X^T X + ridge mean(X^T X) I)^-1 X^T, with a constant feature."""
    x, x_test = (np.pad(a, ((0, 0), (0, 1)), constant_values=1.0) for a in (x, x_test))
    gram = x.T @ x
    gram[np.diag_indices(len(gram))] += ridge * np.trace(gram) / len(gram)
    solved = linalg.cho_solve(linalg.cho_factor(gram), x_test.T).T
    for start in range(0, len(x_test), max(1, BLOCK // len(x))):
        yield solved[start : start + max(1, BLOCK // len(x))] @ x.T


def fewest_flips(alpha: FloatArray, y: IntArray, num_classes: int) -> tuple[int, int]:
    """The class with the largest score, and the fewest changed labels after which it is another. Exact.

    To bring b up to A, a sample with alpha_i > 0 gets the label b (which gains 2 alpha_i if it was A), one with
    alpha_i < 0 the label A; the largest gains come first. Ties count as changed. Rounding of the sums is on the safe side.

    Args:
        alpha: weights of the labels (n,), of one test sample.
        y: labels (n,)

    Returns:
        Class, and number of labels, 1 or more; n + 1 if no labels change the class.

    Example:
        >>> fewest_flips(np.array([0.6, 0.5, 0.4, 0.3]), np.array([0, 0, 1, 1]), num_classes=2)
        (0, 1)
    """
    scores = np.bincount(y, alpha, num_classes)
    label, size, best = int(scores.argmax()), np.abs(alpha), len(y) + 1
    bound, slack = _largest_sums(2 * size), 4 * len(y) * EPS * size.sum()
    for rival in np.argsort(-scores):
        gap = scores[label] - scores[rival] - slack
        if rival == label or np.searchsorted(bound, gap) + 1 >= best:  # even gains of 2 for every sample are too few
            continue
        gains = size * (1 + (y == np.where(alpha > 0, label, rival))) * (y != np.where(alpha > 0, rival, label))
        sums = _largest_sums(gains)
        if sums[-1] < gap:
            sums = np.cumsum(-np.sort(-gains))
        best = min(best, int(np.searchsorted(sums, gap)) + 1)
    return label, best


def _largest_sums(gains: FloatArray) -> FloatArray:
    """Sums of the largest, the two largest, ...: of the 4,096 largest at most, since few are needed."""
    largest = np.partition(gains, -FEW)[-FEW:] if len(gains) > FEW else gains
    return np.cumsum(-np.sort(-largest))


def beaten_probability(
    alpha: FloatArray, y: IntArray, label: int, rival: int, flip: float, num_classes: int, enough: float = 0.0
) -> float:
    """Chernoff's bound of P(s_rival >= s_label), each label being another one with probability q, uniformly.

        P(Z >= 0) <= prod_i E exp(t alpha_i ([y~_i = rival] - [y~_i = label]))  for every t >= 0

    with t that would be best if Z were Gaussian, halved as long as that helps, or as the bound is above `enough`; 1 if Z
    has no negative mean.
    """
    other = flip / (num_classes - 1)
    sign = (y == rival).astype(np.float64) - (y == label)
    drift = (1 - flip - other) * sign  # mean of [y~ = rival] - [y~ = label]
    mean, square = alpha @ drift, np.where(sign == 0, 2 * other, 1 - flip + other)
    variance = alpha**2 @ (square - drift**2)
    if mean >= 0:
        return 1.0
    up, down = other + (1 - flip - other) * (sign > 0), other + (1 - flip - other) * (sign < 0)
    step, best = -mean / variance * alpha, 0.0
    while True:  # the sum is convex in t
        with np.errstate(over="ignore"):  # a step too long bounds nothing
            logs = np.log1p(up * np.expm1(step) + down * np.expm1(-step))
        found = logs.sum() + 8 * len(y) * EPS * np.abs(logs).sum()
        if found >= best and best < 0:
            return float(np.exp(best))
        best, step = min(best, found), step / 2
        if np.exp(best) <= enough:
            return float(np.exp(best))
        if not step.any():
            return 1.0


def tolerated_probabilities(flip: float, num_classes: int, most: int = MOST) -> FloatArray:
    """For r = 1 .. most the largest probability of a mistake that r changed labels cannot raise to 1/2. Exact.

    Neyman and Pearson: r labels changed from y to y' change the likelihood of the noisy labels by rho^S, with
    rho = (1 - q) (C - 1) / q and S = #[y~ = y] - #[y~ = y'] among them. The worst event takes the smallest S first.

    Example:
        >>> tolerated_probabilities(0.25, num_classes=2, most=2).round(4)  # a mistake of 1/6 becomes one of 1/2
        array([0.1667, 0.0556])
    """
    other = flip / (num_classes - 1)
    one, law, found = np.array([other, flip - other, 1 - flip]), np.ones(1), np.empty(most)
    log_ratio = np.log(1 - flip) - np.log(other)
    for r in range(1, most + 1):
        law = np.convolve(law, one)
        attacked = law[::-1]  # under the changed labels S has the mirrored law
        below = np.cumsum(attacked) - attacked
        level = int(np.searchsorted(np.cumsum(attacked), 0.5))
        part = (0.5 - below[level]) * np.exp((level - r) * log_ratio)
        found[r - 1] = law[:level].sum() + max(0.0, part)
    return found * (1 - 1e-9)


def smoothed_flips(
    alpha: FloatArray, y: IntArray, num_classes: int, flip: float, tolerated: FloatArray
) -> tuple[int, int]:
    """The smoothed classifier's class and the number of flips that it stands, of one test sample; -1 to abstain.

    Args:
        alpha: weights of the labels (n,)
        y: labels (n,)
        flip: q
        tolerated: of `tolerated_probabilities`.
    """
    scores = np.bincount(y, alpha, num_classes)
    label = int(scores.argmax())
    beaten = 0.0
    for rival in np.argsort(-scores):
        if rival != label:
            found = beaten_probability(alpha, y, label, int(rival), flip, num_classes, enough=beaten)
            beaten = max(beaten, found)
    return label, -1 if beaten >= 0.5 else int(np.searchsorted(-tolerated, -beaten))


def _each(data: FederatedData, ridge: float, certify: Callable[[FloatArray, IntArray], tuple[int, int]]) -> IntArray:
    """What `certify` says of each test sample's weights of the labels, (m, 2)."""
    x, y = union(data)
    blocks = label_weights(x, data.test.x.double().numpy(), ridge)
    return np.array([certify(alpha, y) for block in blocks for alpha in block])


def _smoothed(task: Task, settings: tuple[float, float]) -> Outcome:
    (ridge, flip), classes = settings, task.data.num_classes
    tolerated = tolerated_probabilities(flip, classes)
    found = _each(task.data, ridge, lambda alpha, y: smoothed_flips(alpha, y, classes, flip, tolerated))
    return Outcome(found[:, 0], found[:, 1].astype(np.float64), 1, task.data.public_samples)


def _plain(task: Task, settings: tuple[float]) -> Outcome:
    found = _each(task.data, settings[0], lambda alpha, y: fewest_flips(alpha, y, task.data.num_classes))
    return Outcome(found[:, 0], found[:, 1] - 1.0, 1, task.data.public_samples)


def _attack(task: Task, strength: float, choice: Choice) -> IntArray:
    """Predictions after the label flips of `flip_labels`."""
    x, y = union(flip_labels(task.data, int(strength)))
    own, ridge = np.eye(task.data.num_classes)[y], choice.of(task.data_name)[0]
    blocks = label_weights(x, task.data.test.x.double().numpy(), ridge)
    return np.concatenate([(block @ own).argmax(axis=1) for block in blocks])


RIDGES, FLIPS = (0.1, 0.3, 1.0, 3.0), (0.003, 0.01, 0.03)
"""Penalty in units of the mean square of the features, times the samples; q."""
SMOOTHED = Choice(
    _smoothed,
    tuple(product(RIDGES, FLIPS)),
    chosen={"digits": (1.0, 0.003), "loan": (0.3, 0.003), "mnist": (1.0, 0.01)},
    default=(1.0, 0.01),
)
"""As `PLAIN`; of MNIST not all twelve were tried, and most of them on 400 held-out samples: each takes half a minute."""
PLAIN = Choice(
    _plain,
    tuple((ridge,) for ridge in RIDGES),
    chosen={"digits": (1.0,), "loan": (0.1,), "mnist": (0.3,)},
    default=(0.3,),
)
"""Chosen on held-out training samples by benchmarks/choose_rivals.py; other data take MNIST's."""


def _entry(name: str, paper: str, choice: Choice) -> Entry:
    return Entry(name, paper, "label flips", "sound", ASSUMPTIONS, choice, partial(_attack, choice=choice))


ENTRIES: tuple[Entry, ...] = (
    _entry("Smoothed least squares", PAPER, SMOOTHED),
    _entry("Least squares, counted", PAPER + " (without smoothing)", PLAIN),
)
