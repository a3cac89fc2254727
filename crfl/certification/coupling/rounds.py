"""Rounds of one run as arrays: what the bounds of a round read of its record, for many rounds at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.attackers import Attackers, Entries, each_alone
from crfl.certification.coupling.rounding import Affine, Rounding, computed_norm
from crfl.record import RoundRecord

BLOCK = 2**16
"""Numbers in an array of some rounds: so few that the work on them stays in the cache."""


def blocks(rounds: int, width: int) -> Iterator[slice]:
    """Consecutive rounds that make up arrays of `width` numbers a round."""
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, min(start + step, rounds)) for start in range(0, rounds, step))


@dataclass(frozen=True)
class Rounds:
    """T rounds of N clients; each array has a row for every round."""

    rounding: Rounding
    records: Sequence[RoundRecord]

    @cached_property
    def weights(self) -> FloatArray:
        """p_{i,t}, (T, N)."""
        return np.array([r.weights for r in self.records], dtype=np.float64)

    @cached_property
    def rates(self) -> FloatArray:
        """eta_{i,t}, (T, N)."""
        caps = np.array([r.learning_rate_cap for r in self.records])
        return np.minimum(np.array(self.rounding.local.record.learning_rates, dtype=np.float64), caps[:, None])

    @cached_property
    def start_norms(self) -> FloatArray:
        """Bound on ||z_t||, (T, 1)."""
        norms = np.array([r.start_norm for r in self.records])
        return computed_norm(norms, self.rounding.norm_error)[:, None]

    @cached_property
    def update_clips(self) -> FloatArray:
        """S_t, (T, 1); infinite where the server did not clip updates."""
        return np.array([math.inf if r.update_clip is None else r.update_clip for r in self.records])[:, None]

    @cached_property
    def decays(self) -> FloatArray:
        """kappa_t, (T,)."""
        return np.array([r.decay for r in self.records])

    @cached_property
    def training(self) -> tuple[Affine, Affine]:
        """Error of each client's update on clean data, and its length, by ||z||: (T, N) each."""
        return self.rounding.clean_training(self.rates)

    @cached_property
    def averaging(self) -> FloatArray:
        """alpha_{i,t}, (T, N)."""
        return self.rounding.local.averaging(self.rates)

    @cached_property
    def contraction(self) -> FloatArray:
        """c_{i,t}, (T, N): Lipschitz constant of local training on clean data."""
        return self.rounding.local.step_lipschitz(self.rates) ** self.rounding.local.steps


def dot(first: FloatArray, second: FloatArray) -> FloatArray:
    """The inner products of the rows (T, N), (T,)."""
    products: FloatArray = (first[:, None, :] @ second[:, :, None])[:, 0, 0]
    return products


def round_shares(rounds: Rounds, attackers: Sequence[Attackers], num_attackers: int | None = None) -> FloatArray:
    """Rounding of one run until the models are clipped, A ||z_t|| + C: the numbers A and C of each round (Lemma 24).

    Args:
        rounds: the rounds.
        attackers: who scales in each of them.
        num_attackers: this many instead, each like the one of them that makes A, or C, largest.

    Returns:
        (2, T)
    """
    if num_attackers is None:
        return _round_shares(rounds, attackers, 1)
    shares = [_round_shares(rounds, alone, num_attackers) for alone in each_alone(attackers)]
    return np.max(shares, axis=0)


def _round_shares(rounds: Rounds, attackers: Sequence[Attackers], count: int) -> FloatArray:
    """Each attacker counts `count` times."""
    rounding, clip, entries = rounds.rounding, rounds.update_clips, Entries.of(rounds.records, attackers)
    weights, scales = rounds.weights.copy(), np.ones(rounds.weights.shape)
    at = entries.row, entries.client
    np.maximum.at(weights, at, count * entries.weight)
    scales[at] = np.maximum(np.abs(entries.scale), 1.0)
    error, length = rounds.training
    sums = rounding.aggregation(np.count_nonzero(weights, axis=1))
    slope = dot(weights * scales, error.slope + sums[:, None] * length.slope) + rounding.arithmetic.operations(6)
    constant, reach = np.minimum(scales * error.constant, 2 * clip), np.minimum(scales * length.constant, 2 * clip)
    constant = constant + np.where(np.isinf(clip), 0.0, rounding.projection * clip)
    return np.stack([slope, dot(weights, constant) + sums * dot(weights, reach) + rounding.arithmetic.underflow])
