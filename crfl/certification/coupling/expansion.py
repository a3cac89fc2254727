"""What a round multiplies: Lambda_t, by which it can enlarge the distance of two runs at its start (Theorem 8)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.coupling.arithmetic import gamma
from crfl.certification.coupling.attackers import Attackers, dropped, with_trained_updates
from crfl.certification.coupling.rounding import Rounding, computed_norm
from crfl.record import AttackerRecord, RoundRecord


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
    """(n + 1,): sum of 2 p alpha over those j."""
    apart_cap: FloatArray
    """(n + 1,): sum of 2 p S over those j."""
    scaled: float
    """Sum of 2 p gamma alpha over the attackers whose scaled clean update may be clipped."""
    scaled_cap: float
    """Sum of 2 p S over them."""

    def split(self, distance: FloatArray) -> tuple[FloatArray, FloatArray]:
        """A factor and a constant (k,): no distance up to D (k,) becomes more than factor times it plus constant."""
        j = np.searchsorted(self.thresholds, distance, side="left")
        near, scaled = _times(self.apart[j], distance) <= self.apart_cap[j], self.scaled * distance <= self.scaled_cap
        factor = self.factors[j] + np.where(near, self.apart[j], 0.0) + np.where(scaled, self.scaled, 0.0)
        return factor, np.where(near, 0.0, self.apart_cap[j]) + np.where(scaled, 0.0, self.scaled_cap)

    def __call__(self, distance: FloatArray) -> FloatArray:
        """The bound for distances D (k,)."""
        j = np.searchsorted(self.thresholds, distance, side="left")
        total: FloatArray = (
            self.factors[j] * distance
            + np.minimum(_times(self.apart[j], distance), self.apart_cap[j])
            + np.minimum(_times(np.full(j.shape, self.scaled), distance), self.scaled_cap)
        )
        return total


def _times(coefficient: FloatArray, distance: FloatArray) -> FloatArray:
    """The product; 0 times infinity is 0."""
    return np.where(coefficient > 0, coefficient * np.where(coefficient > 0, distance, 0.0), 0.0)


def expansion(
    rounding: Rounding, round_: RoundRecord, attackers: Attackers, num_attackers: int | None = None
) -> Expansion:
    """What a round multiplies: Lambda_t of Theorem 8 in docs/theory.md, with server decay and clipped updates.

    With v = (1 - kappa) z + sum p gamma u(z), and u(z) + z both c-Lipschitz, c = (1 - eta lambda)^tau, and averaged
    with constant alpha, Lambda is the smaller of

        |1 - kappa - sum p gamma| + sum p gamma c        and        |1 - kappa - sum p gamma alpha| + sum p gamma alpha;

    1 - kappa where sum p gamma alpha + kappa <= 1.

    Args:
        rounding: of the run.
        round_: the round.
        attackers: who scales in it, in both runs.
        num_attackers: this many attackers instead, each like the one of `attackers` that makes Lambda largest.

    Returns:
        The map of distances.
    """
    terms = _Terms.of(rounding, round_)
    thresholds, order = _unclipped_below(rounding, round_, attackers)
    if num_attackers is None or not attackers:
        found = [terms.factors(order, attackers, round_)]
    else:  # each side is convex in what the attackers add, so no mixture exceeds the worst of them
        found = [terms.factors(order, (a,) * num_attackers, round_) for a in attackers]
    first, second = np.max([f[0] for f in found], axis=0), np.max([f[1] for f in found], axis=0)
    scaled, cap = max(f[2] for f in found), max(f[3] for f in found)
    cumulated = np.append(0.0, np.cumsum(terms.weights[order]))
    apart = np.append(0.0, np.cumsum(2 * (terms.weights * terms.alpha)[order]))
    clip = math.inf if round_.update_clip is None else round_.update_clip
    own_rounding = float(gamma(2 * len(terms.weights) + 16))
    largest = (
        2
        + terms.weights.sum()
        + (1 if num_attackers is None else num_attackers) * sum(a.weight * abs(a.scale) for a in attackers)
    )
    with np.errstate(invalid="ignore"):
        caps = np.where(cumulated > 0, 2 * clip * cumulated, 0.0)
    return Expansion(thresholds, np.minimum(first, second) + own_rounding * largest, apart, caps, scaled, cap)


@dataclass(frozen=True)
class _Terms:
    """p, alpha and c of all clients in a round, (N,)."""

    weights: FloatArray
    alpha: FloatArray
    contraction: FloatArray
    longest: FloatArray
    decay: float
    update_clip: float

    @classmethod
    def of(cls, rounding: Rounding, round_: RoundRecord) -> _Terms:
        local = rounding.local
        rates = local.rates(round_)
        _, length = rounding.clean_training(round_)
        return cls(
            np.array(round_.weights, dtype=np.float64),
            local.averaging(rates),
            local.step_lipschitz(rates) ** local.steps,
            length.constant if local.record.weight_decay == 0 else np.full(len(rates), np.inf),
            round_.decay,
            math.inf if round_.update_clip is None else round_.update_clip,
        )

    def factors(
        self, order: IntArray, attackers: Attackers, round_: RoundRecord
    ) -> tuple[FloatArray, FloatArray, float, float]:
        """Both sides of Lambda if the first j of the clients in `order` count apart, (n + 1,) each; then `scaled`."""
        p, alpha, c, kappa = self.weights, self.alpha, self.contraction, self.decay
        total, size, averaged, averaged_size = p.sum(), p @ c, p @ alpha, p @ (alpha * np.maximum(c, 1.0))
        scaled = cap = 0.0
        for x in attackers:
            if dropped(round_, x):  # the weights on record are those of the others alone
                total -= max(x.weight, x.potential_weight)
                continue
            i, gone = x.client, x.update is not None or self.may_clip(x)
            gain = -x.weight if gone else x.weight * (x.scale - 1)
            larger = -x.weight if gone else x.weight * (abs(x.scale) - 1)
            total, size, averaged = total + gain, size + larger * c[i], averaged + gain * alpha[i]
            averaged_size += larger * alpha[i] * max(c[i], 1.0)
            if gone and x.update is None:
                scaled += 2 * x.weight * abs(x.scale) * alpha[i]
                cap += 2 * x.weight * self.update_clip
        removed = [np.append(0.0, np.cumsum((p * v)[order])) for v in (1.0, c, alpha, alpha * np.maximum(c, 1.0))]
        size, averaged_size = np.maximum(size - removed[1], 0.0), np.maximum(averaged_size - removed[3], 0.0)
        first = np.abs(1 - kappa - (total - removed[0])) + size
        return first, np.abs(1 - kappa - (averaged - removed[2])) + averaged_size, float(scaled), float(cap)

    def may_clip(self, attacker: AttackerRecord) -> bool:
        """Whether the server may clip its scaled clean update."""
        return bool(abs(attacker.scale) * self.longest[attacker.client] * (1 + gamma(64)) > self.update_clip)


def _unclipped_below(rounding: Rounding, round_: RoundRecord, attackers: Attackers) -> tuple[FloatArray, IntArray]:
    """Up to which distance of the runs at the start of the round an honest client's update is clipped in neither run.

    ||u|| + 2 alpha D + rounding <= S with the norm on record (Proposition 9), or S >= tau eta sqrt(2) B. Rising, with
    the numbers of the clients; only of those that take part and for whom it is finite.
    """
    if round_.update_clip is None:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    local = rounding.local
    rates = local.rates(round_)
    error, length = rounding.clean_training(round_)
    norm = computed_norm(round_.start_norm, rounding.norm_error)
    clip = round_.update_clip / computed_norm(1.0, rounding.norm_error) * (1 - gamma(8))
    by_length = (clip - length.at(norm) - error.at(norm)) / (length.slope + error.slope)
    limit = by_length
    if round_.update_norms is not None:
        known = computed_norm(1.0, rounding.norm_error) * np.array(round_.update_norms)
        slope = 2 * local.averaging(rates) + error.slope
        limit = np.maximum(limit, (clip - known - 2 * error.at(norm)) / slope)
    scaled = np.isin(np.arange(len(rates)), [a.client for a in with_trained_updates(attackers)])
    malicious = np.isin(np.arange(len(rates)), [a.client for a in attackers if a.update is not None])
    some = np.flatnonzero((np.array(round_.weights) > 0) & ~scaled & ~malicious)
    order = some[np.argsort(limit[some], kind="stable")]
    return limit[order] * (1 - gamma(16)), order
