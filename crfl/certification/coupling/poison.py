"""What a round adds: how far poison can drive two runs apart in it (Lemma 5, Theorems 6 and 8)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.coupling.arithmetic import SPECTRAL_ERROR, gamma
from crfl.certification.coupling.attackers import Attackers, dropped, each_alone
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.rounding import Rounding, computed_norm, update_error
from crfl.certification.lipschitz import sharp_lipschitz
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord


@dataclass(frozen=True)
class _Kind:
    """Attackers with the same bound, as one of them with the sum of their weights: each bound is computed once."""

    client: int
    scale: float
    """|gamma|"""
    ratios: tuple[float, ...]
    flips: bool
    shares: FloatArray
    """(T,): sum of their weights in each round."""


@dataclass(frozen=True)
class Poison:
    """What the poison of each of T rounds adds to the distance, by the trigger's magnitude and the distance before it."""

    rounding: Rounding
    sent: FloatArray
    """(T, 1): what malicious and dropped updates add in exact arithmetic."""
    clips: FloatArray
    """(T, 1): largest norm of a clipped update, rounding included; infinite where the server does not clip."""
    caps: FloatArray
    """(T, 1): to which the rates of the clients are lowered."""
    norms: FloatArray
    """(T, 1): bound on ||z_t||."""
    spectral_norms: FloatArray
    """(T, 1): bound on ||W~||_2."""
    kinds: tuple[_Kind, ...]

    @property
    def nodes(self) -> int:
        """Steps of a round at which the gradient bound is computed."""
        return max((len(_nodes(kind.ratios)) for kind in self.kinds), default=1)

    def __call__(self, rows: slice, magnitudes: FloatArray, before: FloatArray) -> FloatArray:
        """What the rounds `rows` add, if the runs may differ by D before them.

        Args:
            rows: T of the rounds.
            magnitudes: ||delta||, (k,).
            before: D, (T, k) or (T, 1).

        Returns:
            (T, k), rising with both.
        """
        more, projection = self._more, self.rounding.projection
        total = (self.sent[rows] * (1 + 2 * projection) * more).repeat(len(magnitudes), axis=1)
        for kind in self.kinds:
            shares = kind.shares[rows, None]
            if shares.any():
                moved = kind.scale * self._poisoned_update(kind, rows, magnitudes, before)
                with np.errstate(invalid="ignore"):
                    added = shares * np.minimum(moved, 2 * self.clips[rows]) * more
                total += np.where(shares != 0, added, 0.0)
        return total

    @cached_property
    def _more(self) -> float:
        """1, and the rounding of the weighted sum."""
        return float(1 + self.rounding.aggregation(len(self.rounding.local.record.client_sizes)))

    def _poisoned_update(self, kind: _Kind, rows: slice, magnitudes: FloatArray, before: FloatArray) -> FloatArray:
        """D_i of Lemma 5, (T, k): how far poison moves the update of a client, rounding included."""
        local, size = self.rounding.local, len(kind.ratios)
        rate = np.minimum(local.record.learning_rates[kind.client], self.caps[rows])
        q, clean, poisoned = np.array(kind.ratios), local.clean, local.poisoned(magnitudes)
        moved = np.minimum(magnitudes, local.diameter)[:, None]
        poison_so_far, nodes = np.cumsum(q) - q, _nodes(kind.ratios)
        weights = rate * q * local.step_lipschitz(rate, kind.client) ** (size - 1 - np.arange(size))
        with np.errstate(invalid="ignore", over="ignore"):  # infinite magnitudes: 0 times infinity is infinity
            error, step_error = self._poisoned_rounding(kind, rows, poisoned, before, rate)
            grown = nodes * clean + poison_so_far[nodes] * (poisoned[:, None] - clean)
            pace = (rate * math.sqrt(2))[:, :, None] * grown
            start = self.spectral_norms[rows] + before
            kappa = start[:, :, None] + pace + nodes * step_error[:, :, None]
            change = sharp_lipschitz(_nan_to_inf(kappa), poisoned[:, None]) * moved
            change = _nan_to_inf(np.where(moved == 0, 0.0, change) + kind.flips * math.sqrt(2) * clean)
            any_two = math.sqrt(2) * (clean + poisoned)[:, None]  # any two gradients differ by no more
            total: FloatArray = _sum_of_steps(change, any_two, weights, nodes) + _nan_to_inf(error)
        return total

    def _poisoned_rounding(
        self, kind: _Kind, rows: slice, poisoned: FloatArray, before: FloatArray, rate: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Error of the poisoned update and that of one of its steps, (T, k), for features of norm B' (k,)."""
        local, unit, tau = self.rounding.local, self.rounding.arithmetic.unit, np.array(float(len(kind.ratios)))
        batch = local.batch_sizes[kind.client]
        step = self.rounding.step(poisoned, rate, batch, batch)
        error, largest = update_error(tau, poisoned, rate, local.record.weight_decay, step, unit)
        norm = self.norms[rows] + before
        return _nan_to_inf(error.at(norm)), _nan_to_inf(step.at(_nan_to_inf(largest.at(norm))))


@dataclass(frozen=True)
class WorstPoison:
    """A number of attackers instead of those of each round, each like the one of them who adds most."""

    each: tuple[Poison, ...]
    num_attackers: int

    @property
    def nodes(self) -> int:
        """As for `Poison`."""
        return max(alone.nodes for alone in self.each)

    def __call__(self, rows: slice, magnitudes: FloatArray, before: FloatArray) -> FloatArray:
        """As for `Poison`."""
        added: FloatArray = np.max([alone(rows, magnitudes, before) for alone in self.each], axis=0)
        return self.num_attackers * added if self.num_attackers else np.zeros(added.shape)


def poison(
    rounding: Rounding,
    rounds: Sequence[RoundRecord],
    attackers: Sequence[Attackers],
    num_attackers: int | None = None,
) -> Poison | WorstPoison:
    """What the poison of each round adds to the distance (Lemma 5 and Theorem 8 of docs/theory.md).

    Sum over attackers of p gamma eta sum_s q_s/n_s G(kappa_s) with the gradient bound of one sample,

        G = min(L_x(kappa_s B') ||delta|| + [label flipped] sqrt(2) B, sqrt(2) (B + B')),

    and the rounding of the poisoned steps. If the server clips updates to S, no attacker adds more than 2 p S. One who
    sends a malicious update, against sending nothing, adds p times its norm, which is on record or at most S.

    Args:
        rounding: of the run.
        rounds: the rounds.
        attackers: whose poison counts in each of them.
        num_attackers: this many attackers instead, each like the one of `attackers` who adds most.

    Returns:
        A function of the magnitudes and of the distance before each round.
    """
    if num_attackers is not None:
        each = tuple(_poison(rounding, rounds, alone) for alone in each_alone(attackers))
        return WorstPoison(each, num_attackers)
    return _poison(rounding, rounds, attackers)


def _poison(rounding: Rounding, rounds: Sequence[RoundRecord], attackers: Sequence[Attackers]) -> Poison:
    record = rounding.local.record
    pairs = list(zip(rounds, attackers, strict=True))
    sent = [math.fsum(_arbitrary_update(record, r, a) for a in members) if members else 0.0 for r, members in pairs]
    clips = [math.inf if r.update_clip is None else r.update_clip * (1 + rounding.projection) for r in rounds]
    return Poison(
        rounding,
        np.array(sent)[:, None],
        np.array(clips)[:, None],
        np.array([r.learning_rate_cap for r in rounds])[:, None],
        _start_norms(rounding, rounds),
        largest_spectral_norms(rounding, rounds),
        tuple(_kinds(rounding.local, rounds, attackers)),
    )


NODES = 18
"""Steps at which the gradient bound is computed, if all batches hold as much poison; in between it is convex."""


def _nodes(ratios: tuple[float, ...]) -> IntArray:
    """The local steps at which the gradient bound is computed: closer at first, where it bends."""
    size = len(ratios)
    if size <= NODES or len(set(ratios)) > 1:
        return np.arange(size)
    even, early = np.linspace(0, size - 1, NODES - 5), np.geomspace(1, size, 7) - 1
    return np.unique(np.round(np.append(even, early)).astype(np.int64))


def _sum_of_steps(change: FloatArray, most: FloatArray, weights: FloatArray, nodes: IntArray) -> FloatArray:
    """Sum over the steps of their weight (T, steps) times min(bound, `most` (k, 1)), given the bound at the nodes
    (T, k, nodes): (T, k).

    The spectral norm grows evenly from step to step and the bound is convex in it: chords lie above.
    """
    if len(nodes) == weights.shape[1]:
        return _nan_to_inf((np.minimum(change, most) @ weights[:, :, None])[:, :, 0])
    step = np.arange(weights.shape[1])
    part = np.clip(np.searchsorted(nodes, step, side="right") - 1, 0, len(nodes) - 2)
    right = (step - nodes[part]) / (nodes[part + 1] - nodes[part])
    left_sums = np.add.reduceat(weights * (1 - right), nodes[:-1], axis=1)[:, None, :]
    right_sums = np.add.reduceat(weights * right, nodes[:-1], axis=1)[:, None, :]
    chords = change[:, :, :-1] * left_sums + np.where(right_sums > 0, change[:, :, 1:], 0.0) * right_sums
    total: FloatArray = np.minimum(_nan_to_inf(chords), most * (left_sums + right_sums)).sum(axis=2)
    return _nan_to_inf(total)


def _arbitrary_update(record: TrainingRecord, round_: RoundRecord, attacker: AttackerRecord) -> float:
    """What an attacker adds whose update is not the one it trained (Theorem 10).

    A malicious update: p times its norm, against sending nothing. A dropped one: p S if it was malicious, else 2 p S.
    """
    if dropped(round_, attacker):
        clip = math.inf if round_.update_clip is None else round_.update_clip
        return max(attacker.weight, attacker.potential_weight) * clip * (1 if attacker.update else 2)
    if attacker.update is None or attacker.weight == 0:
        return 0.0
    return abs(attacker.weight) * malicious_norm(record, round_, attacker)


def malicious_norm(record: TrainingRecord, round_: RoundRecord, attacker: AttackerRecord) -> float:
    """Norm of a malicious update as it was aggregated: on record but for the benign counterpart, or at most S."""
    known = None if record.benign else attacker.update_norm
    clip = math.inf if round_.update_clip is None else round_.update_clip
    return clip if known is None else known


def largest_spectral_norms(rounding: Rounding, rounds: Sequence[RoundRecord]) -> FloatArray:
    """Bound on ||W~||_2 in each round, (T, 1): on record is the root of an eigenvalue of W W^T, a product that was
    rounded, too."""
    record, whole = rounding.local.record, _start_norms(rounding, rounds)
    known = [math.inf if r.start_spectral_norm is None else r.start_spectral_norm for r in rounds]
    product = float(gamma(max(record.num_features, record.num_classes) + 2))
    found = np.hypot(np.array(known)[:, None] * (1 + SPECTRAL_ERROR), math.sqrt(product) * whole)
    return np.minimum(found * (1 + float(gamma(4))), whole)


def _start_norms(rounding: Rounding, rounds: Sequence[RoundRecord]) -> FloatArray:
    """Bound on ||z_t||, (T, 1)."""
    return computed_norm(np.array([r.start_norm for r in rounds]), rounding.norm_error)[:, None]


def _kinds(local: LocalTraining, rounds: Sequence[RoundRecord], attackers: Sequence[Attackers]) -> Iterator[_Kind]:
    """Those who train on poison and send what they trained."""
    alike = _alike(local, rounds, sorted({a.client for members in attackers for a in members}))
    groups: dict[tuple[float, ...], tuple[AttackerRecord, FloatArray]] = {}
    for row, (round_, members) in enumerate(zip(rounds, attackers, strict=True)):
        for a in members:
            if a.weight * a.scale == 0 or a.update is not None or not any(a.poison_ratios) or dropped(round_, a):
                continue
            key = (alike[a.client], abs(a.scale), a.label_flip, *a.poison_ratios)
            if key not in groups:
                groups[key] = a, np.zeros(len(rounds))
            groups[key][1][row] += abs(a.weight)
    return (_Kind(a.client, abs(a.scale), a.poison_ratios, a.label_flip, w) for a, w in groups.values())


def _alike(local: LocalTraining, rounds: Sequence[RoundRecord], clients: list[int]) -> dict[int, int]:
    """Clients of the same rates, batches and Lipschitz constants in all rounds get the same number."""
    caps = np.array([r.learning_rate_cap for r in rounds])[:, None]
    rates = np.minimum(np.array(local.record.learning_rates)[clients], caps)
    columns = np.concatenate([local.batch_sizes[None, clients], rates, local.step_lipschitz(rates, clients)])
    numbers: dict[bytes, int] = {}
    return {i: numbers.setdefault(column.tobytes(), len(numbers)) for i, column in zip(clients, columns.T, strict=True)}


def _nan_to_inf(values: FloatArray) -> FloatArray:
    """NaN as infinity, the safe side: only 0 times infinity can have made it here."""
    return np.where(np.isnan(values), np.inf, values)
