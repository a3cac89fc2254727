"""What a round adds: how far poison can drive two runs apart in it (Lemma 5, Theorems 6 and 8)."""

from __future__ import annotations

import math

import numpy as np

from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.coupling.arithmetic import SPECTRAL_ERROR, gamma
from crfl.certification.coupling.attackers import Attackers, dropped, with_trained_updates
from crfl.certification.coupling.rounding import Rounding, computed_norm, update_error
from crfl.certification.lipschitz import sharp_lipschitz
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord


def poison(
    rounding: Rounding,
    round_: RoundRecord,
    attackers: Attackers,
    magnitudes: FloatArray,
    before: FloatArray,
    num_attackers: int | None = None,
) -> FloatArray:
    """What the poison of a round adds to the distance (Lemma 5 and Theorem 8 of docs/theory.md).

    Sum over attackers of p gamma eta sum_s q_s/n_s G(kappa_s) with the gradient bound of one sample,

        G = min(L_x(kappa_s B') ||delta|| + [label flipped] sqrt(2) B, sqrt(2) (B + B')),

    and the rounding of the poisoned steps. If the server clips updates to S, no attacker adds more than 2 p S. One who
    sends a malicious update, against sending nothing, adds p times its norm, which is on record or at most S.

    Args:
        rounding: of the run.
        round_: the round.
        attackers: whose poison counts in it.
        magnitudes: ||delta||, (k,).
        before: by how much the runs may differ at the start of the round, (k,).
        num_attackers: this many attackers instead, each like the one of `attackers` who adds most.

    Returns:
        (k,), rising with both.
    """
    nothing = np.zeros(len(magnitudes))
    if num_attackers is not None:
        each = [poison(rounding, round_, (a,), magnitudes, before) for a in attackers]
        return num_attackers * np.max([nothing, *each], axis=0) if num_attackers else nothing
    clip, heard = (
        _clip_reach(rounding, round_),
        tuple(a for a in with_trained_updates(attackers) if not dropped(round_, a)),
    )
    sent = math.fsum(_arbitrary_update(rounding.local.record, round_, a) for a in attackers)
    more = 1 + rounding.aggregation(len(round_.weights))
    total = nothing + sent * (1 + 2 * rounding.projection) * more
    for (client, scale, ratios, flips), share in _group_alike(rounding, round_, heard).items():
        if share * scale != 0 and any(ratios):
            moved = _poisoned_update(rounding, round_, client, ratios, flips, magnitudes, before)
            total += share * np.minimum(scale * moved, 2 * clip) * more
    return total


def _poisoned_update(
    rounding: Rounding,
    round_: RoundRecord,
    client: int,
    ratios: tuple[float, ...],
    flips: bool,
    magnitudes: FloatArray,
    before: FloatArray,
) -> FloatArray:
    """D_i of Lemma 5, (k,): how far poison moves the update of a client, rounding included."""
    local = rounding.local
    rate, size = local.rates(round_)[client], len(ratios)
    q, clean, poisoned = np.array(ratios), local.clean, local.poisoned(magnitudes)[:, None]
    moved = np.minimum(magnitudes, local.diameter)[:, None]
    poison_so_far, nodes = np.cumsum(q) - q, _nodes(ratios)
    weights = rate * q * float(local.step_lipschitz(local.rates(round_))[client]) ** (size - 1 - np.arange(size))
    start = largest_spectral_norm(rounding, round_)
    with np.errstate(invalid="ignore", over="ignore"):  # infinite magnitudes: 0 times infinity is infinity
        error, step_error = _poisoned_rounding(rounding, round_, client, poisoned, before[:, None], size)
        pace = rate * math.sqrt(2) * (nodes * clean + poison_so_far[nodes] * (poisoned - clean))
        kappa = start + before[:, None] + pace + nodes * step_error
        change = sharp_lipschitz(_nan_to_inf(kappa), poisoned) * moved
        change = _nan_to_inf(np.where(moved == 0, 0.0, change) + flips * math.sqrt(2) * clean)
        any_two = math.sqrt(2) * (clean + poisoned)  # any two gradients differ by no more
        total: FloatArray = _sum_of_steps(change, any_two, weights, nodes) + _nan_to_inf(error[:, 0])
    return total


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
    """Sum over the steps of their weight times min(bound, `most`), given the bound at the nodes (k, nodes), (k,).

    The spectral norm grows evenly from step to step and the bound is convex in it: chords lie above.
    """
    if len(nodes) == len(weights):
        return _nan_to_inf(np.minimum(change, most) @ weights)
    step = np.arange(len(weights))
    part = np.clip(np.searchsorted(nodes, step, side="right") - 1, 0, len(nodes) - 2)
    right = (step - nodes[part]) / (nodes[part + 1] - nodes[part])
    left_sums = np.bincount(part, weights * (1 - right), len(nodes) - 1)
    right_sums = np.bincount(part, weights * right, len(nodes) - 1)
    chords = change[:, :-1] * left_sums + np.where(right_sums > 0, change[:, 1:], 0.0) * right_sums
    total: FloatArray = np.minimum(_nan_to_inf(chords), most * (left_sums + right_sums)).sum(axis=1)
    return _nan_to_inf(total)


