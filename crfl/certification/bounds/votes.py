"""Bounds on the class probabilities of the smoothed model: from votes (Hoeffding, Clopper-Pearson) or exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import BoolArray, FloatArray, IntArray, error_level, vote_counts
from crfl.errors import CertificateError


@dataclass(frozen=True)
class ProbabilityBounds:
    """Bounds for m test samples; all arrays have shape (m,)."""

    method: str
    """hoeffding, clopper_pearson or exact"""
    alpha: float
    """Failure probability for each sample, in the sense that the method's docstring states; 0 if exact."""
    samples: int
    """M: votes behind each bound; 0 if exact."""
    classes: int
    """C: number of classes"""
    prediction: IntArray
    """A: the class that the bounds speak of."""
    p_a: FloatArray
    """Lower bound of A's probability."""
    p_b: FloatArray
    """Upper bound of every other class's probability."""
    estimate_a: FloatArray
    """Share of the votes for A: an estimate, not a bound (exact: the probability itself)."""
    estimate_b: FloatArray
    """Largest share of another class: an estimate, not a bound."""
    log_not_p_a: FloatArray
    """log(1 - p_a), right also where p_a rounds to 1."""
    log_p_b: FloatArray
    """log(p_b), right also where p_b underflows to 0."""
    simultaneous: bool = False
    """Whether alpha was divided so that the bounds hold for all samples at once."""

    @property
    def abstained(self) -> BoolArray:
        """Where the bounds do not decide, because p_a > p_b fails."""
        return ~(self.p_a > self.p_b)


def hoeffding(counts: npt.ArrayLike, alpha: float) -> ProbabilityBounds:
    """Algorithm 2's bounds, as the paper has them: pA = p^A - h, pB = p^B + h, h = sqrt(log(1 / alpha) / (2 M)).

    `counts` (m, C) votes of M models; A and B are the two most frequent classes, the lower number on a tie. The paper
    prints N under the root; M is meant. Each of the two bounds spends alpha, and the classes are chosen from the same
    votes: no joint level is proved, certainly not alpha. Use `clopper_pearson` where that matters.
    """
    votes, alpha = vote_counts("counts", counts), error_level(alpha)
    samples = int(votes[0].sum()) if len(votes) else 0
    prediction = votes.argmax(axis=1)
    top, other = _split(votes, prediction)
    slack = math.sqrt(math.log(1 / alpha) / (2 * samples)) if samples else math.inf
    estimate_a, estimate_b = top / max(samples, 1), other.max(axis=1) / max(samples, 1)
    p_a, p_b = np.clip(estimate_a - slack, 0.0, 1.0), np.clip(estimate_b + slack, 0.0, 1.0)
    return _from_votes("hoeffding", alpha, samples, votes.shape[1], prediction, p_a, p_b, estimate_a, estimate_b)


SMALLEST_LEVEL = 1e-200
"""Error level down to which the quantiles of the beta distribution are right."""


def clopper_pearson(
    selection_counts: npt.ArrayLike, counts: npt.ArrayLike, alpha: float, *, simultaneous: bool = False
) -> ProbabilityBounds:
    """Sound bounds: for each test sample, P(p_a > p_b is found, yet p_a > p_A or p_b < max_{c != A} p_c) <= alpha.

    `selection_counts` (m, C) are votes of models drawn apart from those of `counts` (m, C); only they choose A (Cohen
    et al. 2019). p_a is the exact binomial lower bound of A's votes at alpha / 2; p_b the least of 1 - p_a and the
    upper bound of the others' largest count at alpha / (2 (C - 1)), each of C - 1 classes having its share.
    The same models vote on all m samples; `simultaneous` spends alpha / m on each, so that all m statements hold
    together with probability 1 - alpha.
    """
    selection, votes = vote_counts("selection_counts", selection_counts), vote_counts("counts", counts)
    if selection.shape != votes.shape:
        raise CertificateError(f"selection_counts: got shape {selection.shape}, expected that of counts, {votes.shape}")
    each = error_level(alpha) / (max(1, len(votes)) if simultaneous else 1)
    if each < SMALLEST_LEVEL:
        raise CertificateError(f"alpha: got {each:g} for a sample, expected at least {SMALLEST_LEVEL:g}")
    samples, classes = int(votes[0].sum()) if len(votes) else 0, votes.shape[1]
    prediction = selection.argmax(axis=1)
    top, other = _split(votes, prediction)
    runner_up = other.max(axis=1)
    p_a = _binomial_lower(top, samples, each / 2)
    p_b = np.minimum(1 - p_a, _binomial_upper(runner_up, samples, each / (2 * (classes - 1))))
    estimate_a, estimate_b = top / max(samples, 1), runner_up / max(samples, 1)
    bounds = _from_votes("clopper_pearson", each, samples, classes, prediction, p_a, p_b, estimate_a, estimate_b)
    return replace(bounds, simultaneous=simultaneous)


def min_samples(method: str, alpha: float, classes: int = 2) -> int:
    """The smallest M at which unanimous votes are not abstained from; alpha is what one test sample may spend."""
    alpha = error_level(alpha)
    if method == "hoeffding":  # h < 1/2
        return math.floor(2 * math.log(1 / alpha)) + 1
    samples = 1
    while not _binomial_lower(np.array([samples]), samples, alpha / 2)[0] > min(
        1 - _binomial_lower(np.array([samples]), samples, alpha / 2)[0],
        _binomial_upper(np.array([0]), samples, alpha / (2 * (classes - 1)))[0],
    ):
        samples += 1
    return samples


def _split(votes: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Votes of the chosen class (m,), and all votes with the chosen class's set to 0 (m, C)."""
    top = np.take_along_axis(votes, chosen[:, None], axis=1)[:, 0]
    other = votes.copy()
    np.put_along_axis(other, chosen[:, None], 0, axis=1)
    return top, other


def _from_votes(
    method: str,
    alpha: float,
    samples: int,
    classes: int,
    prediction: IntArray,
    p_a: FloatArray,
    p_b: FloatArray,
    estimate_a: FloatArray,
    estimate_b: FloatArray,
) -> ProbabilityBounds:
    with np.errstate(divide="ignore"):
        logs = np.log1p(-p_a), np.log(p_b)
    return ProbabilityBounds(method, alpha, samples, classes, prediction, p_a, p_b, estimate_a, estimate_b, *logs)


def _binomial_lower(successes: IntArray, trials: int, alpha: float) -> FloatArray:
    """Exact one-sided lower confidence bound of a binomial's probability: a quantile of a beta distribution.

    scipy.stats has the same under another name, but takes half a second to import.
    """
    bound: FloatArray = special.betaincinv(np.maximum(successes, 1), trials - successes + 1, alpha)
    return np.where(successes > 0, bound, 0.0)


def _binomial_upper(successes: IntArray, trials: int, alpha: float) -> FloatArray:
    """Exact one-sided upper confidence bound of a binomial's probability."""
    bound: FloatArray = special.betainccinv(successes + 1, np.maximum(trials - successes, 1), alpha)
    return np.where(successes < trials, bound, 1.0)
