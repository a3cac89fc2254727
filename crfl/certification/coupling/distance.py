"""Delta: how far the models of a run and of its benign counterpart can be apart, round by round.

Both start alike, take the same batches in the same order and get the same noise, and the attackers scale in both; only
the attackers' data differs. What the poison adds in the attack round is bounded by the sharp Lipschitz constant; later
rounds keep the distance (softmax regression's loss is convex and B^2 / 2-smooth, so steps of eta <= 4 / B^2 do not
increase it), and clipping shrinks it. Proofs stand in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from crfl.certification._checks import BoolArray, FloatArray, nonnegative
from crfl.certification._monotone import largest_below
from crfl.certification.coupling.rounds import Crew, RoundBounds
from crfl.certification.scenario import NO_ATTACKER, attackers_like
from crfl.errors import CertificateError
from crfl.record import RoundRecord, TrainingRecord


@dataclass(frozen=True)
class _Stage:
    """A round as the distance sees it, whatever the triggers' magnitude."""

    round: RoundRecord
    crew: Crew
    """Whose poison counts in this round."""
    active: bool
    """Whether the two runs are to compute different things in it."""
    copies: int | None
    """So many attackers like one of the crew, instead of the crew."""
    growth: float
    """Lambda as on record."""
    joined: float
    """Lambda if the crew attacks."""
    rounding: float


@dataclass(frozen=True)
class CoupledScenario:
    """Delta, the largest distance of the final models of a run and its benign counterpart, by trigger magnitude."""

    record: TrainingRecord
    before_clip: bool
    """Take the models before round T's clipping (which keeps a linear model's argmax) instead of after."""
    any_round: bool = False
    """The attack may have been in any one round: take the worst."""

    def radius(self, budget: FloatArray) -> FloatArray:
        """Largest magnitude with Delta below each budget (m,), rounded down; inf if no magnitude reaches it."""
        stages = self._stages(None, None)

        def last(magnitudes: FloatArray) -> FloatArray:
            return self._final(stages, magnitudes)

        return largest_below(last, budget, RoundBounds(self.record).diameter)

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """Delta < budget, strictly."""
        return cost < budget

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """Delta for this magnitude, with another q_B or another number of attackers."""
        if attackers is not None and not self.record.attack_rounds:
            raise CertificateError(NO_ATTACKER)
        return float(self._final(self._stages(poisoned, attackers), np.array([magnitude]))[0])

    @property
    def total_rounding(self) -> float:
        """The slack for float32 of all rounds together, as if no clipping shrank it."""
        return sum(stage.rounding for stage in self._stages(None, None))

    def distances(self, magnitude: float) -> FloatArray:
        """Delta_t before and after the clipping of every round, (T, 2)."""
        size = nonnegative("magnitude", [magnitude])
        pairs = self._distances(self._stages(None, None), size)
        return np.array([[before[0], after[0]] for before, after in pairs]).reshape(-1, 2)

    def _final(self, stages: list[_Stage], magnitudes: FloatArray) -> FloatArray:
        before = after = np.zeros(len(magnitudes))
        for before, after in self._distances(stages, magnitudes):  # noqa: B007 the last ones are wanted
            pass
        return before if self.before_clip else after

    def _stages(self, poisoned: int | None, attackers: int | None) -> list[_Stage]:
        """The rounds, with another q_B or another number of attackers."""
        known = {r.round: attackers_like(self.record, r, poisoned, attackers) for r in self.record.attack_rounds}
        bounds, stages = RoundBounds(self.record), []
        for round_ in self.record.rounds:
            scaling = known.get(round_.round, ())
            crew = _moved_to(round_, next(iter(known.values()), ())) if self.any_round else scaling
            stages.append(
                _Stage(
                    round_,
                    crew,
                    bounds.active(crew) and attackers != 0,
                    attackers,
                    bounds.growth(round_, scaling, attackers),
                    bounds.growth(round_, crew, attackers),
                    bounds.rounding(round_, scaling or crew, attackers),
                )
            )
        return stages

    def _distances(self, stages: list[_Stage], magnitudes: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Delta_t of each magnitude (k,) before and after the clipping of every round."""
        bounds = RoundBounds(self.record)
        now = drift = np.zeros(len(magnitudes))  # drift: by rounding alone, before any attack
        attacked = any(stage.active for stage in stages)
        for stage in stages:
            if self.any_round:  # every later map rises, so the worst round so far stays the worst
                poison = bounds.poisoning(stage.round, stage.crew, magnitudes, drift, stage.copies)
                now = np.maximum(stage.growth * now, stage.joined * drift + poison)
                drift = _clipped(stage.growth * drift + stage.rounding, stage.round)
            else:
                now = stage.growth * now + bounds.poisoning(stage.round, stage.crew, magnitudes, now, stage.copies)
            before = now + stage.rounding if attacked else now
            now = _clipped(before, stage.round)
            yield before, now

    def malicious_cost(self, silent: bool) -> tuple[float, float]:
        """What an arbitrary update of one client in one round adds to the distance at most, and the fixed slack.

        2 p S for clipped updates, whatever else the client might have sent; p S against sending nothing (`silent`).
        """
        if self.record.rounds[0].update_clip is None:
            raise CertificateError(
                "max_malicious: the server did not clip updates, so one of them can do anything; set server.update_clip"
            )
        largest = max((max(r.weights) for r in self.record.rounds), default=0.0)
        return (1 if silent else 2) * largest * self.record.rounds[0].update_clip, self.total_rounding


def _moved_to(round_: RoundRecord, crew: Crew) -> Crew:
    """The same attackers in another round, with its weights; what they would have sent there is unknown."""
    return tuple(replace(a, weight=round_.weights[a.client], update_norm=None) for a in crew)


def _clipped(distance: FloatArray, round_: RoundRecord) -> FloatArray:
    """The largest distance D (k,) leaves after the projection on the ball of radius rho (Lemma 7 of docs/theory.md).

    With n the norm on record of one of the two models: D if n <= rho; else the chord of the angle whose sine is D / n,
    or, where the other model may lie inside the ball, sqrt(rho / n (D^2 - (n - rho)^2)), at most 2 rho.
    """
    n, rho = round_.pre_clip_norm, round_.clip_norm
    if n <= rho:
        return distance
    sine = np.minimum(distance / n, 1.0)
    chord = rho * sine * np.sqrt(2 / (1 + np.sqrt(1 - sine**2)))
    reached = np.minimum(distance, n + rho)  # beyond it, nothing grows
    inside = np.sqrt(rho / n * np.maximum(reached**2 - (n - rho) ** 2, 0.0))
    return np.minimum(distance, np.where(reached**2 <= n**2 - rho**2, chord, inside))
