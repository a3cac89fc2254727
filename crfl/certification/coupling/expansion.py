"""What a round multiplies: Lambda_t, by which it can enlarge the distance of two runs at its start (Theorem 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crfl.certification._checks import BoolArray, FloatArray, IntArray
from crfl.certification.coupling.arithmetic import gamma
from crfl.certification.coupling.attackers import Attackers, Entries, each_alone
from crfl.certification.coupling.rounding import computed_norm
from crfl.certification.coupling.rounds import Rounds, dot


@dataclass(frozen=True)
class Expansion:
    """D -> a bound on what a clean round makes of every distance up to D, before clipping and rounding (Proposition 9).

    Clients that the server may have clipped in one of the runs count by themselves: each is 2 alpha-Lipschitz, and its
    update at most S. Which ones can be depends on D.
    """

    thresholds: FloatArray
    """(n,), rising: below this distance the server clips the client's update in neither run."""
    factors: FloatArray
    """(n + 1,): Lambda of all others, if the first j clients may be clipped."""
    apart: FloatArray
    """(n + 1,): sum of 2 p alpha over those j, above 0."""
    apart_cap: FloatArray
    """(n + 1,): sum of 2 p S over those j."""
    scaled: float
    """Sum of 2 p gamma alpha over the attackers whose scaled clean update may be clipped, above 0."""
    scaled_cap: float
    """Sum of 2 p S over them."""

    def split(self, distance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A factor and a constant (k,): no distance up to D (k,) becomes more than factor times it plus constant."""
        j = self.thresholds.searchsorted(distance)
        near, scaled = self.apart[j] * distance <= self.apart_cap[j], self.scaled * distance <= self.scaled_cap
        factor = self.factors[j] + np.where(near, self.apart[j], 0.0) + np.where(scaled, self.scaled, 0.0)
        return factor, np.where(near, 0.0, self.apart_cap[j]) + np.where(scaled, 0.0, self.scaled_cap)

    def __call__(self, distance: FloatArray) -> FloatArray:
        """The bound for distances D (k,)."""
        if len(self.thresholds):
            j = self.thresholds.searchsorted(distance)
            total = self.factors[j] * distance + np.minimum(self.apart[j] * distance, self.apart_cap[j])
        else:
            total = self.factors[0] * distance
        return total + np.minimum(self.scaled * distance, self.scaled_cap) if self.scaled_cap else total


TINY = 2.0**-1000
"""In place of 0 where what is multiplied may be infinite: the product then has the cap 0."""


def expansions(rounds: Rounds, attackers: Sequence[Attackers], num_attackers: int | None = None) -> list[Expansion]:
    """What each round multiplies: Lambda_t of Theorem 8 in docs/theory.md, with server decay and clipped updates.

    With v = (1 - kappa) z + sum p gamma u(z), and u(z) + z both c-Lipschitz, c = (1 - eta lambda)^tau, and averaged
    with constant alpha, Lambda is the smaller of

        |1 - kappa - sum p gamma| + sum p gamma c        and        |1 - kappa - sum p gamma alpha| + sum p gamma alpha;

    1 - kappa where sum p gamma alpha + kappa <= 1.

    Args:
        rounds: the rounds.
        attackers: who scales in each of them, in both runs.
        num_attackers: this many attackers instead, each like the one of `attackers` that makes Lambda largest.

    Returns:
        The maps of distances, one a round.
    """
    entries, count = Entries.of(rounds.records, attackers), 1 if num_attackers is None else num_attackers
    thresholds, order = _unclipped_below(rounds, entries)
    # each side is convex in what the attackers add, so no mixture exceeds the worst of them
    alone = [] if num_attackers is None else each_alone(attackers)
    variants = [Entries.of(rounds.records, some) for some in alone] or [entries]
    found = [_sides(rounds, order, variant, count) for variant in variants]
    first, second, scaled, cap = (np.max(values, axis=0) for values in zip(*found, strict=True))
    weights, largest = rounds.weights, np.zeros(len(rounds.records))
    np.add.at(largest, entries.row, entries.weight * np.abs(entries.scale))
    largest = 2 + weights.sum(axis=1) + count * largest
    own_rounding = float(gamma(2 * weights.shape[1] + 16))
    factors = np.minimum(first, second) + own_rounding * largest[:, None]
    apart = np.maximum(_cumulated(2 * (weights * rounds.averaging), order), TINY)
    cumulated = _cumulated(weights, order)
    with np.errstate(invalid="ignore"):
        caps = np.where(cumulated > 0, 2 * rounds.update_clips * cumulated, 0.0)
    rows = zip(thresholds, factors, apart, caps, np.maximum(scaled, TINY).tolist(), cap.tolist(), strict=True)
    return [Expansion(*row) for row in rows]


def _sides(
    rounds: Rounds, order: IntArray, entries: Entries, count: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Both sides of Lambda if the first j of the clients in `order` count apart, (T, n + 1); `scaled` and its cap, (T,).

    Every attacker counts `count` times.
    """
    p, alpha, c, clip = rounds.weights, rounds.averaging, rounds.contraction, rounds.update_clips[:, 0]
    averaging = alpha * np.maximum(c, 1.0)
    total, size, averaged, averaged_size = p.sum(axis=1), dot(p, c), dot(p, alpha), dot(p, averaging)
    row, weight, heard = entries.row, count * entries.weight, ~entries.dropped
    at, large = (row, entries.client), np.abs(entries.scale)
    clipped = ~entries.malicious & heard & _may_clip(rounds, entries)
    gone = entries.malicious | clipped
    gain = np.where(gone, -weight, weight * (entries.scale - 1)) * heard
    larger = np.where(gone, -weight, weight * (large - 1)) * heard
    lost = count * np.maximum(entries.weight, entries.potential_weight)
    np.add.at(total, row, np.where(heard, gain, -lost))  # the weights on record are those of the others alone
    np.add.at(size, row, larger * c[at])
    np.add.at(averaged, row, gain * alpha[at])
    np.add.at(averaged_size, row, larger * alpha[at] * np.maximum(c[at], 1.0))
    scaled, cap = np.zeros(len(p)), np.zeros(len(p))
    np.add.at(scaled, row, np.where(clipped, 2 * weight * large * alpha[at], 0.0))
    np.add.at(cap, row[clipped], 2 * weight[clipped] * clip[row[clipped]])
    size = np.maximum(size[:, None] - _cumulated(p * c, order), 0.0)
    averaged_size = np.maximum(averaged_size[:, None] - _cumulated(p * averaging, order), 0.0)
    kept = (1 - rounds.decays)[:, None]
    first = np.abs(kept - (total[:, None] - _cumulated(p, order))) + size
    second = np.abs(kept - (averaged[:, None] - _cumulated(p * alpha, order))) + averaged_size
    return first, second, scaled, cap


def _may_clip(rounds: Rounds, entries: Entries) -> BoolArray:
    """Whether the server may clip the scaled clean update of each attacker."""
    if rounds.rounding.local.record.weight_decay > 0:  # updates of any length
        return (entries.scale != 0) & np.isfinite(rounds.update_clips[entries.row, 0])
    longest = rounds.training[1].constant[entries.row, entries.client]
    return np.abs(entries.scale) * longest * (1 + gamma(64)) > rounds.update_clips[entries.row, 0]


def _cumulated(values: FloatArray, order: IntArray) -> FloatArray:
    """Sums over the first 0, 1, .. n clients in `order` (T, n), of values (T, N): (T, n + 1)."""
    sums = np.zeros((len(values), order.shape[1] + 1))
    np.cumsum(np.take_along_axis(values, order, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _unclipped_below(rounds: Rounds, entries: Entries) -> tuple[FloatArray, IntArray]:
    """Up to which distance of the runs at the start of a round an honest client's update is clipped in neither run.

    ||u|| + 2 alpha D + rounding <= S with the norm on record (Proposition 9), or S >= tau eta sqrt(2) B. Rising in every
    round, with the numbers of the clients, (T, n) each, for as many clients as can be clipped in any of the rounds;
    infinite for those who cannot be, and for those who attack or take no part.
    """
    honest = (rounds.weights > 0) & np.isfinite(rounds.update_clips)
    honest[entries.row, entries.client] = False
    most = int(honest.sum(axis=1).max(initial=0))
    if not most:
        return np.zeros((len(honest), 0)), np.zeros((len(honest), 0), dtype=np.int64)
    (error, length), norm = rounds.training, rounds.start_norms
    computed = computed_norm(1.0, rounds.rounding.norm_error)
    clip = rounds.update_clips / computed * (1 - gamma(8))
    nothing = (math.inf,) * honest.shape[1]
    norms = [nothing if r.update_norms is None else r.update_norms for r in rounds.records]
    with np.errstate(invalid="ignore", divide="ignore"):
        by_length = (clip - length.at(norm) - error.at(norm)) / (length.slope + error.slope)
        by_norm = (clip - computed * np.array(norms) - 2 * error.at(norm)) / (2 * rounds.averaging + error.slope)
    limit = np.fmax(by_length, by_norm)
    limit = np.where(honest, np.where(np.isnan(limit), -np.inf, limit), np.inf)  # who knows may be clipped always
    order = np.argsort(limit, axis=1, kind="stable")[:, :most]
    return np.take_along_axis(limit, order, axis=1) * (1 - gamma(16)), order
