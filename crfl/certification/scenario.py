"""What the attack on record, and others like it, cost: in KL divergence or in distance of two models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from crfl.certification._checks import BoolArray, FloatArray, IntArray
from crfl.certification.published import theorem2_kl_bound
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

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """Where a budget (m,) certifies against an attack of this cost."""

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """The cost of triggers of this magnitude, with another q_B or another number of attackers."""

    def max_malicious(self, budget: FloatArray, silent: bool, limit: int) -> IntArray:
        """Largest number of arbitrary updates, each of one client in one round, that each budget (m,) certifies; up to
        `limit`."""


def attackers_like(
    record: TrainingRecord, round_: RoundRecord, poisoned: int | None, attackers: int | None
) -> tuple[AttackerRecord, ...]:
    """The attackers of a round, with another q_B, or as models of any number of attackers.

    If `attackers` is a number, each returned one stands for attackers like it. They take part, so each has the weight
    that it has whenever it takes part.
    """
    found = round_.attackers
    if poisoned is not None:
        found = tuple(replace(a, poison_ratios=_ratios(record, a.client, poisoned)) for a in found)
    if attackers is None:
        return found
    if not found:
        raise CertificateError(NO_ATTACKER)
    if any(a.update is not None for a in found):
        raise CertificateError(
            "max_attackers: got attackers that sent malicious updates, expected poisoned samples alone; max_malicious "
            "counts malicious updates"
        )
    return tuple(replace(a, weight=max(a.weight, a.potential_weight)) for a in found)


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

    def strengths(self, *, poisoned: int | None = None, attackers: int | None = None) -> list[float]:
        """s_i of Theorem 1 of each attacker, with another q_B; `attackers` times that of the strongest."""
        if self.round is None:
            if attackers is not None:
                raise CertificateError(NO_ATTACKER)
            return []
        found = [a.strength for a in attackers_like(self.record, self.round, poisoned, attackers)]
        return found if attackers is None else [max(found)] * attackers

    def certifies(self, budget: FloatArray, cost: float) -> BoolArray:
        """KL <= eps, and something is decided."""
        return (budget > 0) & (cost <= budget)

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """Theorem 2's bound on the KL divergence."""
        bound = theorem2_kl_bound(
            self.strengths(poisoned=poisoned, attackers=attackers),
            magnitude,
            lipschitz=self.lipschitz,
            noise=self.noise,
            log_contraction=self.log_contraction,
        )
        return float(bound)

    def max_malicious(self, budget: FloatArray, silent: bool, limit: int) -> IntArray:
        """The paper's certificate knows backdoors only."""
        raise CertificateError(
            "max_malicious: got kind 'published', expected 'margin' or 'smoothing', which count arbitrary updates"
        )
