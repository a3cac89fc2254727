"""Delta: how far the models of a run and of its benign counterpart can be apart, round by round.

Both start alike, take the same batches in the same order and get the same noise, and the attackers scale in both; only
the attackers' data differs. What the poison adds in the attack round is bounded by the sharp Lipschitz constant; later
rounds keep the distance (softmax regression's loss is convex and B^2 / 2-smooth, so steps of eta <= 4 / B^2 do not
increase it), and clipping shrinks it. Proofs stand in docs/theory.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from crfl.certification._checks import BoolArray, FloatArray, nonnegative
from crfl.certification._monotone import largest_below
from crfl.certification.lipschitz import sharp_lipschitz
from crfl.certification.scenario import NO_ATTACKER, attackers_like
from crfl.errors import CertificateError
from crfl.training.record import AttackerRecord, RoundRecord, TrainingRecord, poison_ratios

ROUNDING = 4 * 2.0**-24
"""Float32 slack of a round, in units of the parameters' norm; see `CoupledScenario.rounding`."""


def feature_bound(record: TrainingRecord) -> float:
    """B: bound on ||x~|| of the clean training samples."""
    return math.hypot(1.0, record.max_feature_norm)


@dataclass(frozen=True)
class _Stage:
    """A round as the distance sees it, whatever the triggers' magnitude."""

    round: RoundRecord
    crew: tuple[AttackerRecord, ...]
    """Whose poison counts in this round."""
    growth: float
    rounding: float


