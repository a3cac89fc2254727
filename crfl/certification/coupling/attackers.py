"""The attackers of a round, as on record or as one supposes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from crfl.certification._checks import BoolArray, FloatArray, IntArray
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord

Attackers = tuple[AttackerRecord, ...]


def in_rounds(record: TrainingRecord, attackers: Attackers, rounds: Sequence[RoundRecord]) -> list[Attackers]:
    """The same attackers in other rounds, with the weights that they have there whenever they take part.

    The norms of malicious updates are removed: nobody knows what would have been sent in those rounds.
    """
    known: dict[tuple[int, float], AttackerRecord] = {}  # an attacker of the same weight is the same

    def supposed(number: int, weight: float) -> AttackerRecord:
        if (number, weight) not in known:
            same = replace(attackers[number], weight=weight, potential_weight=weight, update_norm=None)
            known[number, weight] = same
        return known[number, weight]

    clients, found = [a.client for a in attackers], []
    for round_ in rounds if attackers else ():
        potential = dict(zip(record.attackers, round_.potential_weights, strict=False))
        weights = [max(round_.weights[i], potential.get(i, 0.0)) for i in clients]
        found.append(tuple(supposed(number, weight) for number, weight in enumerate(weights)))
    return found or [()] * len(rounds)


def each_alone(attackers: Sequence[Attackers]) -> list[list[Attackers]]:
    """The first attacker of every round alone, then the second, and so on; of a round with fewer, the last again."""
    most = max([1, *map(len, attackers)])
    return [[members[number : number + 1] or members[-1:] for members in attackers] for number in range(most)]


def can_harm(attackers: Attackers) -> bool:
    """Whether one of them poisons samples or submits a malicious update that is not scaled to 0."""
    return any(a.scale != 0 and (any(a.poison_ratios) or a.update is not None) for a in attackers)


def dropped(round_: RoundRecord, attacker: AttackerRecord) -> bool:
    """Whether the server dropped the attacker's update in the round."""
    return bool(round_.dropped) and any(d.client == attacker.client for d in round_.dropped)


@dataclass(frozen=True)
class Entries:
    """The attackers of some rounds as arrays, one entry each, (n,): round by round, and in the order of the round."""

    row: IntArray
    """Which of the rounds."""
    client: IntArray
    weight: FloatArray
    potential_weight: FloatArray
    scale: FloatArray
    malicious: BoolArray
    """Whether it sends a malicious update in place of a trained one."""
    dropped: BoolArray

    @classmethod
    def of(cls, rounds: Sequence[RoundRecord], attackers: Sequence[Attackers]) -> Entries:
        """Those of each round."""
        found = [(row, a) for row, members in enumerate(attackers) for a in members]
        return cls(
            np.array([row for row, _ in found], dtype=np.int64),
            np.array([a.client for _, a in found], dtype=np.int64),
            np.array([a.weight for _, a in found], dtype=np.float64),
            np.array([a.potential_weight for _, a in found], dtype=np.float64),
            np.array([a.scale for _, a in found], dtype=np.float64),
            np.array([a.update is not None for _, a in found], dtype=np.bool_),
            np.array([dropped(rounds[row], a) for row, a in found], dtype=np.bool_),
        )
