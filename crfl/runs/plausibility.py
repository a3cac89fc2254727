"""What a record cannot say: what contradicts itself, the settings or the model. An empty list is no proof of truth.

Norms are compared within 1e-5, which leaves room for float32; what was copied from the settings within 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from crfl.config import Experiment
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord
from crfl.schedule import Schedule

NORM_SLACK = 1e-5
COPY_SLACK = 1e-9


def problems(record: TrainingRecord) -> list[str]:
    """What the record says against itself, a sentence each."""
    return [*_constants(record), *(text for i in range(len(record.rounds)) for text in _round(record, i))]


def contradictions(record: TrainingRecord, exp: Experiment, group_rates: tuple[float, ...] | None = None) -> list[str]:
    """What the record says against the settings of its run, a sentence each.

    `group_rates`: of a group of an ensemble, whose attackers the settings do not count, its clients' learning rates.
    """
    local, server = exp.local, exp.server
    rates = local.learning_rates(len(record.client_sizes)) if group_rates is None else group_rates
    attackers = exp.attack.count if exp.attack.rounds(server.rounds) else 0
    pairs: dict[str, tuple[object, object]] = {
        "seed": (record.seed, exp.seed),
        "server.rounds": (len(record.rounds), server.rounds),
        "server.aggregation": (record.aggregation, server.aggregation),
        "local.batch_size": (record.batch_size, local.batch_size),
        "local.epochs": (record.epochs, local.epochs),
        "local.keep_last_batch": (record.keep_last_batch, local.keep_last_batch),
        "local.precision": (record.precision, local.precision),
        "local.weight_decay": (record.weight_decay, local.weight_decay),
        "local.learning_rate": (record.learning_rates, rates),
        "attackers": (len(record.attackers), attackers if group_rates is None else len(record.attackers)),
    }
    found = [f"{name}: got {_cut(a)}, expected {_cut(b)}" for name, (a, b) in pairs.items() if a != b]
    if found:
        return found
    steps = [local_steps(n, local.batch_size, local.epochs, local.keep_last_batch) for n in record.client_sizes]
    plan, attacked = Schedule(exp, max(steps)), set(exp.attack.rounds(server.rounds))
    for r in record.rounds:
        for name, got, expected in (
            ("clip norm", r.clip_norm, plan.clip_norm(r.round)),
            ("noise", r.noise_std, plan.noise_std(r.round)),
            ("learning rate cap", r.learning_rate_cap, plan.learning_rate_cap(r.round)),
            ("decay", r.decay, plan.decay(r.round)),
            ("update clip", r.update_clip, plan.update_clip(r.round)),
        ):
            if got != expected and (got is None or expected is None or not _close(got, expected, COPY_SLACK)):
                found.append(f"round {r.round}: got {name} {got}, expected {expected}")
        if r.attackers and r.round not in attacked:
            found.append(f"round {r.round}: got attackers, expected none: it is no attack round")
        here = {a.client for a in r.attackers}
        if r.round in attacked and here != set(record.attackers):
            found.append(f"round {r.round}: got the attackers {_cut(here)}, expected {_cut(set(record.attackers))}")
    return found


def norm_problems(norm: float, round_: RoundRecord) -> list[str]:
    """What is wrong if the model after a round has this l2 norm: it is min(||v_t||, rho_t)."""
    expected = min(round_.pre_clip_norm, round_.clip_norm)
    if _close(norm, expected, NORM_SLACK):
        return []
    return [f"got parameters of norm {norm:.9g}, expected {expected:.9g}, that after round {round_.round} on record"]


def local_steps(size: int, batch_size: int, epochs: int, keep_last_batch: bool) -> int:
    """tau of a client with so many samples."""
    return epochs * (-(-size // batch_size) if keep_last_batch else size // batch_size)


def _constants(record: TrainingRecord) -> Iterator[str]:
    n = len(record.client_sizes)
    for name in ("client_names", "learning_rates", "smoothness"):
        if len(getattr(record, name)) != n:
            yield f"{name}: got {len(getattr(record, name))}, expected one for each of {n} clients"
    if not record.rounds:
        yield "rounds: got none, expected one or more"
    if len(set(record.attackers)) < len(record.attackers) or not all(0 <= a < n for a in record.attackers):
        yield f"attackers: got {_cut(record.attackers)}, expected different clients from 0 to {n - 1}"
    if not (math.isfinite(record.max_feature_norm) and record.max_feature_norm >= 0):
        yield f"max_feature_norm: got {record.max_feature_norm}, expected a norm"
    largest = record.norm_bound if record.norm_bound is not None else math.inf
    if record.domain is not None:
        low, high = record.domain
        if not low < high:
            yield f"domain: got {low} to {high}, expected a lower and an upper end"
        largest = min(largest, math.sqrt(record.num_features) * max(abs(low), abs(high)))
    if record.max_feature_norm > largest * (1 + NORM_SLACK):
        yield f"max_feature_norm: got {record.max_feature_norm:g}, expected at most {largest:g}, by domain and norm_bound"


def _round(record: TrainingRecord, index: int) -> Iterator[str]:
    """What is wrong with the round at a place of the record."""
    r, n = record.rounds[index], len(record.client_sizes)
    where = f"round {index + 1}"
    if r.round != index + 1:
        yield f"{where}: got number {r.round}"
    norms = (r.start_norm, r.pre_clip_norm, r.noise_std, r.clip_norm, r.learning_rate_cap)
    if any(math.isnan(v) or v < 0 for v in norms) or math.isinf(max(norms[:3])):
        yield f"{where}: got {norms}, expected norms"
    if r.start_spectral_norm is not None and not 0 <= r.start_spectral_norm <= r.start_norm * (1 + NORM_SLACK):
        yield f"{where}: got spectral norm {r.start_spectral_norm:g}, expected at most the norm, {r.start_norm:g}"
    if index + 1 == len(record.rounds) and r.noise_std:
        yield f"{where}: got noise {r.noise_std:g}, expected none after the last round"
    if index and record.rounds[index - 1].noise_std == 0:
        yield from (f"{where}: {text}" for text in norm_problems(r.start_norm, record.rounds[index - 1]))
    for name, numbers, length in (
        ("weights", r.weights, n),
        ("update_norms", r.update_norms, n),
        ("potential_weights", r.potential_weights or None, len(record.attackers)),
    ):
        if numbers is not None and len(numbers) != length:
            yield f"{where}: got {len(numbers)} {name}, expected {length}"
            return
    total = math.fsum(r.weights)
    if not math.isfinite(total):
        yield f"{where}: weights: got an infinite one, or NaN"
    unheard = not any(r.weights) and r.dropped  # a group that kept its model
    if record.data_independent_weights and not unheard and (min(r.weights) < 0 or not _close(total, 1.0, COPY_SLACK)):
        yield f"{where}: weights: got a least of {min(r.weights):.9g} and a sum of {total:.9g}, expected 0 and more, and 1"
    clients = [d.client for d in r.dropped]
    if len(set(clients)) < len(clients) or not all(0 <= c < n and r.weights[c] == 0 for c in clients):
        yield f"{where}: dropped: got {_cut(clients)}, expected different clients with weight 0"
    if any(not 0 <= d.weight <= 1 for d in r.dropped):
        yield f"{where}: dropped: got weights {_cut([d.weight for d in r.dropped])}, expected 0 to 1"
    if len({a.client for a in r.attackers}) < len(r.attackers):
        yield f"{where}: attackers: got a client twice"
    for a in r.attackers:
        yield from (f"{where}, attacker {a.client}: {text}" for text in _attacker(record, r, a))


def _attacker(record: TrainingRecord, r: RoundRecord, a: AttackerRecord) -> Iterator[str]:
    if a.client not in record.attackers:
        yield "is none of the record's attackers"
        return
    if not _close(a.weight, r.weights[a.client], COPY_SLACK):
        yield f"weight: got {a.weight:g}, expected that of the client, {r.weights[a.client]:g}"
    if record.data_independent_weights and not a.potential_weight >= a.weight * (1 - COPY_SLACK):
        yield f"potential_weight: got {a.potential_weight:g}, expected at least its weight, {a.weight:g}"
    rate = min(record.learning_rates[a.client], r.learning_rate_cap)
    if not _close(a.learning_rate, rate, COPY_SLACK):
        yield f"learning_rate: got {a.learning_rate:g}, expected {rate:g}"
    steps = local_steps(record.client_sizes[a.client], record.batch_size, record.epochs, record.keep_last_batch)
    if len(a.poison_ratios) != steps or not all(0 <= q <= 1 for q in a.poison_ratios):
        yield f"poison_ratios: got {_cut(a.poison_ratios)}, expected {steps} numbers from 0 to 1"
    if r.update_clip is not None and a.update_norm is not None:
        most = r.update_clip * max(1.0, a.scale)
        if a.update_norm > most * (1 + NORM_SLACK):
            yield f"update_norm: got {a.update_norm:g}, expected at most {most:g}"


def _close(a: float, b: float, slack: float) -> bool:
    return a == b or math.isclose(a, b, rel_tol=slack, abs_tol=1e-12)


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
