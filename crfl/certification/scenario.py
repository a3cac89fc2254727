"""The attack on record and others like it: what they cost, in the currency of a certificate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from crfl.certification._checks import BoolArray, FloatArray, IntArray
from crfl.certification.published import radius_from_budget, theorem2_kl_bound
from crfl.errors import CertificateError
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord, poison_ratios

NO_ATTACKER = (
    "max_attackers: nobody attacked in this run, so there is no attacker to multiply; train with attack.clients of 1 "
    "or more (benign=True keeps their data clean)"
)


class Scenario(Protocol):
    """What attacks cost: the quantity that must stay within a sample's budget for its prediction to be certified.

    For the published certificate that is the KL divergence of Theorem 2, for the others the distance Delta of the
    two models.
    """

    @property
    def record(self) -> TrainingRecord:
        """The run that is attacked."""

    def radius(self, budget: FloatArray) -> FloatArray:
        """Largest magnitude whose cost each budget (m,) affords, (m,); inf if that of every magnitude."""

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """Where a budget (m,) affords the cost."""

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """The cost of triggers of this magnitude, with another q_B or another number of attackers."""

    def max_malicious(self, budget: FloatArray, silent: bool = False) -> IntArray:
        """Largest number of arbitrary updates, each of one client in one round, that each budget (m,) covers."""


def attackers_like(
    record: TrainingRecord, round_: RoundRecord, poisoned: int | None, attackers: int | None
) -> tuple[AttackerRecord, ...]:
    """The attackers of a round, with another q_B; if others are to attack, those whom they may be like."""
    crew = round_.attackers
    if poisoned is not None:
        crew = tuple(replace(a, poison_ratios=_ratios(record, a.client, poisoned)) for a in crew)
    if attackers is None:
        return crew
    if not crew:
        raise CertificateError(NO_ATTACKER)
    if any(a.update is not None for a in crew):
        raise CertificateError("max_attackers: attackers sent malicious updates, which max_malicious counts")
    return crew


def _ratios(record: TrainingRecord, client: int, poisoned: int) -> tuple[float, ...]:
    size = record.client_sizes[client]
    return poison_ratios(size, poisoned, record.batch_size, record.epochs, record.keep_last_batch)


@dataclass(frozen=True)
class PublishedScenario:
    """The attack round as Theorem 2 sees it."""

    record: TrainingRecord
    round: RoundRecord | None
    """The attack round; None if nobody attacked."""
    lipschitz: float
    """L_Z of Lemma 1"""
    noise: float
    """sigma of the attack round"""
    log_contraction: float
    """log of the product over the rounds after it"""

    def radius(self, budget: FloatArray) -> FloatArray:
        """Corollary 1's radius of each eps (m,)."""
        radius: FloatArray = radius_from_budget(
            budget,
            strengths=[a.strength for a in self._attackers(None, None)],
            lipschitz=self.lipschitz,
            noise=self.noise,
            log_contraction=self.log_contraction,
        )
        return radius

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """KL <= eps, and something is decided."""
        return (budget > 0) & (cost <= budget)

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """Theorem 2's bound on the KL divergence."""
        crew = self._attackers(poisoned, attackers)
        bound = theorem2_kl_bound(
            [a.strength for a in crew],
            [magnitude] * len(crew),
            lipschitz=self.lipschitz,
            noise=self.noise,
            log_contraction=self.log_contraction,
        )
        return float(bound)

    def max_malicious(self, budget: FloatArray, silent: bool = False) -> IntArray:
        """The paper's certificate knows backdoors only."""
        raise CertificateError("max_malicious: kind 'published' says nothing of arbitrary updates; use kind 'margin'")

    def _attackers(self, poisoned: int | None, attackers: int | None) -> tuple[AttackerRecord, ...]:
        if self.round is None and attackers is None:
            return ()
        nobody = RoundRecord(0, 0.0, None, 0.0, 0.0, 0.0, ())
        crew = attackers_like(self.record, self.round or nobody, poisoned, attackers)
        return crew if attackers is None else (max(crew, key=lambda a: a.strength),) * attackers
