"""Delta: the largest distance of the models of a run and its benign counterpart, given the triggers' magnitude.

Both start alike, take the same batches in the same order and get the same noise, and the attackers scale in both; only
the attackers' data differs. Poison adds to the distance (poison.py), later rounds multiply it (expansion.py), clipping
shrinks it (clipping.py), rounding adds to it (rounding.py). Proofs stand in docs/theory.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import BoolArray, FloatArray, IntArray, nonnegative
from crfl.certification._monotone import largest_below
from crfl.certification.coupling.attackers import can_harm, in_rounds
from crfl.certification.coupling.clients import MAX_CLIENT_ROUNDS, most_client_rounds
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.poison import poison
from crfl.certification.coupling.recursion import Stages, known_rounds, make_stages, next_start, rounded, unknown_round
from crfl.certification.coupling.rounding import Rounding
from crfl.certification.scenario import NO_ATTACKER, attackers_like
from crfl.errors import CertificateError
from crfl.record import TrainingRecord


@dataclass(frozen=True)
class CoupledScenario:
    """Delta_T of attacks like the one on record, for any magnitude of the triggers (Theorems 6 and 8).

    Call `check_coupled` first: it refuses the runs to which the theorems do not apply.

    Example:
        >>> import crfl
        >>> run = crfl.train(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}), crfl.load_data(exp))
        >>> scenario = CoupledScenario(run.record, before_clip=True)
        >>> scenario.cost(0.0) < scenario.cost(0.1) < scenario.cost(0.2)
        True
    """

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

        return largest_below(last, budget, self._rounding.local.diameter)

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """Where Delta < budget, strictly (m,)."""
        return cost < budget

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """Delta for this magnitude, with another q_B or another number of attackers."""
        if attackers is not None and not self.record.attack_rounds:
            raise CertificateError(NO_ATTACKER)
        return float(self._final(self._stages(poisoned, attackers), np.array([magnitude]))[0])

    def distances(self, magnitude: float) -> FloatArray:
        """Delta_t before and after the clipping of every round, (T, 2)."""
        size = nonnegative("magnitude", [magnitude])
        pairs = self._distances(self._stages(None, None), size)
        return np.array([[before[0], after[0]] for before, after in pairs]).reshape(-1, 2)

    def max_malicious(self, budget: FloatArray, silent: bool = False, limit: int = MAX_CLIENT_ROUNDS) -> IntArray:
        """Largest number of arbitrary updates, each of one client in one round, with Delta below each budget (m,).

        Theorem 10: whichever clients and rounds, and whatever those clients had sent instead; with `silent` only
        against their having sent nothing; counted up to `limit`. Raises CertificateError unless the server clips updates
        in every round.
        """
        return most_client_rounds(self._rounding, self.record, budget, self.before_clip, silent, limit)

    @property
    def total_rounding(self) -> float:
        """What rounding adds to Delta in all rounds together, as if no clipping shrank it."""
        rounding, nothing, total = self._rounding, np.zeros(1), 0.0
        for stage in self._recorded_stages.each:
            before = rounded(rounding, stage, nothing)
            clipped = rounding.clip(before, stage.round.pre_clip_norm, stage.round.clip_norm)
            total += float((before + next_start(rounding, stage, clipped))[0])
        return total

    @cached_property
    def _rounding(self) -> Rounding:
        return Rounding(LocalTraining(self.record))

    @cached_property
    def _recorded_stages(self) -> Stages:
        return self._make_stages(None, None)

    def _final(self, stages: Stages, magnitudes: FloatArray) -> FloatArray:
        before = after = np.zeros(len(magnitudes))
        for before, after in self._distances(stages, magnitudes):  # noqa: B007 the last ones are wanted
            pass
        return before if self.before_clip else after

    def _distances(self, stages: Stages, magnitudes: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Delta_t of each magnitude (k,) before and after the clipping of every round."""
        if not stages.harmful:
            nothing = np.zeros(len(magnitudes))  # the two runs are one and the same
            return ((nothing, nothing) for _ in stages.each)
        recursion = unknown_round if self.any_round else known_rounds
        return recursion(stages, magnitudes)

    def _stages(self, poisoned: int | None, num_attackers: int | None) -> Stages:
        """With another q_B or another number of attackers."""
        plain = poisoned is None and num_attackers is None
        return self._recorded_stages if plain else self._make_stages(poisoned, num_attackers)

    def _make_stages(self, poisoned: int | None, num_attackers: int | None) -> Stages:
        record, rounds = self.record, self.record.rounds
        known = {r.round: attackers_like(record, r, poisoned, num_attackers) for r in record.attack_rounds}
        scaling = [known.get(r.round, ()) for r in rounds]
        attackers = in_rounds(record, next(iter(known.values()), ()), rounds) if self.any_round else scaling
        return Stages(
            self._rounding,
            make_stages(self._rounding, rounds, scaling, attackers, num_attackers),
            poison(self._rounding, rounds, attackers, num_attackers),
            harmful=num_attackers != 0 and any(map(can_harm, attackers)),
        )
