"""The runs to which the coupling argument does not apply, and the reasons (docs/theory.md, section 5)."""

from __future__ import annotations

import math

import numpy as np

from crfl.certification.coupling.arithmetic import FLOAT32_UNIT, RANGE
from crfl.certification.coupling.local import LocalTraining, feature_bound, learning_rates
from crfl.certification.coupling.poison import malicious_norm
from crfl.errors import CertificateError
from crfl.record import RoundRecord, TrainingRecord

UNKNOWN_ATTACK = (
    "the clients trained out of the server's sight and no attack is on record, so nobody knows what to certify against: "
    "name the attack in the settings (attack.*), or use kind 'clients'"
)


def check_coupled(record: TrainingRecord, *, any_round: bool = False) -> None:
    """Refuse runs to which the coupling argument does not apply.

    Args:
        record: of the run.
        any_round: whether the certificate is about one attack in an unknown round.

    Raises:
        CertificateError: it names every reason.
    """
    reasons = _reasons(record) + _drops(record)
    if not _malicious_bounded(record, any_round):
        reasons.append("attackers sent malicious updates of unknown norm: set server.update_clip")
    if record.client_reported and not record.attack_rounds:
        reasons.append(UNKNOWN_ATTACK)
    if any_round and len(record.attack_rounds) > 1:
        reasons.append("attack_round 'any' is about one attack in an unknown round; this run was attacked in several")
    if reasons:
        raise CertificateError("the coupling certificate does not hold for this run: " + "; ".join(reasons))


def check_clients(record: TrainingRecord) -> None:
    """Refuse runs to which Theorem 17 does not apply; the CertificateError names every reason."""
    reasons = _reasons(record)
    if any(r.update_clip is None for r in record.rounds):
        reasons.append("the server did not clip updates, so one client can do anything; set server.update_clip")
    if reasons:
        raise CertificateError("kind 'clients' does not hold for this run: " + "; ".join(reasons))


def steps_too_long(record: TrainingRecord) -> list[str]:
    """Why a local step may move two runs apart: eta > 2 / (beta + 2 lambda), condition (2). Empty if no step may."""
    smoothness = np.minimum(np.array(record.smoothness, dtype=np.float64), feature_bound(record) ** 2 / 2)
    limits = 2 / (smoothness + 2 * record.weight_decay)
    for round_ in record.rounds:
        rates = learning_rates(record, round_)
        wrong = np.flatnonzero(~(rates <= limits))
        if len(wrong):
            i = wrong[np.argmax(rates[wrong] / limits[wrong])]
            return [
                f"local.learning_rate is {rates[i]:g} in round {round_.round}, above {limits[i]:.6g} = 2 / (beta + 2 "
                f"weight_decay), beta = {smoothness[i]:.6g} bounding the Hessian of the batches of client "
                f"{record.client_names[i].removeprefix('client ')} (at most half of {feature_bound(record):.6g} squared, the largest norm of "
                f"{'(x, 1)' if record.bias else 'x'}): a step can then drive two runs apart"
            ]
    return []


def _reasons(record: TrainingRecord) -> list[str]:
    """Why no coupling argument applies."""
    reasons = []
    if any(r.start_spectral_norm is None for r in record.rounds):
        reasons.append(f"the model ({record.model}) is not softmax regression: the loss must be convex and linear in x")
    if record.optimizer != "sgd":
        reasons.append(f"the optimizer is {record.optimizer!r}: only plain SGD steps bring two runs no further apart")
    if not record.data_independent_weights:
        reasons.append(
            f"server.aggregation is {record.aggregation!r}, whose weights depend on the updates: it can drive two runs "
            "apart; expected mean, weighted_mean, or a rule with data-independent weights"
        )
    if any(not w >= 0 for r in record.rounds for w in set(r.weights)):
        reasons.append("an aggregation weight is negative or not a number")
    if any(not 0 <= r.decay <= 1 for r in record.rounds):
        reasons.append("a server decay kappa_t lies outside 0 to 1")
    if any(not (math.isfinite(r.start_norm) and math.isfinite(r.pre_clip_norm)) for r in record.rounds):
        reasons.append("the norm of a model is not finite")
    if record.norm_bound is not None and not record.max_feature_norm <= record.norm_bound * (1 + 1e-6):
        reasons.append(
            f"a training sample has norm {record.max_feature_norm:.6g}, above the bound {record.norm_bound:.6g} that "
            "is said to hold for all features"
        )
    return reasons + steps_too_long(record) + _drowned(record) + _out_of_range(record)


