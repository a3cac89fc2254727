"""Clients that send anything: how many of their updates, or of them, change nothing (Theorems 10, 17 and 26)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.coupling.arithmetic import gamma
from crfl.certification.coupling.attackers import dropped
from crfl.certification.coupling.clipping import clip_factor
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.recursion import Stage, make_stages, rounded
from crfl.certification.coupling.rounding import Rounding, computed_norm
from crfl.certification.coupling.rounds import Rounds, blocks
from crfl.errors import CertificateError
from crfl.record import RoundRecord, TrainingRecord

BLOCK = 64
"""Counts whose cost is computed at a time."""
PARTS = 8
"""Into which the range of a count is cut: a few more counts at a time cost less than another pass over all rounds."""
MAX_CLIENT_ROUNDS = 4096
"""Client-rounds are counted up to this number: beyond it the count is a lower bound."""


@dataclass(frozen=True)
class _Round:
    """A round in which some clients may send anything."""

    stage: Stage
    weights: FloatArray
    """(N,): the weight of each client's update."""
    update: float
    """2 S, or S against sending nothing: what an arbitrary update adds for a weight of 1."""
    lost: float
    """Largest 1 - c: the contraction that is lost with an honest client, for a weight of 1 and a distance of 1."""

    def cost(self, distance: FloatArray) -> FloatArray:
        """What an arbitrary update adds for a weight of 1 at distances D (K,)."""
        return self.update + self.lost * distance


def most_client_rounds(
    rounding: Rounding,
    record: TrainingRecord,
    budget: FloatArray,
    before_clip: bool,
    silent: bool,
    limit: int = MAX_CLIENT_ROUNDS,
) -> IntArray:
    """Largest number k of client-rounds with Delta_T(k) below each budget (m,); at most `limit` (Theorem 10).

    Round by round the k largest effects so far are kept, each multiplied by what the later rounds multiply: exact where
    no clip bites, an upper bound where one does (Lemma 16).
    """
    rounds = _rounds(rounding, record, silent)
    total = sum(int(np.count_nonzero(r.weights)) for r in rounds)

    def costs(counts: IntArray) -> FloatArray:
        return _client_rounds_distance(rounding, rounds, counts, before_clip)

    return _largest(costs, budget, min(total, limit))


@dataclass(frozen=True)
class ClientScenario:
    """Delta before the last clipping, if m clients send anything in every round, whichever they are (Theorem 17).

    Against any other behaviour of the same clients, among them all whose updates were dropped. Call `check_clients`
    first.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 2, "server.update_clip": 4.0, "attack.round": None})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> scenario = ClientScenario(run.record)
        >>> scenario.cost(0) < 1e-6 < scenario.cost(1) < scenario.cost(2)
        True
    """

    record: TrainingRecord

    def cost(self, clients: int) -> float:
        """Delta_T for m malicious clients."""
        return float(self._distance(np.array([clients]))[0])

    def max_clients(self, budget: FloatArray) -> IntArray:
        """Largest m with Delta_T(m) below each budget (m,), strictly; 0 where there is none."""
        return _largest(self._distance, budget, len(self.record.client_sizes))

    @cached_property
    def _rounding(self) -> Rounding:
        return Rounding(LocalTraining(self.record))

    @cached_property
    def _all_rounds(self) -> list[_Round]:
        return _rounds(self._rounding, self.record, silent=False)

    @cached_property
    def _kinds(self) -> tuple[IntArray, IntArray]:
        """Clients with the same weights in all rounds are one kind: the first client of each kind, and its size."""
        weights = np.stack([r.weights for r in self._all_rounds])
        _, first, counts = np.unique(weights, axis=1, return_index=True, return_counts=True)
        return first, counts

    def _distance(self, counts: IntArray) -> FloatArray:
        rounding, (first, multiplicity) = self._rounding, self._kinds
        effects = np.zeros((len(counts), len(first)))  # what a client of each kind has added so far
        drift = distance = np.zeros(len(counts))
        for now in self._all_rounds:
            factor, constant = now.stage.expansion.split(distance)
            effects = factor[:, None] * effects + now.cost(distance)[:, None] * now.weights[first]
            drift = factor * drift + constant + rounded(rounding, now.stage, distance)
            before = (_largest_sum(effects, multiplicity, counts) + drift) * rounding.evaluation
            factor, distance, added = _clip(rounding, now.stage, before)
            effects, drift = effects * factor[:, None], drift * factor + added
        return before


