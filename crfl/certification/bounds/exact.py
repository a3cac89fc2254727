"""Exact class probabilities of a linear model under Gaussian noise on its parameters.

Noise N(0, sigma^2 I) on (W, b) makes the logits of a sample independent normals with means l_c and one standard
deviation s = sigma ||x~||, x~ = (x, 1). With gaps d_c = (l_A - l_c) / s, A the top and B the second logit, z how far a
logit's draw is from l_A in units of s, phi and Phi the standard normal's density and distribution:

    1 - p_A = int phi(z) (1 - prod_{c != A} Phi(z + d_c)) dz
    p_B     = int phi(z + d_B) prod_{c != B} Phi(z + d_c) dz,        d_A = 0.

Both integrands live around the midpoint z = -d_B / 2 and share their factors; the trapezoid rule converges
exponentially for such functions. B has the second largest probability, since all logits have one deviation.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import FloatArray, finite, nonnegative
from crfl.certification.bounds.votes import ProbabilityBounds
from crfl.errors import CertificateError

HALF_WIDTH = 9.2
"""Half width of the integration window: what lies outside is below 1e-18 of the integral."""
FAR = 24.0
"""From this gap on the classes' chances to win exclude one another to a relative exp(-d^2 / 12) < 1e-20."""
NEGLIGIBLE = 1e-19
"""A class that beats A this much less often than B does, per pair of classes, is left out."""
CHUNK = 256
"""Samples integrated at once, so that the arrays stay in the processor's cache."""


def exact_bounds(logits: npt.ArrayLike, noise_stds: npt.ArrayLike) -> ProbabilityBounds:
    """p_A and p_B of the smoothed model, with log(1 - p_A) and log p_B, which stay right in the tails.

    Relative error about 1e-14, below 1e-12 as far down as float64 reaches; the logs go further.

    Args:
        logits: Those of the model without noise, (m, C), at least two classes.
        noise_stds: s = sigma ||x~||, the standard deviation of every logit, (m,) or a number: sigma sqrt(1 + ||x||^2)
            with a bias, sigma ||x|| without, or for noise on W alone.

    Returns:
        Bounds (m,) of method "exact", whose p_a and p_b are the probabilities themselves. Without noise the top class
        has probability 1; classes that tie share it equally, and the lowest of them is A.

    Raises:
        CertificateError: logits are not finite, deviations are below 0, or shapes do not fit.

    Example:
        >>> bounds = exact_bounds([[2.0, 0.0, -1.0]], noise_stds=1.0)
        >>> bounds.p_a.round(4), bounds.p_b.round(4)
        (array([0.9115]), array([0.0761]))
    """
    means = finite("logits", logits)
    if means.ndim != 2 or means.shape[1] < 2:
        raise CertificateError(f"logits: got shape {means.shape}, expected (samples, classes), at least 2 classes")
    stds = nonnegative("noise_stds", noise_stds)
    if stds.shape not in ((), (1,), means.shape[:1]):
        raise CertificateError(f"noise_stds: got shape {stds.shape}, expected a number or ({len(means)},)")
    stds = np.broadcast_to(stds, means.shape[:1])
    prediction = means.argmax(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gaps = np.sort(means.max(axis=1, keepdims=True) - means, axis=1)[:, 1:]
        gaps = np.where(gaps == 0, 0.0, gaps / stds[:, None])
    log_not_p_a, log_p_b = np.empty(len(gaps)), np.empty(len(gaps))
    order = np.argsort(gaps[:, 0])  # neighbours are alike, so whole chunks can leave out the same classes
    for start in range(0, len(order), CHUNK):
        rows = order[start : start + CHUNK]
        far = rows[gaps[rows, 0] >= FAR]
        near = rows[gaps[rows, 0] < FAR]
        log_not_p_a[far], log_p_b[far] = _far(gaps[far])
        log_not_p_a[near], log_p_b[near] = _integrate(gaps[near])
    p_a, p_b = -np.expm1(log_not_p_a), np.exp(log_p_b)
    tie = gaps[:, 0] == 0
    p_a[tie] = p_b[tie]
    log_not_p_a[tie] = np.log1p(-p_b[tie])
    return ProbabilityBounds("exact", 0.0, 0, means.shape[1], prediction, p_a, p_b, p_a, p_b, log_not_p_a, log_p_b)


def _far(gaps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log(1 - p_A) and log p_B where all gaps (k, C - 1) are large: a class wins if it beats A."""
    beats = special.log_ndtr(-gaps * math.sqrt(0.5))
    total: FloatArray = special.logsumexp(beats, axis=1)
    return total, beats[:, 0]


def _integrate(gaps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """log(1 - p_A) and log p_B by the trapezoid rule, from rising gaps (k, C - 1) that begin below FAR."""
    classes = gaps.shape[1] + 1
    # The more classes, the steeper the product: this step keeps the error near rounding up to thousands of them.
    step = min(0.25, 0.45 / math.sqrt(2 * math.log(classes)))
    nodes = step * np.arange(-math.ceil(HALF_WIDTH / step), math.ceil(HALF_WIDTH / step) + 1)
    nearest = gaps[:, :1]
    z = nodes - nearest / 2
    lost = _both_tails(z + nearest)[0]  # some class is above A
    won = _both_tails(z)[1]  # no class is above B
    beats = special.erfc(gaps / 2)
    matter = (beats > NEGLIGIBLE / classes**2 * beats[:, :1]).any(axis=0)
    for column in np.flatnonzero(matter[1:]) + 1:
        above, below = _both_tails(z + gaps[:, column, None])
        lost += above * (1 - lost)
        won *= below
    scale = step / math.sqrt(2 * math.pi)
    not_p_a = scale * (np.exp(-np.square(z) / 2) * lost).sum(axis=1)
    p_b = scale * (np.exp(-np.square(z + nearest) / 2) * won).sum(axis=1)
    return np.log(not_p_a), np.log(p_b)


def _both_tails(t: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Phi(-t) and Phi(t), both with full relative precision, from one evaluation."""
    small = 0.5 * special.erfc(np.abs(t) * math.sqrt(0.5))
    large = 1 - small
    positive = t > 0
    return np.where(positive, small, large), np.where(positive, large, small)