def failed_clients(record: TrainingRecord) -> tuple[int, ...]:
    """Clients whose update was dropped in some round though no attack of theirs is on record; rising."""
    return tuple(sorted({client for r in record.rounds for client in _dropped_unknown(r)}))


def _dropped_unknown(round_: RoundRecord) -> set[int]:
    """Who was dropped in a round and is no attacker on record."""
    return {d.client for d in round_.dropped} - {a.client for a in round_.attackers if a.potential_weight > 0}


def _drops(record: TrainingRecord) -> list[str]:
    """Dropped updates are covered if the server clips updates, and only attackers were dropped (Theorem 10)."""
    for round_ in record.rounds:
        if _dropped_unknown(round_) or (round_.dropped and round_.update_clip is None):
            return [
                f"the server dropped updates in round {round_.round}, so its weights depended on them; that is covered "
                "for attackers on record, and if server.update_clip is set (kind 'clients' counts the others as malicious)"
            ]
    return []


def _out_of_range(record: TrainingRecord) -> list[str]:
    """Numbers so large or small that a clean update may overflow or vanish (Lemma 19)."""
    limit, local = RANGE.get(record.precision, 0.0), LocalTraining(record)
    scale = max((abs(a.scale) for r in record.attack_rounds for a in r.attackers), default=1.0)
    largest, smallest = max(scale, feature_bound(record)), math.inf
    for round_ in record.rounds:
        rates = local.rates(round_)
        with np.errstate(invalid="ignore"):  # a norm that is not finite is refused anyway
            length = float(local.longest_update(rates, round_.start_norm).max(initial=0.0))
        largest = max(
            largest, round_.start_norm, round_.pre_clip_norm, rates.max(initial=0.0), max(scale, 1.0) * length
        )
        clips = [c for c in (round_.clip_norm, round_.update_clip) if c is not None]
        smallest = min(smallest, rates.min(initial=math.inf), *clips)
    if largest <= limit and smallest >= 2.0**-100:
        return []
    return [
        f"norms, clips, learning rates and factors lie between {smallest:.3g} and {largest:.3g}, expected 2^-100 to "
        f"{limit:.3g}: beyond that, updates may overflow or vanish in {record.precision}"
    ]


def _drowned(record: TrainingRecord) -> list[str]:
    """In float32, steps so short that they can be lost in the weights: nothing is known of their rounding."""
    if record.precision == "float64":
        return []
    if record.precision != "float32":
        return [f"local.precision is {record.precision!r}: nothing is known of its rounding"]
    for round_ in record.rounds:
        rates = learning_rates(record, round_)[np.array(round_.weights) > 0]
        step = rates.min(initial=math.inf) * math.sqrt(2) * feature_bound(record)
        if step < 2 * FLOAT32_UNIT * round_.start_norm:
            return [
                f"a local step moves the weights by at most {step:.3g} in round {round_.round}, less than the spacing "
                f"of float32 at their norm of {round_.start_norm:.3g}: it may be lost in rounding. Train with "
                "local.precision: float64"
            ]
    return []


def _malicious_bounded(record: TrainingRecord, any_round: bool) -> bool:
    """Whether the norm of every malicious update is known or clipped."""
    if not any(a.update is not None for r in record.attack_rounds for a in r.attackers):
        return True
    rounds: tuple[RoundRecord, ...] = record.rounds if any_round else record.attack_rounds
    if any_round:
        return all(r.update_clip is not None for r in rounds)
    return all(
        math.isfinite(malicious_norm(record, r, a)) or max(a.weight, a.potential_weight) == 0
        for r in rounds
        for a in r.attackers
        if a.update is not None
    )
