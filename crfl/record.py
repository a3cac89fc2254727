"""The record: what happened in training, as far as a certificate may depend on it. Plain numbers, no tensors.

Certification reads this record, the model and the test inputs, and nothing else of the training.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AttackerRecord:
    """One attacker's part in an attack round."""

    client: int
    """Number of the client."""
    weight: float
    """p_i: the weight that the aggregation gave to its update."""
    scale: float
    """gamma_i: factor on its update."""
    learning_rate: float
    """eta_i"""
    poison_ratios: tuple[float, ...]
    """q_i / n_i of every local step, in order; their number is tau_i."""
    magnitude: float
    """||delta_i||: l2 norm of the trigger."""
    label_flip: bool
    """Whether the poisoned samples' labels are changed too."""
    update: str | None = None
    """Name of the malicious update that it sent, whatever its data taught; None: what it learnt. The benign counterpart
    of a malicious client sends nothing."""
    update_norm: float | None = None
    """l2 norm of the update as it was aggregated: scaled, and clipped if the server clips. None if it was dropped."""

    @property
    def strength(self) -> float:
        """p_i gamma_i tau_i eta_i q_i/n_i of Theorem 1, with the ratios of the steps really taken."""
        return self.weight * self.scale * self.learning_rate * math.fsum(self.poison_ratios)


@dataclass(frozen=True)
class DroppedRecord:
    """A client whose update the server could not use in a round."""

    client: int
    """Number of the client."""
    reason: str
    """What was wrong with the update."""


@dataclass(frozen=True)
class RoundRecord:
    """One round of Algorithm 1. Norms are l2 norms in float64 of the float32 parameters."""

    round: int
    """t = 1 .. T"""
    start_norm: float
    """||w||: the whole noisy model that the server sent out in this round."""
    start_spectral_norm: float | None
    """||W~||_2 of its weight matrix, without the bias; None if the model is not linear."""
    pre_clip_norm: float
    """||w|| after aggregation, before clipping."""
    clip_norm: float
    """rho_t; inf if nothing was clipped."""
    noise_std: float
    """sigma_t: noise added after clipping; 0 in the last round."""
    weights: tuple[float, ...]
    """Aggregation weight of every client; 0 if it did not take part or was dropped. Under "median" and "trimmed_mean",
    which weigh anew in every coordinate, the average over the coordinates."""
    attackers: tuple[AttackerRecord, ...] = ()
    """Who attacked in this round."""
    dropped: tuple[DroppedRecord, ...] = ()
    """Who took part, but sent an update that the server could not use."""


@dataclass(frozen=True)
class TrainingRecord:
    """All rounds of a run and the constants they share."""

    model: str
    num_features: int
    num_classes: int
    aggregation: str
    optimizer: str
    """"sgd": plain stochastic gradient descent, the only one that crfl trains with."""
    learning_rates: tuple[float, ...]
    """eta_i of every client."""
    weight_decay: float
    batch_size: int
    epochs: int
    keep_last_batch: bool
    update_clip: float | None
    """S: norm to which the server clipped every client's update; None if it did not."""
    client_names: tuple[str, ...]
    client_sizes: tuple[int, ...]
    max_feature_norm: float
    """Largest ||x|| among the clean training samples."""
    domain: tuple[float, float] | None
    """Declared bounds of every feature, clean or poisoned."""
    benign: bool
    """True for the benign counterpart: attackers scaled as recorded, but their data stayed clean."""
    seed: int
    rounds: tuple[RoundRecord, ...]

    @property
    def attack_rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds in which somebody attacked."""
        return tuple(r for r in self.rounds if r.attackers)

    def to_dict(self) -> dict[str, Any]:
        """Nested plain values, strictly JSON-able: infinity becomes None."""
        return {k: _finite(v) for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainingRecord:
        """The record that `to_dict` described."""
        rounds = tuple(round_from_dict(r) for r in values["rounds"])
        tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
        return cls(**{**values, **tuples, "rounds": rounds})


def round_from_dict(values: dict[str, Any]) -> RoundRecord:
    """The round that `asdict` described, None standing for an infinite clip norm."""
    attackers = tuple(AttackerRecord(**{**a, "poison_ratios": tuple(a["poison_ratios"])}) for a in values["attackers"])
    dropped = tuple(DroppedRecord(**d) for d in values.get("dropped", ()))
    clip_norm = math.inf if values["clip_norm"] is None else values["clip_norm"]
    parts = {"weights": tuple(values["weights"]), "clip_norm": clip_norm, "attackers": attackers, "dropped": dropped}
    return RoundRecord(**{**values, **parts})


def poison_ratios(
    size: int, poisoned_per_batch: int, batch_size: int, epochs: int, keep_last_batch: bool
) -> tuple[float, ...]:
    """q/n of every local step of a client with `size` samples, the first q samples of each batch being poisoned."""
    batches = [batch_size] * (size // batch_size)
    if keep_last_batch and size % batch_size:
        batches.append(size % batch_size)
    return tuple(min(poisoned_per_batch, n) / n for n in batches) * epochs


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and math.isinf(value) else value
