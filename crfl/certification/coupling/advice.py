"""What would help where nothing is certified: Delta again by the recursion, each time with one setting changed.

The record is that of the run at hand, and a run with another setting has other norms and margins: every number here is
an estimate, for whoever looks for settings. No certificate rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.clients import ClientScenario
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.local import local_steps
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord, poison_ratios

FORGETTING = (1.0, 3.0, 10.0)
"""Values of lambda times tau eta T, the time of training in units of the server's memory, that are tried."""


@dataclass(frozen=True)
class Change:
    """A setting to change, and what the record of such a run would be."""

    setting: str
    value: str
    record: TrainingRecord
    margins: float = 1.0
    """By what the margins would be multiplied, about."""


@dataclass(frozen=True)
class Remedy:
    """What a change would bring, about."""

    setting: str
    value: str
    distance: float
    """Delta at magnitude 0."""
    margins: float
    certified: float
    """Share of the samples with a larger budget."""

    def __str__(self) -> str:
        margins = "" if self.margins == 1 else f", margins times {self.margins:.2g}"
        return f"{self.setting} {self.value} ({self.certified:.2g} certified: distance {self.distance:.2g}{margins})"


def remedies(record: TrainingRecord, budget: FloatArray, *, before_clip: bool, any_round: bool) -> list[Remedy]:
    """Changes that bring Delta down, those first that certify most: one of each kind.

    Args:
        record: of the run.
        budget: (m,) of its samples.
        before_clip: as for `CoupledScenario`.
        any_round: likewise.
    """
    now = CoupledScenario(record, before_clip, any_round).cost(0.0)
    best: dict[str, Remedy] = {}
    for change in changes(record):
        distance = CoupledScenario(change.record, before_clip, any_round).cost(0.0)
        certified = float((distance < budget * change.margins).mean())
        found = Remedy(change.setting, change.value, distance, change.margins, certified)
        key = change.setting
        if distance / change.margins < now and (key not in best or _rank(found) < _rank(best[key])):
            best[key] = found
    return sorted(best.values(), key=_rank)


def advice(record: TrainingRecord, budget: FloatArray, *, before_clip: bool, any_round: bool) -> str:
    """The `remedies` in a sentence."""
    found = remedies(record, budget, before_clip=before_clip, any_round=any_round)
    useful = [remedy for remedy in found if remedy.certified > 0] or found
    told = f"By this record, what would help most is, about: {'; '.join(map(str, useful))}. " if useful else ""
    return told + "A feature map (features.map) has larger margins; `crfl tune` searches."


def clients_advice(scenario: ClientScenario, budget: FloatArray) -> str:
    """Why not even one malicious client is certified, and how many clients would do."""
    one, largest, clients = scenario.cost(1), budget.max(initial=0.0), len(scenario.record.client_sizes)
    told = (
        f"Not one malicious client is certified: one of {clients:,} may move the model by {one:.3g}, and the largest "
        f"budget is {largest:.3g}. "
    )
    if largest > scenario.cost(0):
        told += f"With about {math.ceil(clients * one / largest):,} clients it could move it by less; "
    return told + "a smaller server.update_clip or a larger server.decay help, too (`crfl tune`)."


def changes(record: TrainingRecord) -> Iterator[Change]:
    """One setting changed at a time, where that makes a difference."""
    attackers = [a for r in record.attack_rounds for a in r.attackers if a.update is None]
    if any(abs(a.scale) > 1 for a in attackers):
        yield Change(
            "attack.scale", "1, a weaker attack", _attackers(record, lambda a: replace(a, scale=a.scale / abs(a.scale)))
        )
    if any(q * record.batch_size > 1.5 for a in attackers for q in a.poison_ratios):
        yield Change("attack.poisoned_per_batch", "1, a weaker attack", _attackers(record, _one_sample(record)))
    if record.weight_decay > 0 or any(r.learning_rate_cap < math.inf or r.decay > 0 for r in record.rounds):
        return  # such a run has its lambda already
    unit = max(record.learning_rates) * max(local_steps(record).max(initial=1.0), 1.0) * len(record.rounds)
    for inverse in (False, True):
        for times in FORGETTING:
            yield _decayed(record, times / unit, inverse)


def _rank(remedy: Remedy) -> tuple[float, float]:
    return -remedy.certified, remedy.distance / remedy.margins


def _attackers(record: TrainingRecord, change: Callable[[AttackerRecord], AttackerRecord]) -> TrainingRecord:
    """The record with every attacker that poisons samples changed."""

    def changed(round_: RoundRecord) -> RoundRecord:
        crew = tuple(change(a) if a.update is None else a for a in round_.attackers)
        return _unclipped(replace(round_, attackers=crew)) if crew else round_

    return replace(record, rounds=tuple(map(changed, record.rounds)))


def _one_sample(record: TrainingRecord) -> Callable[[AttackerRecord], AttackerRecord]:
    """The same attacker with one poisoned sample a batch."""

    def change(attacker: AttackerRecord) -> AttackerRecord:
        size = record.client_sizes[attacker.client]
        ratios = poison_ratios(size, 1, record.batch_size, record.epochs, record.keep_last_batch)
        return replace(attacker, poison_ratios=ratios)

    return change


def _decayed(record: TrainingRecord, decay: float, inverse: bool) -> Change:
    """A server that shrinks the model by kappa_t = 1 - (1 - eta_t lambda)^tau, perhaps with the inverse schedule.

    Margins: the share of all updates that is still there at the end, if they were alike.
    """
    tau, rate = max(float(local_steps(record).max()), 1.0), max(record.learning_rates)
    rounds, kept = [], 0.0
    for r in record.rounds:
        cap = min(rate, 1 / (decay * tau * r.round)) if inverse else rate
        kappa = 1 - (1 - min(cap * decay, 1.0)) ** tau
        crew = tuple(replace(a, learning_rate=min(a.learning_rate, cap)) for a in r.attackers)
        rounds.append(_unclipped(replace(r, learning_rate_cap=cap, decay=kappa, attackers=crew)))
        kept = (1 - kappa) * kept + cap / rate
    setting = f"{'local.schedule inverse with ' if inverse else ''}server.decay"
    return Change(setting, f"{decay:.2g}", replace(record, rounds=tuple(rounds)), kept / len(rounds))


def _unclipped(round_: RoundRecord) -> RoundRecord:
    """The round without the help of its clip, which need not bite in another run."""
    return replace(round_, pre_clip_norm=min(round_.pre_clip_norm, round_.clip_norm))
