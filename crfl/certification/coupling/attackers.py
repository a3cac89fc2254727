"""The attackers of a round, as on record or as one supposes them."""

from __future__ import annotations

from dataclasses import replace

from crfl.record import AttackerRecord, RoundRecord, TrainingRecord

Attackers = tuple[AttackerRecord, ...]


def in_round(record: TrainingRecord, attackers: Attackers, round_: RoundRecord) -> Attackers:
    """The same attackers in another round, with the weights that they have there whenever they take part.

    The norms of malicious updates are removed: nobody knows what would have been sent in that round.
    """
    potential = dict(zip(record.attackers, round_.potential_weights, strict=False))
    weights = [max(round_.weights[a.client], potential.get(a.client, 0.0)) for a in attackers]
    return tuple(
        replace(a, weight=w, potential_weight=w, update_norm=None) for a, w in zip(attackers, weights, strict=True)
    )


def with_trained_updates(attackers: Attackers) -> Attackers:
    """The attackers who submit what they trained, not a malicious update."""
    return tuple(a for a in attackers if a.update is None)


def can_harm(attackers: Attackers) -> bool:
    """Whether one of them poisons samples or submits a malicious update that is not scaled to 0."""
    return any(a.scale != 0 and (any(a.poison_ratios) or a.update is not None) for a in attackers)


def dropped(round_: RoundRecord, attacker: AttackerRecord) -> bool:
    """Whether the server dropped the attacker's update in the round."""
    return any(d.client == attacker.client for d in round_.dropped)
