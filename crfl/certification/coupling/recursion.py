"""The recursion: Delta_t = clip(Lambda_t Delta_{t-1} + poison + rounding), round by round (Theorems 6 and 8)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.attackers import Attackers
from crfl.certification.coupling.clipping import clipped_distance
from crfl.certification.coupling.expansion import Expansion, expansions
from crfl.certification.coupling.poison import Poison, WorstPoison
from crfl.certification.coupling.rounding import Rounding, computed_norm
from crfl.certification.coupling.rounds import Rounds, blocks, round_shares
from crfl.record import RoundRecord


@dataclass(frozen=True)
class Stage:
    """What the recursion needs of a round beside its poison; none of it depends on the triggers' magnitude."""

    round: RoundRecord
    following: RoundRecord | None
    """The next round; None after the last."""
    expansion: Expansion
    """What the round multiplies as it is on record."""
    attacked: Expansion
    """What it multiplies if it is attacked."""
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
    if math.isinf(round_.clip_norm):
        return distance
    smallest = round_.pre_clip_norm / computed_norm(1.0, rounding.norm_error)
    own = rounding.clip(distance, round_.pre_clip_norm, round_.clip_norm)
    return clipped_distance(distance, smallest, round_.clip_norm) + own


def next_start(rounding: Rounding, stage: Stage, distance: FloatArray) -> FloatArray:
    """Distance of the models that the server sends out next, given that of the clipped ones: noise cancels."""
    if stage.following is None or stage.round.noise_std == 0:
        return distance
    return distance + rounding.noise(distance, stage.round, stage.following)


def make_stages(
    rounding: Rounding,
    rounds: Sequence[RoundRecord],
    scaling: Sequence[Attackers],
    attackers: Sequence[Attackers],
    num_attackers: int | None = None,
) -> list[Stage]:
    """The stages of all rounds.

    Args:
        rounding: of the run.
        rounds: all of them.
        scaling: who scales in each round as it is on record.
        attackers: who does if it is attacked.
        num_attackers: this many attackers instead, each like one of those.
    """
    stages: list[Stage] = []
    for rows in blocks(len(rounds), len(rounds[0].weights) if rounds else 0):
        some = Rounds(rounding, rounds[rows])
        plain, attacked = scaling[rows], attackers[rows]
        own, shares = expansions(some, plain, num_attackers), round_shares(some, plain, num_attackers)
        with_attack = own
        if attacked != plain:
            with_attack = expansions(some, attacked, num_attackers)
            shares = np.maximum(shares, round_shares(some, attacked, num_attackers))
        following = (*rounds[rows][1:], *rounds[rows.stop : rows.stop + 1], None)
        columns = some.records, following, own, with_attack, *shares.tolist()
        stages.extend(Stage(*values) for values in zip(*columns, strict=False))
    return stages


@dataclass(frozen=True)
class Stages:
    """All rounds of a run, and their poison."""

    rounding: Rounding
    each: Sequence[Stage]
    poison: Poison | WorstPoison
    harmful: bool
    """Whether any attacker can drive the two runs apart."""

    @cached_property
    def drift(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """The distance at the start of every round by rounding alone, if nobody has attacked yet; what the round makes
        of it if it is attacked; and what rounding adds in it. (T, 1) each."""
        rounding, start, found = self.rounding, np.zeros(1), []
        for stage in self.each:
            off = rounded(rounding, stage, start)
            found.append((start, stage.attacked(start), off))
            quiet = (stage.expansion(start) + off) * rounding.evaluation
            start = next_start(rounding, stage, after_clip(rounding, stage, quiet))
        drift, multiplied, off = np.array(found).reshape(-1, 3, 1).transpose(1, 0, 2)
        return drift, multiplied, off

    def attacked_now(self, magnitudes: FloatArray) -> Iterator[FloatArray]:
        """The distance after each round before clipping and evaluation, (k,), if that round is the attacked one."""
        drift, multiplied, off = self.drift
        for rows in blocks(len(self.each), len(magnitudes) * self.poison.nodes):
            yield from multiplied[rows] + self.poison(rows, magnitudes, drift[rows]) + off[rows]


def known_rounds(stages: Stages, magnitudes: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Delta_t before and after the clipping of every round, (k,) each, if the attackers of every stage attack (Theorem 8)."""
    rounding, start = stages.rounding, np.zeros(len(magnitudes))
    for number, stage in enumerate(stages.each):
        added = stages.poison(slice(number, number + 1), magnitudes, start[None])[0]
        before = (stage.expansion(start) + added + rounded(rounding, stage, start)) * rounding.evaluation
        after = after_clip(rounding, stage, before)
        yield before, after
        start = next_start(rounding, stage, after)


def unknown_round(stages: Stages, magnitudes: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """The same for an attack in whichever one round is worst (section 5, unknown attack round).

    Every map of rounds rises with the distance, so the worst attack so far stays the worst.
    """
    rounding, start = stages.rounding, np.zeros(len(magnitudes))
    for stage, now in zip(stages.each, stages.attacked_now(magnitudes), strict=True):
        earlier = stage.expansion(start) + rounded(rounding, stage, start)
        before = np.maximum(now, earlier) * rounding.evaluation
        after = after_clip(rounding, stage, before)
        yield before, after
        start = next_start(rounding, stage, after)
