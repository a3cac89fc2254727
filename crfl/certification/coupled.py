"""The coupling certificate: how far one run's model can be from its benign counterpart's, and what that cannot change.

distance.py bounds that distance, Delta; here is each prediction's budget: the distance that cannot change it. Certified
where Delta is below the budget. Proofs stand in docs/theory.md. Unlike the published certificate this one is
sound for the single run at hand, label changes included.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from crfl.certification._checks import FloatArray, Result, finite, nonnegative, probability
from crfl.certification.coupling.rounds import RoundBounds, local_steps, longest_update, steps_too_long
from crfl.errors import CertificateError
from crfl.record import TrainingRecord

AVERAGING = ("mean", "weighted_mean")
"""Aggregation rules whose weights do not depend on the updates."""
BUDGET_SLACK = 1e-9
"""Relative slack on budgets, for rounding in float64."""


def margin_budget(logits: npt.ArrayLike, feature_norms: npt.ArrayLike) -> FloatArray:
    """min_{b != a} (l_a - l_b) / (sqrt(2) ||x~||): no closer linear model has another top class; (m,).

    `logits` (m, C) of the model at the samples, in float64; `feature_norms` (m,): ||x~|| = sqrt(1 + ||x||^2). A change
    of (W, b) by Delta moves l_a - l_b by at most sqrt(2) ||x~|| Delta, so the prediction is certified where
    Delta < budget, strictly. 0 where two classes tie. For isotropic noise the smoothed model has the same top class.
    """
    scores, norms = finite("logits", logits), nonnegative("feature_norms", feature_norms)
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise CertificateError(f"logits: got shape {scores.shape}, expected (samples, classes), at least 2 classes")
    top = np.partition(scores, -2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        budget: FloatArray = (top[:, -1] - top[:, -2]) / (math.sqrt(2) * norms)
    return np.where(top[:, -1] > top[:, -2], budget, 0.0)


def smoothing_budget(p_a: npt.ArrayLike, p_b: npt.ArrayLike, *, noise: npt.ArrayLike) -> Result:
    """sigma / 2 (Phi^-1(pA) - Phi^-1(pB)) (Cohen et al. 2019): no closer model votes otherwise under noise sigma.

    `p_a` bounds the top class's probability from below, `p_b` the others' from above. Certified where Delta < budget,
    strictly. 0 where pA <= pB and without noise, inf at pA = 1, pB = 0.
    """
    p_a, p_b = probability("p_a", p_a), probability("p_b", p_b)
    with np.errstate(divide="ignore"):
        return smoothing_budget_from_logs(np.log1p(-p_a), np.log(p_b), noise=noise)


def smoothing_budget_from_logs(log_not_p_a: npt.ArrayLike, log_p_b: npt.ArrayLike, *, noise: npt.ArrayLike) -> Result:
    """`smoothing_budget` from log(1 - pA) and log pB: right also where pA rounds to 1 and pB to 0."""
    sigma = nonnegative("noise", noise)
    with np.errstate(invalid="ignore"):
        logs = np.asarray(log_not_p_a, np.float64), np.asarray(log_p_b, np.float64)
        width = -special.ndtri_exp(logs[0]) - special.ndtri_exp(logs[1])
        return np.where((width > 0) & (sigma > 0), sigma / 2 * width, 0.0)[()]


def check_coupled(record: TrainingRecord, *, any_round: bool = False) -> None:
    """CertificateError, naming every reason, where the coupling argument does not apply to a run."""
    reasons = []
    if any(r.start_spectral_norm is None for r in record.rounds):
        reasons.append(f"the model ({record.model}) is not softmax regression: the loss must be convex and linear in x")
    if record.optimizer != "sgd":
        reasons.append(f"the optimizer is {record.optimizer!r}: only plain SGD steps bring two runs no further apart")
    if record.aggregation not in AVERAGING:
        reasons.append(
            f"server.aggregation is {record.aggregation!r}, whose weights depend on the updates: it can drive two runs "
            f"apart; expected {', '.join(AVERAGING)}"
        )
    if any(not w >= 0 for r in record.rounds for w in r.weights):
        reasons.append("an aggregation weight is negative or not a number")
    reasons += steps_too_long(record)
    if record.rounds[0].update_clip is not None:
        longest = longest_update(record, local_steps(record), np.array(record.learning_rates)).max(initial=0.0)
        if record.weight_decay > 0:
            reasons.append("server.update_clip together with local.weight_decay is not covered")
        elif longest > record.rounds[0].update_clip:
            reasons.append(
                f"server.update_clip is {record.rounds[0].update_clip:g}, below {longest:.6g} = tau eta sqrt(2) B: it may clip "
                "clean updates, which can drive two runs apart"
            )
    if any(r.dropped for r in record.rounds):
        reasons.append("the server dropped updates, so its weights depended on them")
    if not _malicious_bounded(record, any_round):
        reasons.append("attackers sent malicious updates of unknown norm: set server.update_clip")
    if any_round and len(record.attack_rounds) > 1:
        reasons.append("attack_round 'any' is about one attack in an unknown round; this run was attacked in several")
    if reasons:
        raise CertificateError("the coupling certificate does not hold for this run: " + "; ".join(reasons))


def _malicious_bounded(record: TrainingRecord, any_round: bool) -> bool:
    """Whether the norm of every malicious update is known or clipped."""
    malicious = [a for r in record.attack_rounds for a in r.attackers if a.update is not None]
    if any_round:
        return not malicious or record.rounds[0].update_clip is not None
    return all(math.isfinite(RoundBounds(record).malicious_norm(a)) for a in malicious)
