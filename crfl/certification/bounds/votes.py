"""Bounds on the class probabilities of the smoothed model: from votes (Hoeffding, Clopper-Pearson) or exact."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import BoolArray, FloatArray, IntArray, error_level, vote_counts
from crfl.certification._content import Content
from crfl.errors import CertificateError

if TYPE_CHECKING:
    import pandas as pd

Method = Literal["hoeffding", "clopper_pearson", "exact"]


@dataclass(frozen=True, repr=False, eq=False)
class ProbabilityBounds(Content):
    """Bounds for m test samples; all arrays have shape (m,).

    Example:
        >>> bounds = hoeffding([[95, 5], [52, 48]], alpha=0.01)
        >>> bounds.prediction, bounds.abstained
        (array([0, 0]), array([False,  True]))
    """

    method: Method
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

    def to_frame(self) -> pd.DataFrame:
        """A row for each sample: prediction, p_a, p_b, estimate_a, estimate_b, abstained."""
        import pandas as pd

        names = ("prediction", "p_a", "p_b", "estimate_a", "estimate_b", "abstained")
        return pd.DataFrame({name: getattr(self, name) for name in names})


def hoeffding(counts: npt.ArrayLike, alpha: float) -> ProbabilityBounds:
    """Algorithm 2's bounds, as the paper has them: pA = p^A - h, pB = p^B + h, h = sqrt(log(1 / alpha) / (2 M)).

    The paper prints N under the root; M is meant. Each of the two bounds spends alpha, and the classes are chosen from
    the same votes: no joint level is proved, certainly not alpha. Use `clopper_pearson` where that matters.

    Args:
        counts: Votes (m, C) of M models. A and B are the two most frequent classes, the lower number on a tie.
        alpha: Error level of each of the two bounds, between 0 and 1.

    Returns:
        Bounds (m,), cut to 0 to 1.

    Raises:
        CertificateError: the counts are no votes, or alpha is out of range.

    Example:
        >>> bounds = hoeffding([[950, 50], [520, 480]], alpha=0.001)
        >>> bounds.p_a.round(3), bounds.abstained
        (array([0.891, 0.461]), array([False,  True]))
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
    """Sound bounds: for each test sample, P(p_a > p_A or p_b < max_{c != A} p_c) <= alpha (Proposition 14).

    With two classes p_a is the exact binomial lower bound L of A's votes at alpha, and p_b = 1 - p_a. With more, L is
    that at alpha / 2, and p_b the lesser of 1 - L and the exact upper bound of the others' largest count at alpha / 2.
    The classes other than A need no union bound: only the bound of the most likely of them has to hold.

    Args:
        selection_counts: Votes (m, C) of models drawn apart from those of `counts`; only they choose A (Cohen et al.
            2019). They may be fewer or more.
        counts: Votes (m, C) of M models.
        alpha: Error level of each sample, between 0 and 1.
        simultaneous: Spend alpha / m on each sample: then all m statements hold together with probability 1 - alpha.
            The same models vote on all samples, so by default each statement holds for its sample alone.

    Returns:
        Bounds (m,); their `alpha` is what one sample spends.

    Raises:
        CertificateError: the counts are no votes or of different shapes, or alpha is out of range.

    Example:
        >>> bounds = clopper_pearson([[9, 1, 0]], [[950, 40, 10]], alpha=0.001)
        >>> bounds.p_a.round(3), bounds.p_b.round(3)
        (array([0.923]), array([0.065]))
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
    p_a, p_b = _levelled(top, runner_up, samples, classes, each)
    estimate_a, estimate_b = top / max(samples, 1), runner_up / max(samples, 1)
    bounds = _from_votes("clopper_pearson", each, samples, classes, prediction, p_a, p_b, estimate_a, estimate_b)
    return replace(bounds, simultaneous=simultaneous)


def min_samples(method: Method, alpha: float, classes: int = 2) -> int:
    """The smallest M at which unanimous votes are not abstained from.

    Args:
        method: "hoeffding" or "clopper_pearson".
        alpha: What one test sample may spend.
        classes: C

    Returns:
        M, 1 or more.

    Raises:
        CertificateError: alpha is out of range, or the method takes no votes.

    Example:
        >>> min_samples("hoeffding", 0.001), min_samples("clopper_pearson", 0.001, classes=10)
        (14, 11)
    """
    alpha = error_level(alpha)
    if method == "hoeffding":  # h < 1/2
        return math.floor(2 * math.log(1 / alpha)) + 1
    if method != "clopper_pearson":
        raise CertificateError(f"method: got {method!r}, expected 'hoeffding' or 'clopper_pearson'")
    samples = 1
    while not np.greater(*_levelled(np.array([samples]), np.array([0]), samples, classes, alpha))[0]:
        samples += 1
    return samples


def _levelled(
    top: IntArray, runner_up: IntArray, samples: int, classes: int, alpha: float
) -> tuple[FloatArray, FloatArray]:
    """p_a and p_b of Proposition 14 from A's votes and the most of another class, at level alpha a sample."""
    if classes == 2:  # both bounds are one event
        p_a = _binomial_lower(top, samples, alpha)
        return p_a, 1 - p_a
    p_a = _binomial_lower(top, samples, alpha / 2)
    return p_a, np.minimum(1 - p_a, _binomial_upper(runner_up, samples, alpha / 2))


def _split(votes: IntArray, chosen: IntArray) -> tuple[IntArray, IntArray]:
    """Votes of the chosen class (m,), and all votes with the chosen class's set to 0 (m, C)."""
    top = np.take_along_axis(votes, chosen[:, None], axis=1)[:, 0]
    other = votes.copy()
    np.put_along_axis(other, chosen[:, None], 0, axis=1)
    return top, other


def _from_votes(
    method: Method,
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
