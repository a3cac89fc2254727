"""What a training run leaves behind: the model, the record and the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl.aggregation import Rule
from crfl.aggregator import ClientStats, potential_weights
from crfl.attack.plan import Attacker
from crfl.config import Experiment
from crfl.errors import DataError
from crfl.models import Model
from crfl.record import AttackerRecord, DroppedRecord, RoundRecord, TrainingRecord, poison_ratios
from crfl.state import TrainingState
from crfl.wording import amount

if TYPE_CHECKING:
    from pandas import DataFrame

    from crfl.data.federated import Split
    from crfl.run_batch import RunBatch

Columns = Mapping[str, npt.NDArray[Any]]
"""By name, a number a round (T,)."""

NORMS = ("start_norm", "start_spectral_norm", "pre_clip_norm")
"""Columns of the history that are norms of the global model."""
BLOCK = 4096
"""Samples that are predicted at a time."""


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A trained global model and how it came about."""

    experiment: Experiment
    model: Model
    params: Tensor
    """(P,): the final model, clipped, without noise."""
    record: TrainingRecord
    columns: Columns
    """The columns of the history."""
    checkpoints: Mapping[int, Tensor] = field(default_factory=dict)
    """The clipped model (P,) after each round asked for: the final model of a run of so many rounds."""

    @cached_property
    def history(self) -> DataFrame:
        """A row a round: what the clipped model does on the test set, and the norms.

        top_prediction_share is the share of the most frequent prediction, majority_accuracy the accuracy of always
        predicting the most frequent class.
        """
        from pandas import DataFrame  # here, because it is slow to import and large: training does without

        return DataFrame(self.columns)

    @property
    def history_since_attack(self) -> DataFrame:
        """The history from the first attack on; all of it if nobody attacked."""
        first = min((r.round for r in self.record.attack_rounds), default=0)
        return self.history[self.history["round"] >= first]

    def logits(self, x: npt.ArrayLike | Tensor) -> Tensor:
        """Logits (m, C) of features x (m, d), on the CPU."""
        features = torch.as_tensor(x)
        if features.ndim != 2 or features.shape[1] != self.model.num_features:
            raise DataError(f"x: got shape {tuple(features.shape)}, expected (m, {self.model.num_features})")
        params = self.params.cpu()
        return torch.cat([self.model.logits(params, block.to(params)) for block in features.cpu().split(BLOCK)])

    def predict(self, x: npt.ArrayLike | Tensor) -> npt.NDArray[np.int64]:
        """The class of each sample, as the final model without noise sees it.

        Args:
            x: features (m, d).

        Returns:
            Classes (m,).

        Raises:
            DataError: if x has another shape.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> data = crfl.load_data(exp)
            >>> crfl.train(exp, data).predict(data.test.x[:4]).shape
            (4,)
        """
        return self.logits(x).argmax(dim=1).numpy()

    def score(self, split: Split) -> float:
        """Accuracy on labelled samples.

        Args:
            split: features and labels, such as `data.test`.

        Returns:
            The share of samples whose predicted class is their label.

        Raises:
            DataError: the features have another shape than the model's.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> data = crfl.load_data(exp)
            >>> run = crfl.train(exp, data)
            >>> bool(run.score(data.test) == run.history["accuracy"].iloc[-1])
            True
        """
        return float(np.mean(self.predict(split.x) == split.y.cpu().numpy()))

    def to_module(self) -> nn.Module:
        """The trained model as a torch module.

        Returns:
            A torch.nn.Linear for softmax regression; else a copy of the user's module, in eval mode.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> crfl.train(exp, crfl.load_data(exp)).to_module()
            Linear(in_features=64, out_features=10, bias=True)
        """
        return self.model.to_module(self.params)

    def __repr__(self) -> str:
        exp, record = self.experiment, self.record
        accuracy, majority, top = (
            self.columns[name][-1] for name in ("accuracy", "majority_accuracy", "top_prediction_share")
        )
        attack = amount(exp.attack.count, "attacker") if record.attackers else "no attack"
        benign = ", benign counterpart" if record.benign else ""
        measured = (
            f"; accuracy {accuracy:.4f}, always the most frequent class {majority:.4f}, share of the most frequent "
            f"prediction {top:.4f}"
        )
        return (
            f"TrainingRun({exp.data.name}: {amount(len(record.client_sizes), 'client')}, "
            f"{amount(len(record.rounds), 'round')}, {attack}{benign}{'' if np.isnan(accuracy) else measured})"
        )


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
    exp, data, schedule, rule = batch.experiments[i], batch.data, batch.schedules[i], batch.rules[i]
    members, sizes = batch.plans[i].clients, batch.sizes[batch.plans[i].clients]  # a group knows only its own clients
    attackers = np.searchsorted(members, [a.client for a in batch.plans[i].all_attackers])
    start, spectral, pre_clip = (_measured(state, name, i).tolist() for name in NORMS)
    weights = _Shared()
    rounds = []
    for t in range(1, state.round + 1):
        stats = state.clients[t - 1][i]
        potential = potential_weights(rule, exp.server, stats.weights, sizes, attackers)
        rounds.append(
            RoundRecord(
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
        )
    return TrainingRecord(
        model=batch.model.name,
        num_features=data.num_features,
        num_classes=data.num_classes,
        aggregation=exp.server.aggregation,
        data_independent_weights=rule.data_independent,
        bias=batch.model.bias,
        optimizer="sgd",
        precision=exp.local.precision,
        learning_rates=tuple(exp.local.learning_rates(len(data.shards))[c] for c in members),
        weight_decay=exp.local.weight_decay,
        batch_size=exp.local.batch_size,
        epochs=exp.local.epochs,
        keep_last_batch=exp.local.keep_last_batch,
        client_names=tuple(data.client_names[c] for c in members),
        client_sizes=tuple(sizes.tolist()),
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
        rounds=tuple(rounds),
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
