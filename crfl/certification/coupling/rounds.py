"""What one round does to the distance of a run and its benign counterpart, as bounds from the record."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.lipschitz import sharp_lipschitz
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord, poison_ratios

UNIT_ROUNDOFF = 2.0**-24
"""u: a number stored in float32 is off by at most this share of itself."""
LONG_STEP = 100
"""How many times u ||w|| a step must measure for the rounding of the steps after each other to be independent."""
Crew = tuple[AttackerRecord, ...]


def feature_bound(record: TrainingRecord) -> float:
    """B: bound on ||x~|| of the clean training samples."""
    return math.hypot(1.0, record.max_feature_norm)


def steps_too_long(record: TrainingRecord) -> list[str]:
    """What is wrong if a step on the convex, B^2 / 2-smooth loss can drive two runs apart; [] if it cannot."""
    limit = 2 / (feature_bound(record) ** 2 / 2 + 2 * record.weight_decay)
    rates = [*record.learning_rates, *(a.learning_rate for r in record.attack_rounds for a in r.attackers)]
    if max(rates, default=0.0) <= limit:
        return []
    return [
        f"local.learning_rate is {max(rates):g}, above {limit:.6g} = 2 / (B^2 / 2 + 2 weight_decay) with B = "
        f"{feature_bound(record):.6g}, the largest norm of (x, 1): a step can then drive two runs apart"
    ]


def longest_update(record: TrainingRecord, steps: FloatArray, learning_rates: FloatArray) -> FloatArray:
    """tau eta sqrt(2) B: no clean update of so many steps is longer (without weight decay)."""
    return steps * learning_rates * math.sqrt(2) * feature_bound(record)


def local_steps(record: TrainingRecord) -> FloatArray:
    """tau_i: local steps a round of each client, (N,)."""
    steps = {
        n: len(poison_ratios(n, 0, record.batch_size, record.epochs, record.keep_last_batch))
        for n in set(record.client_sizes)
    }
    return np.array([steps[n] for n in record.client_sizes], dtype=np.float64)


@dataclass(frozen=True)
class RoundBounds:
    """Bounds for the rounds of a run. Attackers who send malicious updates are compared with sending nothing."""

    record: TrainingRecord

    def poisoning(
        self,
        round_: RoundRecord,
        crew: Crew,
        magnitudes: FloatArray,
        before: FloatArray,
        copies: int | None = None,
    ) -> FloatArray:
        """What the poison of a round adds for magnitudes (k,), if the runs differ by `before` (k,) at its start.

        Sum over attackers of p gamma eta sum_s q_s/n_s (L_x(kappa_s B') ||delta|| + [label flipped] sqrt(2) B), but per
        sample at most sqrt(2) (B + B'), whatever replaces it. B' bounds poisoned samples too; kappa_s, the spectral
        norm in local step s, exceeds that of the model sent out by at most eta sqrt(2) ||x~|| a step. If the server
        clips updates to norm S, no attacker adds more than 2 p S. An attacker who sends a malicious update adds p times
        its norm, which is on record or at most S. `copies`: so many attackers instead of the crew, each like the one
        who adds most.
        """
        nothing = np.zeros(len(magnitudes))
        if copies is not None:
            each = [self.poisoning(round_, (a,), magnitudes, before) for a in crew]
            return copies * np.max([nothing, *each], axis=0) if copies else nothing
        if not crew:
            return nothing
        total = nothing + math.fsum(abs(a.weight) * self.malicious_norm(a) for a in crew if a.update is not None)
        clean, poisoned, moved = self._feature_bounds(magnitudes[:, None])
        start = _spectral_norm(round_) + before[:, None]
        for (scale, rate, ratios, flips), share in _alike(_learners(crew)).items():
            q = np.array(ratios)
            if share * scale == 0 or not q.any():
                continue
            steps = np.arange(len(q))
            poison_so_far = np.cumsum(q) - q
            shrink = (1 - rate * self.record.weight_decay) ** (len(q) - 1 - steps)
            with np.errstate(invalid="ignore", over="ignore"):  # infinite magnitudes: 0 times infinity is infinity
                kappa = start + rate * math.sqrt(2) * (steps * clean + poison_so_far * (poisoned - clean))
                change = sharp_lipschitz(_infinite(kappa), poisoned) * moved
                change = np.where(moved == 0, 0.0, change) + flips * math.sqrt(2) * clean
                change = np.minimum(_infinite(change), math.sqrt(2) * (clean + poisoned))  # any two gradients
                sent = scale * _infinite(change @ (rate * q * shrink))
            total += share * np.minimum(sent, 2 * self.update_clip)
        return total

    def active(self, crew: Crew) -> bool:
        """Whether anybody in the crew poisons samples or sends malicious updates, and is heard."""
        return any(a.weight * a.scale != 0 and (any(a.poison_ratios) or a.update is not None) for a in crew)

    def growth(self, round_: RoundRecord, crew: Crew, copies: int | None = None) -> float:
        """Lambda: by how much at most the round, before clipping, multiplies a distance that was there before.

        At most 1 without scaling (less with weight decay). With S = sum p gamma > 1 the server overshoots: |1 - S| + S;
        less since a client's whole local training is averaged with constant alpha = A / (1 + A), A = tau a / (1 - a),
        a = eta (beta + lambda) / 2 (Combettes and Yamada 2015): |1 - S alpha| + S alpha. `copies`: so many attackers
        instead of the crew, each like the one who makes it largest; each of the two bounds is convex in what the
        attackers add, so no mixture of them exceeds that.
        """
        hit = any(abs(x.scale) * self._longest[x.client] > self.update_clip for x in _learners(crew))
        if copies is None or not crew:
            return min(self._growths(round_, crew, hit))
        pairs = [self._growths(round_, (x,) * copies, hit) for x in crew]
        return min(max(pair[0] for pair in pairs), max(pair[1] for pair in pairs))

    def _growths(self, round_: RoundRecord, crew: Crew, hit: bool) -> tuple[float, float]:
        """The two bounds of `growth`; `hit`: whether the server's clip may hit the attackers' scaled updates."""
        decay, beta = self.record.weight_decay, feature_bound(self.record) ** 2 / 2
        rates, tau, weights = np.array(self.record.learning_rates), self._local_steps, np.array(round_.weights)
        a = np.minimum(rates * (beta + decay) / 2, 1.0)
        alpha = np.where(tau > 0, tau * a / (1 - a + tau * a), 0.0)
        contraction = (1 - rates * decay) ** tau
        weights[[x.client for x in crew if x.update is not None]] = 0.0
        crew = _learners(crew)
        if hit:  # each of them, 2 alpha-Lipschitz before scaling, counts by itself
            own = sum(2 * x.weight * abs(x.scale) * alpha[x.client] for x in crew)
            weights[[x.client for x in crew]] = 0.0
            found = float(abs(1 - weights @ alpha) + weights @ alpha + own)
            return found, found
        total, averaged = weights.sum(), weights @ alpha  # of p gamma, and of p gamma alpha
        size, averaged_size = weights @ contraction, weights @ alpha
        for x in crew:
            more, larger = x.weight * (x.scale - 1), x.weight * (abs(x.scale) - 1)
            total, averaged = total + more, averaged + more * alpha[x.client]
            size += larger * contraction[x.client]
            averaged_size += larger * alpha[x.client]
        size, averaged_size = np.maximum([size, averaged_size], 0.0)  # below 0 for more copies than there are clients
        return float(abs(1 - total) + size), float(abs(1 - averaged) + averaged_size)

    def malicious_norm(self, attacker: AttackerRecord) -> float:
        """Norm of a malicious update as it was aggregated: on record but for the benign counterpart, or at most S."""
        known = None if self.record.benign else attacker.update_norm
        return self.update_clip if known is None else known

    def rounding(self, round_: RoundRecord, crew: Crew, copies: int | None = None) -> float:
        """Slack for float32: how much further rounding in a round can drive the two runs apart.

        Each rounding of all parameters moves them by at most u ||w||. The server's roundings count once; a client's add
        up over its tau steps like independent errors, sqrt(tau), and over clients with weights p gamma. Where a step is
        so short that much of it is lost, errors are alike from step to step and add up themselves: a step of eta
        sqrt(2) B counts so in the share m = min(1, 100 u ||w|| / (eta sqrt(2) B)). For both runs, and twice that for
        safety: 4 u ||w|| (1 + sqrt(sum (p gamma)^2 tau) + sum p gamma tau m). Measured against float64: 0.6 u ||w|| a
        run and round. `copies` as in `growth`.
        """
        if copies is not None and crew:
            return max(self.rounding(round_, (x,) * copies) for x in crew)
        unit = UNIT_ROUNDOFF * max(round_.start_norm, round_.pre_clip_norm)
        tau, weights = self._local_steps, np.array(round_.weights)
        short = np.minimum(LONG_STEP * unit * tau / self._longest.clip(min=np.finfo(float).tiny), 1.0)
        squares, alike = np.square(weights) @ tau, weights @ (tau * short)
        for x in _learners(crew):
            own, more = tau[x.client], max(abs(x.scale), 1.0)
            squares += (x.weight * more) ** 2 * own - x.weight**2 * own
            alike += x.weight * (more - 1) * own * short[x.client]
        return 4 * unit * (1 + math.sqrt(squares) + alike)

    def _feature_bounds(self, magnitudes: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Bounds on ||x~|| of clean and of all training samples, and on how far a trigger moves one.

        A trigger's result is clamped to the declared domain, so it moves no sample further than the domain is wide.
        """
        record, clean = self.record, self.record.max_feature_norm
        moved = np.minimum(magnitudes, self.diameter)
        farthest = math.inf
        if record.domain is not None:
            farthest = math.sqrt(record.num_features) * max(map(abs, record.domain))
        poisoned = np.minimum(clean + moved, max(clean, farthest))
        return feature_bound(record), np.hypot(1.0, poisoned), moved

    @cached_property
    def _local_steps(self) -> FloatArray:
        """tau_i of each client, (N,)."""
        return local_steps(self.record)

    @cached_property
    def _longest(self) -> FloatArray:
        """tau eta sqrt(2) B of each client, (N,)."""
        return longest_update(self.record, self._local_steps, np.array(self.record.learning_rates))

    @property
    def update_clip(self) -> float:
        """S"""
        return next((math.inf if r.update_clip is None else r.update_clip for r in self.record.rounds), math.inf)

    @property
    def diameter(self) -> float:
        """The largest distance of two samples."""
        if self.record.domain is None:
            return math.inf
        low, high = self.record.domain
        return math.sqrt(self.record.num_features) * (high - low)


def _learners(crew: Crew) -> Crew:
    """The attackers who send what they learnt."""
    return tuple(a for a in crew if a.update is None)


_Kind = tuple[float, float, tuple[float, ...], bool]


def _alike(crew: Crew) -> dict[_Kind, float]:
    """Attackers whose updates are bounded alike (gamma, eta, poison ratios, label changes), and their weights' sum."""
    groups: dict[_Kind, float] = {}
    for a in crew:
        key = (abs(a.scale), a.learning_rate, a.poison_ratios, a.label_flip)
        groups[key] = groups.get(key, 0.0) + abs(a.weight)
    return groups


def _infinite(values: FloatArray) -> FloatArray:
    """NaN, which only 0 times infinity can have made here, taken as infinity: the safe side."""
    return np.where(np.isnan(values), np.inf, values)


def _spectral_norm(round_: RoundRecord) -> float:
    norm = round_.start_spectral_norm
    return math.inf if norm is None else norm
