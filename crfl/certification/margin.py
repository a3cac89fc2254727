"""Budgets: the distance in parameter space that cannot change a prediction (section 6 of docs/theory.md).

coupling/ bounds the distance Delta of a run's model from its benign counterpart's; a prediction is certified where Delta
is below its budget, strictly.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import FloatArray, Result, finite, nonnegative, probability
from crfl.certification.coupling.arithmetic import gamma
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.rounding import Rounding, computed_norm
from crfl.errors import CertificateError
from crfl.record import TrainingRecord

NUMERICAL_ERROR = 1e-9
"""Relative accuracy of budgets, in float64: exact class probabilities are the least accurate of them."""


def margin_budget(logits: npt.ArrayLike, feature_norms: npt.ArrayLike) -> FloatArray:
    """min_{b != a} (l_a - l_b) / (sqrt(2) ||x~||): no closer linear model has another top class (Theorem 11).

    A change of (W, b) by Delta moves l_a - l_b by at most sqrt(2) ||x~|| Delta. So a prediction is certified where
    Delta < budget, strictly. Under isotropic noise the smoothed model has the same top class.

    Args:
        logits: l (m, C) of the model at the samples, in float64.
        feature_norms: ||x~|| (m,); x~ = (x, 1) for a model with a bias, else x.

    Returns:
        Budgets (m,), 0 where two classes tie.

    Raises:
        CertificateError: a number is not finite, a norm is negative, or there are fewer than two classes.

    Example:
        >>> margin_budget([[2.0, 0.0, 1.0], [1.0, 1.0, 0.0]], [1.0, 2.0]).round(4)
        array([0.7071, 0.    ])
    """
    return class_budgets(logits, feature_norms).min(axis=1)


def class_budgets(logits: npt.ArrayLike, feature_norms: npt.ArrayLike) -> FloatArray:
    """(l_a - l_b) / (sqrt(2) ||x~||) for each class b: no closer linear model has the top class b.

    Args:
        logits: l (m, C) of the model at the samples, in float64.
        feature_norms: ||x~|| (m,); x~ = (x, 1) for a model with a bias, else x.

    Returns:
        Budgets (m, C), inf for the top class itself. `margin_budget` is the smallest of each row.

    Raises:
        CertificateError: a number is not finite, a norm is negative, or there are fewer than two classes.

    Example:
        >>> class_budgets([[2.0, 0.0, 1.0]], [1.0]).round(4)
        array([[   inf, 1.4142, 0.7071]])
    """
    scores, norms = finite("logits", logits), nonnegative("feature_norms", feature_norms)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise CertificateError(f"logits: got shape {scores.shape}, expected (samples, classes), at least 2 classes")
    ahead = scores.max(axis=1, keepdims=True) - scores
    with np.errstate(divide="ignore", invalid="ignore"):
        budget = np.where(ahead > 0, ahead / (math.sqrt(2) * norms[..., None]), 0.0)
    np.put_along_axis(budget, scores.argmax(axis=1)[:, None], np.inf, axis=1)
    return budget


def smoothing_budget(p_a: npt.ArrayLike, p_b: npt.ArrayLike, *, noise: npt.ArrayLike) -> Result:
    """sigma / 2 (Phi^-1(pA) - Phi^-1(pB)): no closer model votes otherwise under noise sigma (Theorem 12; Cohen et al.).

    It holds for any model. A vote is certified where Delta < budget, strictly.

    Args:
        p_a: Lower bound of the top class's probability, 0 to 1.
        p_b: Upper bound of every other class's probability, 0 to 1.
        noise: sigma, 0 or more.

    Returns:
        Broadcast shape: 0 where pA <= pB and without noise, inf at pA = 1, pB = 0.

    Raises:
        CertificateError: a number is out of its range.

    Example:
        >>> float(smoothing_budget(0.9, 0.1, noise=0.01).round(6))
        0.012816
    """
    p_a, p_b = probability("p_a", p_a), probability("p_b", p_b)
    with np.errstate(divide="ignore"):
        return smoothing_budget_from_logs(np.log1p(-p_a), np.log(p_b), noise=noise)


def smoothing_budget_from_logs(log_not_p_a: npt.ArrayLike, log_p_b: npt.ArrayLike, *, noise: npt.ArrayLike) -> Result:
    """`smoothing_budget` from logarithms: right also where pA rounds to 1 and pB to 0.

    Args:
        log_not_p_a: log(1 - pA).
        log_p_b: log pB.
        noise: sigma, 0 or more.

    Returns:
        As `smoothing_budget`.

    Raises:
        CertificateError: the noise is negative or not finite.

    Example:
        >>> float(smoothing_budget_from_logs(np.log(0.1), np.log(0.1), noise=0.01).round(6))
        0.012816
    """
    sigma = nonnegative("noise", noise)
    with np.errstate(invalid="ignore"):
        logs = np.asarray(log_not_p_a, np.float64), np.asarray(log_p_b, np.float64)
        width = -special.ndtri_exp(logs[0]) - special.ndtri_exp(logs[1])
        return np.where((width > 0) & (sigma > 0), sigma / 2 * width, 0.0)[()]


def budget_before_clip(record: TrainingRecord, budget: FloatArray) -> FloatArray:
    """Margin budgets of the model before round T's clip, from those of the final model: times ||v_T|| / rho_T.

    The clip scales (W, b), which keeps the top class, so it may be left out of Delta (section 6, before the last clip).

    Args:
        record: Of the run.
        budget: Of the final model, (m,) or (m, C).

    Returns:
        The same shape, nowhere smaller.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None, "server.clip.start": 0.1})
        >>> record = crfl.train(exp, crfl.load_data(exp)).record
        >>> bool(budget_before_clip(record, np.array([1.0]))[0] > 1.0)
        True
    """
    last = record.rounds[-1]
    return budget * max(1.0, last.pre_clip_norm / last.clip_norm)


def lowered_budget(record: TrainingRecord, budget: FloatArray) -> FloatArray:
    """Budgets less what rounding can do when the predictions of both runs are computed in float64 (Lemma 25).

    (budget (1 - 1e-9 - g) - 2 g ||v_T||) / (1 + g): logits are off by gamma_(d+4) ||w|| ||x~||, the projected model by
    gamma_(P+8) ||w||; g is the sum of both, and the norms ||x~|| and ||v_T|| that budgets are made of are off by less.

    Args:
        record: Of the run.
        budget: (m,) or (m, C), as `budget_before_clip` returns them.

    Returns:
        The same shape, not below 0.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> record = crfl.train(exp, crfl.load_data(exp)).record
        >>> bool(0.999 < lowered_budget(record, np.array([1.0])) < 1.0)
        True
    """
    rounding, norm = Rounding(LocalTraining(record)), record.rounds[-1].pre_clip_norm
    g = rounding.projection + float(gamma(record.num_features + 16))
    lowered = (budget * (1 - NUMERICAL_ERROR - g) - 2 * g * computed_norm(norm, rounding.norm_error)) / (1 + g)
    return np.maximum(lowered, 0.0)
