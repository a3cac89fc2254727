"""The attackers of a round, as on record or as one supposes them."""

from __future__ import annotations

from dataclasses import replace

from crfl.record import AttackerRecord, RoundRecord, TrainingRecord

Crew = tuple[AttackerRecord, ...]


def in_round(record: TrainingRecord, crew: Crew, round_: RoundRecord) -> Crew:
    """The same attackers in another round: with the weights that they have there whenever they take part.

    What malicious ones would have sent there is unknown.
    """
    potential = dict(zip(record.attackers, round_.potential_weights, strict=False))
    weights = [max(round_.weights[a.client], potential.get(a.client, 0.0)) for a in crew]
    return tuple(replace(a, weight=w, potential_weight=w, update_norm=None) for a, w in zip(crew, weights, strict=True))


def as_models(crew: Crew) -> Crew:
    """Attackers whom others may be like: with the weights that they have whenever they take part."""
    return tuple(replace(a, weight=max(a.weight, a.potential_weight)) for a in crew)


def learners(crew: Crew) -> Crew:
    """The attackers who send what they learnt."""
    return tuple(a for a in crew if a.update is None)


def can_harm(crew: Crew) -> bool:
    """Whether anybody poisons samples or sends malicious updates, if it is heard."""
    return any(a.scale != 0 and (any(a.poison_ratios) or a.update is not None) for a in crew)


def dropped(round_: RoundRecord, attacker: AttackerRecord) -> bool:
    """Whether the server dropped its update in the round."""
    return any(d.client == attacker.client for d in round_.dropped)
