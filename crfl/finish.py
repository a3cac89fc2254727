"""From the state in which training ends to the run: its record and the columns of its history."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from crfl.aggregation import Rule
from crfl.aggregator import ClientStats, potential_weights
from crfl.attack.plan import Attacker
from crfl.config import Experiment
from crfl.record import AttackerRecord, DroppedRecord, RoundRecord, TrainingRecord, poison_ratios
from crfl.run import Columns, TrainingRun
from crfl.state import TrainingState

if TYPE_CHECKING:
    from crfl.run_batch import RunBatch

NORMS = ("start_norm", "start_spectral_norm", "pre_clip_norm")
"""Columns of the history that are norms of the global model."""


def finished_run(batch: RunBatch, i: int, state: TrainingState) -> TrainingRun:
    """Run i of a batch that ends in `state`, on the CPU."""
    record = _record(batch, i, state)
    return TrainingRun(
        experiment=batch.experiments[i],
        model=batch.model,
        params=state.params[i].cpu(),
        record=record,
        columns=_columns(batch, i, state) if batch.groups is None else group_columns(record),
        checkpoints={t: params[i].cpu().clone() for t, params in state.checkpoints.items()},
    )


def group_columns(record: TrainingRecord) -> Columns:
    """The history's columns of a group of an ensemble, which is not measured on the test set: norms alone, else NaN."""
    unknown = np.full(len(record.rounds), np.nan)
    spectral = [np.nan if r.start_spectral_norm is None else r.start_spectral_norm for r in record.rounds]
    return {
        "round": np.array([r.round for r in record.rounds]),
        **dict.fromkeys(("accuracy", "top_prediction_share", "majority_accuracy"), unknown),
        "start_norm": np.array([r.start_norm for r in record.rounds]),
        "start_spectral_norm": np.array(spectral),
        "pre_clip_norm": np.array([r.pre_clip_norm for r in record.rounds]),
        "clip_norm": np.array([r.clip_norm for r in record.rounds]),
        "noise_std": np.array([r.noise_std for r in record.rounds]),
        **dict.fromkeys(("loss", "attack_success_rate"), unknown),
    }


def _columns(batch: RunBatch, i: int, state: TrainingState) -> Columns:
    """The history's columns; with a distance to the first run if there are several."""
    rounds, schedule = range(1, state.round + 1), batch.schedules[i]
    # What matters most stands at both ends, because pandas leaves out what is in the middle.
    columns = {"round": np.array(rounds)} | {n: _measured(state, n, i) for n in ("accuracy", "top_prediction_share")}
    columns["majority_accuracy"] = np.full(state.round, batch.data.test.majority_accuracy)
    columns |= {name: _measured(state, name, i) for name in NORMS}
    columns["clip_norm"] = np.array([schedule.clip_norm(t) for t in rounds])
    columns["noise_std"] = np.array([schedule.noise_std(t) for t in rounds])
    if len(batch.experiments) > 1:
        columns["distance"] = _measured(state, "distance", i)
    return columns | {name: _measured(state, name, i) for name in ("loss", "attack_success_rate")}


def _measured(state: TrainingState, name: str, i: int) -> npt.NDArray[np.float64]:
    """A metric of run i, round by round."""
    return torch.stack([getattr(metrics, name)[i] for metrics in state.metrics]).cpu().numpy()


def _record(batch: RunBatch, i: int, state: TrainingState) -> TrainingRecord:
    """The record of run i."""
    exp, data = batch.experiments[i], batch.data
    members = batch.plans[i].clients  # a group knows only its own clients
    attackers = np.searchsorted(members, [a.client for a in batch.plans[i].all_attackers])
    return TrainingRecord(
        model=batch.model.name,
        num_features=data.num_features,
        num_classes=data.num_classes,
        aggregation=exp.server.aggregation,
        data_independent_weights=batch.rules[i].data_independent,
        bias=batch.model.bias,
        optimizer="sgd",
        precision=exp.local.precision,
        learning_rates=tuple(exp.local.learning_rates(len(data.shards))[c] for c in members),
        weight_decay=exp.local.weight_decay,
        batch_size=exp.local.batch_size,
        epochs=exp.local.epochs,
        keep_last_batch=exp.local.keep_last_batch,
        client_names=tuple(data.client_names[c] for c in members),
        client_sizes=tuple(batch.sizes[members].tolist()),
        smoothness=tuple(batch.smoothness[members].tolist()),
        max_feature_norm=data.max_feature_norm,
        domain=None if data.feature_map is not None else data.domain,
        norm_bound=data.norm_bound,
        feature_map=None if data.feature_map is None else data.feature_map.name,
        lipschitz=1.0 if data.feature_map is None else data.feature_map.lipschitz,
        public_samples=data.public_samples,
        attackers=tuple(attackers.tolist()),
        benign=batch.benign[i],
        seed=exp.seed,
        rounds=tuple(_rounds(batch, i, state, attackers)),
    )