def _poisoned_rounding(
    rounding: Rounding, round_: RoundRecord, client: int, poisoned: FloatArray, before: FloatArray, steps: int
) -> tuple[FloatArray, FloatArray]:
    """Error of the poisoned update and that of one of its steps, (k, 1) each, for features of norm B' (k, 1)."""
    local = rounding.local
    rate = np.full_like(poisoned, local.rates(round_)[client])
    batch = np.full_like(poisoned, local.batch_sizes[client])
    step = rounding.step(poisoned, rate, batch, batch)
    tau, unit = np.full_like(poisoned, float(steps)), rounding.arithmetic.unit
    error, largest = update_error(tau, poisoned, rate, local.record.weight_decay, step, unit)
    norm = computed_norm(round_.start_norm, rounding.norm_error) + before
    return _nan_to_inf(error.at(norm)), _nan_to_inf(step.at(_nan_to_inf(largest.at(norm))))


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


def spectral_norm(round_: RoundRecord) -> float:
    """||W~||_2 of the model sent; infinite if it is not on record."""
    norm = round_.start_spectral_norm
    return math.inf if norm is None else norm


def largest_spectral_norm(rounding: Rounding, round_: RoundRecord) -> float:
    """Bound on ||W~||_2: that on record is the root of an eigenvalue of W W^T, a product that was rounded, too."""
    record, whole = rounding.local.record, computed_norm(round_.start_norm, rounding.norm_error)
    product = float(gamma(max(record.num_features, record.num_classes) + 2))
    found = math.hypot(spectral_norm(round_) * (1 + SPECTRAL_ERROR), math.sqrt(product) * whole)
    return min(found * (1 + float(gamma(4))), whole)


def _clip_reach(rounding: Rounding, round_: RoundRecord) -> float:
    """The largest norm of a clipped update, rounding included; infinite if the server does not clip."""
    return math.inf if round_.update_clip is None else round_.update_clip * (1 + rounding.projection)


_Kind = tuple[int, float, tuple[float, ...], bool]


def _group_alike(rounding: Rounding, round_: RoundRecord, attackers: Attackers) -> dict[_Kind, float]:
    """Attackers with the same bound, as one of them with the sum of their weights: each bound is computed once."""
    local = rounding.local
    rates, sizes = local.rates(round_), local.batch_sizes
    lipschitz = local.step_lipschitz(rates)
    groups: dict[tuple[float, ...], tuple[_Kind, float]] = {}
    for a in attackers:
        i, scale = a.client, abs(a.scale)
        key = (scale, rates[i], sizes[i], lipschitz[i], a.label_flip, *a.poison_ratios)
        kind, share = groups.get(key, ((i, scale, a.poison_ratios, a.label_flip), 0.0))
        groups[key] = (kind, share + abs(a.weight))
    return dict(groups.values())


def _nan_to_inf(values: FloatArray) -> FloatArray:
    """NaN as infinity, the safe side: only 0 times infinity can have made it here."""
    return np.where(np.isnan(values), np.inf, values)
