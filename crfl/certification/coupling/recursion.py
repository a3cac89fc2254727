"""The recursion: Delta_t = clip(Lambda_t Delta_{t-1} + poison + rounding), round by round (Theorems 6 and 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.attackers import Attackers
from crfl.certification.coupling.clipping import clipped_distance
from crfl.certification.coupling.expansion import Expansion
from crfl.certification.coupling.poison import poison
from crfl.certification.coupling.rounding import Rounding, computed_norm
from crfl.record import RoundRecord


@dataclass(frozen=True)
class Stage:
    """What the recursion needs of a round; none of it depends on the triggers' magnitude."""

    round: RoundRecord
    following: RoundRecord | None
    """The next round; None after the last."""
    attackers: Attackers
    """Whose poison counts in this round."""
    num_attackers: int | None
    """This many attackers instead, each like one of `attackers`; None: the attackers themselves."""
    expansion: Expansion
    """What the round multiplies as it is on record."""
    attacked: Expansion
    """What it multiplies if `attackers` attack in it."""
    slope: float
    constant: float
    """Rounding of one run until the models are clipped: slope ||z_t|| + constant, the larger with and without attack."""


def rounded(rounding: Rounding, stage: Stage, distance: FloatArray) -> FloatArray:
    """How far rounding drives both runs apart in a round until the models are clipped (Lemma 24).

    The norm of one run's model is on record, that of the other exceeds it by at most the distance D (k,).
    """
    norm = computed_norm(stage.round.start_norm, rounding.norm_error)
    return stage.slope * (2 * norm + distance) + 2 * stage.constant


def after_clip(rounding: Rounding, stage: Stage, distance: FloatArray) -> FloatArray:
    """Distance of the clipped models, given that before clipping: Lemma 7 and the rounding of both projections."""
    round_ = stage.round
    smallest = round_.pre_clip_norm / computed_norm(1.0, rounding.norm_error)
    own = rounding.clip(distance, round_.pre_clip_norm, round_.clip_norm)
    return clipped_distance(distance, smallest, round_.clip_norm) + own


def next_start(rounding: Rounding, stage: Stage, distance: FloatArray) -> FloatArray:
    """Distance of the models that the server sends out next, given that of the clipped ones: noise cancels."""
    if stage.following is None:
        return distance
    return distance + rounding.noise(distance, stage.round, stage.following)


def known_rounds(
    rounding: Rounding, stages: Sequence[Stage], magnitudes: FloatArray
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Delta_t before and after the clipping of every round, (k,) each, if the attackers of every stage attack (Theorem 8)."""
    start = np.zeros(len(magnitudes))
    for stage in stages:
        added = poison(rounding, stage.round, stage.attackers, magnitudes, start, stage.num_attackers)
        before = (stage.expansion(start) + added + rounded(rounding, stage, start)) * rounding.evaluation
        after = after_clip(rounding, stage, before)
        yield before, after
        start = next_start(rounding, stage, after)


def unknown_round(
    rounding: Rounding, stages: Sequence[Stage], magnitudes: FloatArray
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The same for an attack in whichever one round is worst (section 5, unknown attack round).

    Every map of rounds rises with the distance, so the worst attack so far stays the worst. `drift`: by rounding alone,
    if nobody has attacked yet.
    """
    start = drift = np.zeros(len(magnitudes))
    for stage in stages:
        added = poison(rounding, stage.round, stage.attackers, magnitudes, drift, stage.num_attackers)
        now = stage.attacked(drift) + added + rounded(rounding, stage, drift)
        earlier = stage.expansion(start) + rounded(rounding, stage, start)
        before = np.maximum(now, earlier) * rounding.evaluation
        after = after_clip(rounding, stage, before)
        yield before, after
        quiet = (stage.expansion(drift) + rounded(rounding, stage, drift)) * rounding.evaluation
        start, drift = (
            next_start(rounding, stage, after),
            next_start(rounding, stage, after_clip(rounding, stage, quiet)),
        )