def _client_rounds_distance(
    rounding: Rounding, rounds: list[_Round], counts: IntArray, before_clip: bool
) -> FloatArray:
    """Delta_T for so many client-rounds (K,), wherever they are."""
    width = int(counts.max(initial=0))
    mask = np.arange(width) < counts[:, None]
    losses = np.zeros((len(counts), width))  # the largest effects so far, negated: the worst come first
    evaluation = rounding.evaluation * (1 + gamma(2 * width + 8))
    drift = distance = before = np.zeros(len(counts))
    for now in rounds:
        factor, constant = now.stage.expansion.split(distance)
        new = now.cost(distance)[:, None] * np.sort(-now.weights)[:width]
        losses = np.concatenate([factor[:, None] * losses, new], axis=1)
        losses.sort(axis=1, kind="stable")  # two sorted runs are merged
        losses = losses[:, :width] * mask
        drift = factor * drift + constant + rounded(rounding, now.stage, distance)
        before = (drift - losses.sum(axis=1)) * evaluation
        factor, distance, added = _clip(rounding, now.stage, before)
        losses, drift = losses * factor[:, None], drift * factor + added
    return before if before_clip else distance


def _clip(rounding: Rounding, stage: Stage, before: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What clipping multiplies at most, the distance at the start of the next round, and the rounding in between."""
    round_ = stage.round
    smallest = round_.pre_clip_norm / computed_norm(1.0, rounding.norm_error)
    factor = clip_factor(before, smallest, round_.clip_norm) * rounding.evaluation
    added = rounding.clip(before, round_.pre_clip_norm, round_.clip_norm)
    if stage.following is not None:
        added = added + rounding.noise(factor * before + added, round_, stage.following)
    return factor, factor * before + added, added


def _rounds(rounding: Rounding, record: TrainingRecord, silent: bool) -> list[_Round]:
    rounds, attackers = record.rounds, [r.attackers for r in record.rounds]
    if any(r.update_clip is None for r in rounds):
        raise CertificateError(
            "max_malicious: the server did not clip updates, so one of them can do anything; set server.update_clip"
        )
    stages = make_stages(rounding, rounds, attackers, attackers)
    summed = 1 + rounding.aggregation(len(record.client_sizes))
    found = []
    for rows in blocks(len(rounds), len(record.client_sizes)):
        some = Rounds(rounding, rounds[rows])
        clips = (some.update_clips[:, 0] * (1 + rounding.projection) * summed).tolist()
        lost = np.maximum(1 - some.contraction, 0.0).max(axis=1, initial=0.0).tolist()
        for stage, clip, share in zip(stages[rows], clips, lost, strict=True):
            found.append(_Round(stage, _weights(stage.round), clip if silent else 2 * clip, share))
    return found


def _weights(round_: RoundRecord) -> FloatArray:
    """The weight of every client's update (N,); of those who were dropped, the one they would have had."""
    weights = np.array(round_.weights, dtype=np.float64)
    for d in round_.dropped:
        weights[d.client] = max(weights[d.client], d.weight)
    for a in round_.attackers:
        if dropped(round_, a):
            weights[a.client] = max(weights[a.client], a.potential_weight)
    return weights


def _largest_sum(effects: FloatArray, multiplicity: IntArray, counts: IntArray) -> FloatArray:
    """Sum of the `counts` (K,) largest effects, if those of each column of (K, G) exist `multiplicity` (G,) times."""
    order = np.argsort(-effects, axis=1)
    available = multiplicity[order]
    taken = np.clip(counts[:, None] - (np.cumsum(available, axis=1) - available), 0, available)
    total: FloatArray = (np.take_along_axis(effects, order, axis=1) * taken).sum(axis=1)
    return total


def _largest(costs: Callable[[IntArray], FloatArray], budget: FloatArray, limit: int) -> IntArray:
    """The largest count from 0 to `limit` whose rising cost lies below each budget (m,), strictly; 0 if none does.

    For all budgets at once: the range in which each count lies is cut into PARTS, again and again.
    """
    low, high = np.zeros(len(budget), dtype=np.int64), np.full(len(budget), limit + 1)
    counts = np.arange(1, min(BLOCK, limit) + 1)
    while len(counts):
        found = [costs(counts[start : start + BLOCK]) for start in range(0, len(counts), BLOCK)]
        below = np.searchsorted(np.maximum.accumulate(np.concatenate(found)), budget, side="left")
        low = np.maximum(low, np.append(0, counts)[below])
        high = np.minimum(high, np.append(counts, limit + 1)[below])
        least, most, part = low[:, None], high[:, None], np.arange(1, PARTS)
        between = least + (most - least) * part // PARTS
        between = np.where(most > limit, np.minimum(least * 2 ** np.minimum(part, 3), limit), between)  # no range yet
        counts = np.unique(between[(between > least) & (between < most)])
    return low