@dataclass(frozen=True)
class CoupledScenario:
    """Delta, the largest distance of the final models of a run and its benign counterpart, by trigger magnitude."""

    record: TrainingRecord
    before_clip: bool
    """Take the models before round T's clipping (which keeps a linear model's argmax) instead of after."""
    any_round: bool = False
    """The attack may have been in any one round: take the worst."""

    @property
    def max_poisoned(self) -> int:
        """n_B"""
        return self.record.batch_size

    @property
    def max_attackers(self) -> int:
        """N"""
        return len(self.record.client_sizes)

    def radius(self, budget: FloatArray) -> FloatArray:
        """Largest magnitude with Delta below each budget (m,), rounded down; inf if no magnitude reaches it."""
        stages = self._stages(None, None)

        def last(magnitudes: FloatArray) -> FloatArray:
            return self._final(stages, magnitudes)

        return largest_below(last, budget, self._diameter)

    def affords(self, budget: FloatArray, cost: float) -> BoolArray:
        """Delta < budget, strictly."""
        return cost < budget

    def cost(self, magnitude: float, *, poisoned: int | None = None, attackers: int | None = None) -> float:
        """Delta for this magnitude, with another q_B or another number of attackers."""
        if attackers is not None and not self.record.attack_rounds:
            raise CertificateError(NO_ATTACKER)
        return float(self._final(self._stages(poisoned, attackers), np.array([magnitude]))[0])

    def distances(self, magnitude: float) -> FloatArray:
        """Delta_t before and after the clipping of every round, (T, 2)."""
        size = nonnegative("magnitude", [magnitude])
        pairs = self._distances(self._stages(None, None), size)
        return np.array([[before[0], after[0]] for before, after in pairs]).reshape(-1, 2)

    def _final(self, stages: list[_Stage], magnitudes: FloatArray) -> FloatArray:
        before = after = np.zeros(len(magnitudes))
        for before, after in self._distances(stages, magnitudes):  # noqa: B007 the last ones are wanted
            pass
        return before if self.before_clip else after

    def _stages(self, poisoned: int | None, attackers: int | None) -> list[_Stage]:
        """The rounds, with another q_B or another number of attackers."""
        known = {r.round: attackers_like(self.record, r, poisoned, attackers) for r in self.record.attack_rounds}
        stages = []
        for round_ in self.record.rounds:
            scaling = known.get(round_.round, ())
            crew = _moved_to(round_, next(iter(known.values()), ())) if self.any_round else scaling
            stages.append(_Stage(round_, crew, self.growth(round_, scaling), self.rounding(round_, scaling or crew)))
        return stages

    def _distances(self, stages: list[_Stage], magnitudes: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Delta_t of each magnitude (k,) before and after the clipping of every round."""
        now = nothing = np.zeros(len(magnitudes))
        for stage in stages:
            if self.any_round:  # every later map rises, so the worst round so far stays the worst
                now = np.maximum(stage.growth * now, self.poisoning(stage.round, stage.crew, magnitudes, nothing))
            else:
                now = stage.growth * now + self.poisoning(stage.round, stage.crew, magnitudes, now)
            before = np.where(now > 0, now + stage.rounding, 0.0)
            now = _clipped(before, stage.round)
            yield before, now

    def poisoning(
        self, round_: RoundRecord, crew: tuple[AttackerRecord, ...], magnitudes: FloatArray, before: FloatArray
    ) -> FloatArray:
        """What the poison of a round adds for magnitudes (k,), if the runs differ by `before` (k,) at its start.

        Sum over attackers of p gamma eta sum_s q_s/n_s (L_x(kappa_s B') ||delta|| + [label flipped] sqrt(2) B). B' also
        bounds the poisoned samples; kappa_s, the spectral norm in local step s, exceeds that of the model sent out by
        at most eta sqrt(2) ||x~|| a step.
        """
        total = np.zeros(len(magnitudes))
        clean, poisoned, moved = self._feature_bounds(magnitudes[:, None])
        start = _spectral_norm(round_) + before[:, None]
        for (rate, ratios, flips), factor in _alike(crew).items():
            q = np.array(ratios)
            if factor == 0 or not q.any():
                continue
            steps = np.arange(len(q))
            poison_so_far = np.cumsum(q) - q
            with np.errstate(invalid="ignore"):  # 0 times infinity at infinite magnitudes, put right below
                kappa = start + rate * math.sqrt(2) * (steps * clean + poison_so_far * (poisoned - clean))
                change = sharp_lipschitz(np.nan_to_num(kappa, nan=np.inf), poisoned) * moved
            change = np.where(moved == 0, 0.0, change) + flips * math.sqrt(2) * clean
            shrink = (1 - rate * self.record.weight_decay) ** (len(q) - 1 - steps)
            weight = factor * rate * q * shrink
            total += np.where(np.isinf(moved[:, 0]), np.inf, np.nan_to_num(change, posinf=0.0) @ weight)
        return total

    def growth(self, round_: RoundRecord, crew: tuple[AttackerRecord, ...]) -> float:
        """Lambda: by how much at most the round, before clipping, multiplies a distance that was there before.

        At most 1 without scaling (less with weight decay). With S = sum p gamma > 1 the server overshoots: |1 - S| + S;
        less since a client's whole local training is averaged with constant alpha = A / (1 + A), A = tau a / (1 - a),
        a = eta (beta + lambda) / 2 (Combettes and Yamada 2015): |1 - S alpha| + S alpha.
        """
        decay, beta = self.record.weight_decay, feature_bound(self.record) ** 2 / 2
        rates, tau, weights = np.array(self.record.learning_rates), self._local_steps, np.array(round_.weights)
        a = np.minimum(rates * (beta + decay) / 2, 1.0)
        alpha = np.where(tau > 0, tau * a / (1 - a + tau * a), 0.0)
        contraction = (1 - rates * decay) ** tau
        total, averaged = weights.sum(), weights @ alpha  # of p gamma, and of p gamma alpha
        size, averaged_size = weights @ contraction, weights @ alpha
        for x in crew:
            more, larger = x.weight * (x.scale - 1), x.weight * max(abs(x.scale) - 1, 0.0)
            total, averaged = total + more, averaged + more * alpha[x.client]
            size += larger * contraction[x.client]
            averaged_size += larger * alpha[x.client]
        return float(min(abs(1 - total) + size, abs(1 - averaged) + averaged_size))

    def rounding(self, round_: RoundRecord, crew: tuple[AttackerRecord, ...]) -> float:
        """Slack for float32: how much further rounding in a round can drive the two runs apart.

        A stored number is off by at most 2^-24 of itself, so each rounding of all parameters moves them by at most u =
        2^-24 of their norm. The server's roundings count once; a client's add up over its tau steps like independent
        errors, sqrt(tau), and over clients with weights p gamma. For both runs, and twice that for safety:
        4 u ||w|| (1 + sqrt(sum (p gamma)^2 tau)). Measured against float64: 0.6 u ||w|| a run and round.
        """
        scales = np.ones(len(round_.weights))
        for a in crew:
            scales[a.client] = max(abs(a.scale), 1.0)
        spread = math.sqrt(float(np.square(np.array(round_.weights) * scales) @ self._local_steps))
        return ROUNDING * max(round_.start_norm, round_.pre_clip_norm) * (1 + spread)

    def _feature_bounds(self, magnitudes: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Bounds on ||x~|| of clean and of all training samples, and on how far a trigger moves one.

        A trigger's result is clamped to the declared domain, so it moves no sample further than the domain is wide.
        """
        record, clean = self.record, self.record.max_feature_norm
        moved = np.minimum(magnitudes, self._diameter)
        farthest = math.inf
        if record.domain is not None:
            farthest = math.sqrt(record.num_features) * max(map(abs, record.domain))
        poisoned = np.minimum(clean + moved, max(clean, farthest))
        return feature_bound(record), np.hypot(1.0, poisoned), moved

    @cached_property
    def _local_steps(self) -> FloatArray:
        """tau_i of each client, (N,)."""
        r = self.record
        steps = {n: len(poison_ratios(n, 0, r.batch_size, r.epochs, r.keep_last_batch)) for n in set(r.client_sizes)}
        return np.array([steps[n] for n in r.client_sizes], dtype=np.float64)

    @property
    def _diameter(self) -> float:
        """The largest distance of two samples."""
        if self.record.domain is None:
            return math.inf
        low, high = self.record.domain
        return math.sqrt(self.record.num_features) * (high - low)


def _alike(crew: tuple[AttackerRecord, ...]) -> dict[tuple[float, tuple[float, ...], bool], float]:
    """Attackers whose local training is bounded alike, and the sum of their p gamma."""
    groups: dict[tuple[float, tuple[float, ...], bool], float] = {}
    for a in crew:
        key = (a.learning_rate, a.poison_ratios, a.label_flip)
        groups[key] = groups.get(key, 0.0) + abs(a.weight * a.scale)
    return groups


def _moved_to(round_: RoundRecord, crew: tuple[AttackerRecord, ...]) -> tuple[AttackerRecord, ...]:
    """The same attackers in another round, with the weights that it gave them."""
    return tuple(replace(a, weight=round_.weights[a.client]) for a in crew)


def _spectral_norm(round_: RoundRecord) -> float:
    norm = round_.start_spectral_norm
    return math.inf if norm is None else norm


def _clipped(distance: FloatArray, round_: RoundRecord) -> FloatArray:
    """Distances after the projection on the ball of radius rho.

    If both models have norm r >= rho before it, they come closer by rho / r. One norm is on record, the other's
    differs by at most their distance.
    """
    if math.isinf(round_.clip_norm):
        return distance
    reach = np.maximum(round_.clip_norm, round_.pre_clip_norm - distance)
    return distance * (round_.clip_norm / reach)
