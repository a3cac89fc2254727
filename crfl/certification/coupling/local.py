"""Local training as the certificates see it: how large features, steps and updates can be, from the record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.arithmetic import FLOAT64_UNIT, gamma
from crfl.record import RoundRecord, TrainingRecord, poison_ratios


def feature_bound(record: TrainingRecord) -> float:
    """B: bound on ||x~|| of the clean training samples; x~ = (x, 1) with a bias, x without."""
    return math.hypot(float(record.bias), record.max_feature_norm)


def learning_rates(record: TrainingRecord, round_: RoundRecord) -> FloatArray:
    """eta_{i,t} = min(eta_i, cap of the round) of every client, (N,)."""
    return np.minimum(np.array(record.learning_rates, dtype=np.float64), round_.learning_rate_cap)


def local_steps(record: TrainingRecord) -> FloatArray:
    """tau_i: local steps a round of each client, (N,)."""
    steps = {
        n: len(poison_ratios(n, 0, record.batch_size, record.epochs, record.keep_last_batch))
        for n in set(record.client_sizes)
    }
    return np.array([steps[n] for n in record.client_sizes], dtype=np.float64)


@dataclass(frozen=True)
class LocalTraining:
    """What is known of the clients' local training from the record: norms of features, rates, Lipschitz constants.

    Every bound covers the rounding of its own evaluation.
    """

    record: TrainingRecord

    @cached_property
    def _norm(self) -> float:
        """X: bound on ||x|| of clean samples, raised by the rounding of the norm on record."""
        return self.record.max_feature_norm * (1 + gamma(self.record.num_features + 8))

    @cached_property
    def clean(self) -> float:
        """B, rounded up."""
        return math.hypot(float(self.record.bias), self._norm) * (1 + gamma(4))

    @cached_property
    def farthest(self) -> float:
        """Bound on ||x|| of every sample, clean or poisoned: by the domain, by the ball; inf if neither is known."""
        record, bound = self.record, math.inf
        if record.domain is not None:
            bound = math.sqrt(record.num_features) * max(map(abs, record.domain))
        if record.norm_bound is not None:
            bound = min(bound, record.norm_bound)
        return max(bound * (1 + gamma(record.num_features + 8)), self._norm)

    @cached_property
    def diameter(self) -> float:
        """Bound on the distance of any two samples; inf if neither domain nor ball is known."""
        record, bound = self.record, math.inf
        if record.domain is not None:
            bound = math.sqrt(record.num_features) * (record.domain[1] - record.domain[0])
        if record.norm_bound is not None:
            bound = min(bound, 2 * self.farthest)
        return bound * (1 + gamma(record.num_features + 8))

    def poisoned(self, magnitudes: FloatArray) -> FloatArray:
        """B': bound on ||x~|| of all samples, if triggers move them by these magnitudes at most."""
        norm = np.minimum(self._norm + np.minimum(magnitudes, self.diameter), self.farthest)
        bound: FloatArray = np.hypot(float(self.record.bias), norm) * (1 + gamma(4))
        return bound

    @cached_property
    def steps(self) -> FloatArray:
        """tau_i, (N,)."""
        return local_steps(self.record)

    @cached_property
    def batch_sizes(self) -> FloatArray:
        """Samples of the largest batch of each client, (N,)."""
        return np.minimum(np.array(self.record.client_sizes, dtype=np.float64), self.record.batch_size)

    def rates(self, round_: RoundRecord) -> FloatArray:
        """eta_{i,t}, (N,)."""
        return learning_rates(self.record, round_)

    @cached_property
    def smoothness(self) -> FloatArray:
        """beta_i: no batch of a client's clean samples has a mean loss with a larger Hessian, (N,); B^2 / 2, or less."""
        return np.minimum(np.array(self.record.smoothness, dtype=np.float64), self.clean**2 / 2)

    def step_lipschitz(self, rates: FloatArray, client: int | slice | list[int] = slice(None)) -> FloatArray:
        """Lipschitz constant of a clean step (Proposition 4): max(1 - eta lambda, eta (beta + lambda) - 1).

        At most 1 but for rounding, since longer steps are refused. Of all clients for rates (..., N), or of some for
        theirs.
        """
        decay, beta = self.record.weight_decay, self.smoothness[client]
        return np.maximum(np.maximum(1 - rates * decay, rates * (beta + decay) * (1 + gamma(6)) - 1), 0.0) + gamma(4)

    def averaging(self, rates: FloatArray) -> FloatArray:
        """alpha_i = A / (1 + A), A = tau a / (1 - a), a = eta (beta + lambda) / 2: local training is averaged with it.

        (..., N) like the rates. So an update is 2 alpha-Lipschitz (Theorem 8). 1 where a = 1.
        """
        a = np.minimum(rates * (self.smoothness + self.record.weight_decay) / 2 * (1 + gamma(6)), 1.0)
        tau = self.steps
        alpha = np.where(tau > 0, tau * a / (1 - a + tau * a), 0.0) * (1 + gamma(8)) + 2 * FLOAT64_UNIT
        return np.minimum(alpha, 1.0)

    def longest_update(self, rates: FloatArray, norm: float = 0.0) -> FloatArray:
        """Bound on ||u_i|| of clean clients (Proposition 9): tau eta (sqrt(2) B + lambda times the largest local norm).

        `norm`: ||z_t||; of no account without weight decay.
        """
        moved = self.steps * rates * math.sqrt(2) * self.clean
        return (moved + self.steps * rates * self.record.weight_decay * (norm + moved)) * (1 + gamma(8))