def _rounds(batch: RunBatch, i: int, state: TrainingState, attackers: npt.NDArray[np.int64]) -> Iterator[RoundRecord]:
    """What happened to run i, round by round. `attackers`: numbers of the attackers among the run's clients."""
    exp, schedule, rule = batch.experiments[i], batch.schedules[i], batch.rules[i]
    members, sizes = batch.plans[i].clients, batch.sizes[batch.plans[i].clients]
    start, spectral, pre_clip = (_measured(state, name, i).tolist() for name in NORMS)
    weights = _Shared()
    for t in range(1, state.round + 1):
        stats = state.clients[t - 1][i]
        potential = potential_weights(rule, exp.server, stats.weights, sizes, attackers)
        yield RoundRecord(
            round=t,
            start_norm=start[t - 1],
            start_spectral_norm=spectral[t - 1] if batch.model.linear else None,
            pre_clip_norm=pre_clip[t - 1],
            clip_norm=schedule.clip_norm(t),
            noise_std=schedule.noise_std(t),
            weights=weights.tuple(stats.weights),
            potential_weights=weights.tuple(potential),
            learning_rate_cap=schedule.learning_rate_cap(t),
            decay=schedule.decay(t),
            update_clip=schedule.update_clip(t),
            update_norms=None if stats.update_norms is None else tuple(stats.update_norms.tolist()),
            attackers=_attackers(batch, i, t, stats, potential),
            dropped=_dropped(rule, exp, stats, sizes, members),
        )


def _dropped(
    rule: Rule, exp: Experiment, stats: ClientStats, sizes: npt.NDArray[np.int64], members: npt.NDArray[np.int64]
) -> tuple[DroppedRecord, ...]:
    """Who was dropped, with the weight that a round without drops would have given."""
    if not stats.dropped:
        return ()
    clients = np.searchsorted(members, sorted(stats.dropped))
    weights = np.ones(len(sizes))
    if rule.data_independent:
        present = np.union1d(np.flatnonzero(stats.weights), clients)
        weights[present] = rule.weights(torch.from_numpy(sizes[present]), exp.server).numpy()
    reasons = [why for _, why in sorted(stats.dropped.items())]
    return tuple(DroppedRecord(int(c), why, float(weights[c])) for c, why in zip(clients, reasons, strict=True))


class _Shared:
    """Equal tuples are made once: a record of many clients and rounds repeats its weights."""

    def __init__(self) -> None:
        self.known: dict[bytes, tuple[float, ...]] = {}

    def tuple(self, values: npt.NDArray[np.float64]) -> tuple[float, ...]:
        """The values as a tuple."""
        return self.known.setdefault(values.tobytes(), tuple(values.tolist()))


def _attackers(
    batch: RunBatch, i: int, t: int, stats: ClientStats, potential: npt.NDArray[np.float64]
) -> tuple[AttackerRecord, ...]:
    """All attackers, in an attack round, whether they took part or not."""
    pairs = zip(batch.plans[i].attackers(t), potential.tolist(), strict=False)  # no attackers outside attack rounds
    return tuple(_attacker(batch, i, t, attacker, stats, weight) for attacker, weight in pairs)


def _attacker(
    batch: RunBatch, i: int, t: int, attacker: Attacker, stats: ClientStats, potential: float
) -> AttackerRecord:
    local, client = batch.local, attacker.client
    number = int(np.searchsorted(batch.plans[i].clients, client))
    rate = local.learning_rates(len(batch.sizes))[client]
    size, poisoned = int(batch.sizes[client]), attacker.poisoned_per_batch
    return AttackerRecord(
        client=number,
        weight=float(stats.weights[number]),
        potential_weight=potential,
        scale=attacker.scale,
        learning_rate=min(rate, batch.schedules[i].learning_rate_cap(t)),
        poison_ratios=poison_ratios(size, poisoned, local.batch_size, local.epochs, local.keep_last_batch),
        magnitude=attacker.magnitude,
        label_flip=attacker.label_flip,
        update=attacker.update,
        update_norm=stats.attacker_norms.get(client),
    )
