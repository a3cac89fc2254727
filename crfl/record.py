"""The record: all of a training that a certificate may depend on. Plain numbers, no tensors.

Certification reads this record, the model and the test inputs, and nothing else of the training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class AttackerRecord:
    """One attacker's part in an attack round, whether it took part in the round or not.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "attack.scale": 20.0})
        >>> attacker = crfl.train(exp, crfl.load_data(exp)).record.rounds[1].attackers[0]
        >>> attacker.client, attacker.scale, len(attacker.poison_ratios)
        (0, 20.0, 7)
    """

    client: int
    """Number of the client."""
    weight: float
    """p_i: the weight that the aggregation gave to its update; 0 if it was absent or dropped."""
    potential_weight: float
    """The weight that its update has whenever it takes part. If it did not, the weight that it would have in place of
    the participant with the largest weight."""
    scale: float
    """gamma_i: factor on its update."""
    learning_rate: float
    """eta_i of this round."""
    poison_ratios: tuple[float, ...]
    """q_i / n_i of every local step, in order; their number is tau_i."""
    magnitude: float
    """||delta_i||: how far in l2 norm the trigger moves a sample, in feature space."""
    label_flip: bool
    """Whether the poisoned samples' labels are changed too."""
    update: str | None = None
    """Name of the malicious update that it sent in place of the trained one; None: it sent the trained one. The benign
    counterpart of a malicious client sends nothing."""
    update_norm: float | None = None
    """l2 norm of the update as it was aggregated: scaled, and clipped if the server clips. None if it was dropped or
    absent."""

    @property
    def strength(self) -> float:
        """p_i gamma_i tau_i eta_i q_i/n_i of Theorem 1, with the ratios of the steps really taken."""
        return self.weight * self.scale * self.learning_rate * math.fsum(self.poison_ratios)


@dataclass(frozen=True)
class DroppedRecord:
    """A client whose update the server could not use in a round.

    Example:
        >>> DroppedRecord(client=3, reason="NaN or infinity", weight=0.1).client
        3
    """

    client: int
    """Number of the client."""
    reason: str
    """What was wrong with the update."""
    weight: float
    """The weight that its update would have had in a round without drops; 1 under a rule whose weights depend on the
    updates."""


@dataclass(frozen=True)
class RoundRecord:
    """One round of Algorithm 1. Norms are l2 norms, computed in float64.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> last = crfl.train(exp, crfl.load_data(exp)).record.rounds[-1]
        >>> last.round, last.noise_std, round(sum(last.weights), 6)
        (3, 0.0, 1.0)
    """

    round: int
    """t = 1 .. T"""
    start_norm: float
    """||z_t||: the whole noisy model that the server sent out in this round."""
    start_spectral_norm: float | None
    """||W~||_2 of its weight matrix, without the bias; None if the model is not linear."""
    pre_clip_norm: float
    """||v_t|| after aggregation and decay, before clipping."""
    clip_norm: float
    """rho_t; inf if nothing was clipped."""
    noise_std: float
    """sigma_t: noise added after clipping; 0 in the last round."""
    weights: tuple[float, ...]
    """Aggregation weight of every client; 0 if it did not take part or was dropped. Under "median" and "trimmed_mean",
    which weigh anew in every coordinate, the average over the coordinates."""
    potential_weights: tuple[float, ...] = ()
    """The weight that each client of `TrainingRecord.attackers` has in this round if it takes part, in their order."""
    learning_rate_cap: float = math.inf
    """eta_{i,t} = min(eta_i, this): the schedule of learning rates."""
    decay: float = 0.0
    """kappa_t: the server adds the aggregate to (1 - kappa_t) z_t."""
    update_clip: float | None = None
    """S_t: norm to which the server clipped every client's update; None if it did not."""
    update_norms: tuple[float, ...] | None = None
    """Norm of every client's update before the server clipped it, 0 if it did not take part; None without update_clip.
    """
    attackers: tuple[AttackerRecord, ...] = ()
    """All attackers, in an attack round, also those who did not take part in it."""
    dropped: tuple[DroppedRecord, ...] = ()
    """Who took part, but sent an update that the server could not use."""


@dataclass(frozen=True)
class TrainingRecord:
    """All rounds of a run and the constants they share.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> record = crfl.train(exp, crfl.load_data(exp)).record
        >>> len(record.rounds), record.client_sizes[0], record.max_feature_norm > 1
        (3, 140, True)
        >>> [r.round for r in record.attack_rounds], record.attack_rounds[0].dropped
        ([2], ())
    """

    model: str
    num_features: int
    num_classes: int
    aggregation: str
    data_independent_weights: bool
    """Whether the aggregation is a weighted sum with weights that do not depend on the updates."""
    bias: bool
    """Whether x~ = (x, 1); else x~ = x."""
    optimizer: str
    """"sgd": plain stochastic gradient descent, the only one that crfl trains with."""
    precision: str
    """"float64" or "float32": in which training computed."""
    learning_rates: tuple[float, ...]
    """eta_i of every client; a round's learning_rate_cap may lower them."""
    weight_decay: float
    batch_size: int
    epochs: int
    keep_last_batch: bool
    client_names: tuple[str, ...]
    client_sizes: tuple[int, ...]
    smoothness: tuple[float, ...]
    """beta_i of every client: no batch of its clean samples has a mean loss with a larger Hessian. B^2 / 2, or less."""
    max_feature_norm: float
    """Largest ||x|| among the clean training samples."""
    domain: tuple[float, float] | None
    """Declared bounds of every feature, clean or poisoned."""
    norm_bound: float | None
    """Bound on ||x|| of every sample, clean or poisoned, that holds by construction (features projected on a ball)."""
    feature_map: str | None
    """The fixed map from samples to features; None: the samples are the features."""
    lipschitz: float | None
    """Lipschitz constant of the feature map, in l2 norms; 1 without a map, None where it is not known."""
    public_samples: int
    """Samples of the server that set the feature map; no client trains on them."""
    attackers: tuple[int, ...]
    """Clients that attack in some round."""
    benign: bool
    """True for the benign counterpart: attackers scaled as recorded, but their data stayed clean."""
    seed: int
    rounds: tuple[RoundRecord, ...]
    client_reported: bool = False
    """Whether the clients trained out of the server's sight: then their samples' norms and numbers, their smoothness,
    local steps and learning rates, and who attacked and how, are what was told or agreed, not what was measured."""

    @property
    def attack_rounds(self) -> tuple[RoundRecord, ...]:
        """The rounds in which somebody attacked."""
        return tuple(r for r in self.rounds if r.attackers)


def poison_ratios(
    size: int, poisoned_per_batch: int, batch_size: int, epochs: int, keep_last_batch: bool
) -> tuple[float, ...]:
    """q/n of every local step of a client, the first q samples of each batch being poisoned.

    Args:
        size: Samples of the client.
        poisoned_per_batch: q_B
        batch_size: n_B
        epochs: Passes over the shard a round.
        keep_last_batch: Whether an incomplete last batch counts.

    Returns:
        A ratio for each step, in order.

    Example:
        >>> poison_ratios(size=25, poisoned_per_batch=5, batch_size=10, epochs=1, keep_last_batch=True)
        (0.5, 0.5, 1.0)
    """
    batches = [batch_size] * (size // batch_size)
    if keep_last_batch and size % batch_size:
        batches.append(size % batch_size)
    return tuple(min(poisoned_per_batch, n) / n for n in batches) * epochs
