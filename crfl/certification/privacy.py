"""Certificates from differential privacy: what few users can change in the expectation of a private training.

Xie, Long, Chen, Li, Li, "Unraveling the connections between privacy and certified robustness in federated learning against
poisoning attacks", CCS 2023 (arXiv 2209.04030); section 13 of the theory. Training is a random function of the users. F_c(x)
is the expectation, over trainings, of the vote for class c (or its confidence, or anything from 0 to 1), and the prediction
is the class with the largest.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import FloatArray, IntArray, probability
from crfl.errors import CertificateError


def gaussian_delta(mu: float, epsilon: npt.ArrayLike) -> FloatArray:
    """The smallest delta for which mu-Gaussian privacy is (epsilon, delta)-privacy.

        delta = Phi(-eps / mu + mu / 2) - e^eps Phi(-eps / mu - mu / 2)

    (Balle and Wang 2018; Dong, Roth, Su 2022, corollary 1.) T rounds in which a user moves the sum by at most Delta in
    l2 norm, and noise N(0, sigma^2 I) is added to each, are mu-Gaussian private with mu = sqrt(T) Delta / sigma.

    Args:
        mu: positive.
        epsilon: 0 or more.

    Returns:
        delta, of the shape of `epsilon`; raised by its rounding error.

    Raises:
        CertificateError: a number is out of range.

    Example:
        >>> gaussian_delta(1.0, [0.0, 1.0, 3.0]).round(6)
        array([0.382925, 0.126937, 0.001537])
    """
    eps = np.asarray(epsilon, dtype=np.float64)
    if not (eps >= 0).all() or not 0 < mu < np.inf:
        raise CertificateError(f"mu, epsilon: got {mu} and {eps.tolist()}, expected mu > 0 and epsilon >= 0")
    below, above = special.log_ndtr(mu / 2 - eps / mu), eps + special.log_ndtr(-mu / 2 - eps / mu)
    rounding = 64 * np.finfo(np.float64).eps * (1 + np.abs(below) + np.abs(above))
    delta = np.exp(below) * np.minimum(1.0, -np.expm1(np.minimum(above - below, 0.0)) + rounding)
    return np.clip(delta * (1 + rounding), np.finfo(np.float64).tiny, 1.0)  # never 0: it is not, however small


def private_users(f_a: npt.ArrayLike, f_b: npt.ArrayLike, epsilon: npt.ArrayLike, delta: npt.ArrayLike) -> IntArray:
    """k: changed users that the prediction stands under (epsilon, delta)-privacy of one user.

        largest k with  e^{2 k eps} (F_B (e^eps - 1) + delta) < F_A (e^eps - 1) + delta

    By group privacy k users lower F_A to no less than e^{-k eps} F_A - delta (1 - e^{-k eps}) / (e^eps - 1), and raise
    F_B to no more than e^{k eps} F_B + delta (e^{k eps} - 1) / (e^eps - 1). If several pairs hold of the same training,
    each k stands, so the largest does.

    Args:
        f_a: lower bounds of F_A, (m,).
        f_b: upper bounds of every other class's F, (m,).
        epsilon: positive, one or several.
        delta: for each epsilon, 0 to 1.

    Returns:
        (m,) int64; 0 also where F_A > F_B fails and nothing is certified.

    Raises:
        CertificateError: a number is out of range.

    Example:
        >>> private_users([0.9, 0.6, 0.4], [0.1, 0.4, 0.6], epsilon=[0.1], delta=[0.001])
        array([10,  1,  0])
    """
    a, b = (probability(name, values)[..., None] for name, values in (("f_a", f_a), ("f_b", f_b)))
    eps, slack = np.atleast_1d(np.asarray(epsilon, dtype=np.float64)), probability("delta", np.atleast_1d(delta))
    if not ((eps > 0) & (eps < np.inf)).all():
        raise CertificateError(f"epsilon: got {eps.tolist()}, expected positive numbers")
    with np.errstate(divide="ignore", invalid="ignore"):
        factor, rest = np.log(-np.expm1(-eps)), np.log(slack) - eps  # both sides over e^eps, which may overflow
        ratio = np.logaddexp(np.log(a) + factor, rest) - np.logaddexp(np.log(b) + factor, rest)
        reach = np.where(a > b, ratio / (2 * eps), 0.0).max(axis=-1)
    return _strictly_below(reach)


def gaussian_users(f_a: npt.ArrayLike, f_b: npt.ArrayLike, mu: float) -> IntArray:
    """k: changed users that the prediction stands under mu-Gaussian privacy of one user.

        largest k with  k < (Phi^-1(F_A) - Phi^-1(F_B)) / (2 mu)

    k users are (k mu)-Gaussian private (Dong, Roth, Su 2022, theorem 2.14), so they lower F_A to no less than
    Phi(Phi^-1(F_A) - k mu) and raise F_B to no more than Phi(Phi^-1(F_B) + k mu). Tight if the outcome is one Gaussian:
    then it is the certificate of randomised smoothing (Cohen et al. 2019). Never below `private_users` for
    delta = gaussian_delta(mu, epsilon), up to rounding. The paper has epsilon and delta alone.

    Args:
        f_a: lower bounds of F_A, (m,).
        f_b: upper bounds of every other class's F, (m,).
        mu: of one user.

    Returns:
        (m,) int64; 0 also where F_A > F_B fails and nothing is certified.

    Raises:
        CertificateError: a number is out of range.

    Example:
        >>> gaussian_users([0.9, 0.6, 0.4], [0.1, 0.4, 0.6], mu=0.1)
        array([12,  2,  0])
    """
    a, b = probability("f_a", f_a), probability("f_b", f_b)
    if not 0 < mu < np.inf:
        raise CertificateError(f"mu: got {mu}, expected a positive number")
    with np.errstate(invalid="ignore"):
        return _strictly_below(np.where(a > b, (special.ndtri(a) - special.ndtri(b)) / (2 * mu), 0.0))


def _strictly_below(reach: FloatArray) -> IntArray:
    """The largest whole number strictly below each, less a rounding error; 0 at least, 2^62 at most."""
    lowered = reach * (1 - 1e-9) - 1e-9
    return np.clip(np.ceil(lowered) - 1, 0, 2.0**62).astype(np.int64)
