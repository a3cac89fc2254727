"""What a training run leaves behind: the model, the record and the history."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl.attack.plan import Attacker, Plan
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.evaluation import MEASURES
from crfl.models.base import Model
from crfl.record import AttackerRecord, DroppedRecord, RoundRecord, TrainingRecord, poison_ratios
from crfl.server import REASONS

if TYPE_CHECKING:
    from pandas import DataFrame

NORMS = ("start_norm", "start_spectral_norm", "pre_clip_norm", "distance")
"""Norms measured in every round; the distance is that to the first run of a stack."""
FACTS = ("weight", "dropped", "update_norm")
"""What is known of every client after a round: its aggregation weight, the code of the reason why it was dropped (0: it
was not), and, of attackers, the norm of the update as it was aggregated."""

Columns = dict[str, npt.NDArray[Any]]
"""By name, a number a round (T,)."""


@dataclass(frozen=True)
class TrainingRun:
    """A trained global model and how it came about."""

    experiment: Experiment
    model: Model
    params: Tensor
    """(P,) float32: the final model, clipped, without noise."""
    record: TrainingRecord
    columns: Columns
    """The columns of the history."""
    checkpoints: dict[int, Tensor] = field(default_factory=dict)
    """The clipped model (P,) after each round asked for: the final model of a run of so many rounds."""

    @cached_property
    def history(self) -> DataFrame:
        """A row a round: loss, accuracy and attack success of the clipped model on the test set, and the norms."""
        from pandas import DataFrame  # here, because it is slow to import and large: training does without

        return DataFrame(self.columns)

    @property
    def attack_success(self) -> DataFrame:
        """The history from the first attack on; all of it if nobody attacked."""
        first = min((r.round for r in self.record.attack_rounds), default=0)
        return self.history[self.history["round"] >= first]


def columns(exp: Experiment, measures: Tensor, with_distance: bool = False) -> Columns:
    """The history's columns of a run from its `measures` (T, 7): NORMS, then MEASURES, round by round."""
    measured = dict(zip((*NORMS, *MEASURES), measures.numpy().T, strict=True))
    rounds = range(1, len(measures) + 1)
    found = {"round": np.array(rounds)} | {name: measured[name] for name in (*MEASURES, *NORMS[:3])}
    found["clip_norm"] = np.array([exp.server.clip.norm(t) for t in rounds])
    found["noise_std"] = np.array([_noise_std(exp, t) for t in rounds])
    return found | ({"distance": measured["distance"]} if with_distance else {})


def record(
    exp: Experiment,
    data: FederatedData,
    model: Model,
    benign: bool,
    plan: Plan,
    measures: Tensor,
    facts: Tensor,
) -> TrainingRecord:
    """The record of a run from its settings, its `measures` (T, 7) and the FACTS of its clients, (T, 3, N)."""
    rounds = tuple(
        RoundRecord(
            round=t,
            start_norm=float(row[0]),
            start_spectral_norm=None if row[1].isnan() else float(row[1]),
            pre_clip_norm=float(row[2]),
            clip_norm=exp.server.clip.norm(t),
            noise_std=_noise_std(exp, t),
            weights=tuple(known[0].tolist()),
            update_clip=exp.server.update_clip if isinstance(exp.server.update_clip, float) else None,
            attackers=tuple(_attacker(exp, data, a, known[:, a.client].tolist()) for a in plan.attackers(t)),
            dropped=tuple(DroppedRecord(i, REASONS[int(known[1, i])]) for i in known[1].nonzero().flatten().tolist()),
        )
        for t, (row, known) in enumerate(zip(measures, facts, strict=True), start=1)
    )
    return TrainingRecord(
        model=model.name,
        num_features=data.num_features,
        num_classes=data.num_classes,
        aggregation=exp.server.aggregation,
        data_independent_weights=exp.server.aggregation in ("mean", "weighted_mean"),
        bias=exp.model.bias,
        optimizer="sgd",
        precision="float32",
        learning_rates=exp.local.learning_rates(len(data.shards)),
        weight_decay=exp.local.weight_decay,
        batch_size=exp.local.batch_size,
        epochs=exp.local.epochs,
        keep_last_batch=exp.local.keep_last_batch,
        client_names=data.client_names,
        client_sizes=data.sizes,
        max_feature_norm=data.max_feature_norm,
        domain=data.domain,
        norm_bound=None,
        feature_map=None,
        lipschitz=1.0,
        public_samples=0,
        attackers=tuple(a.client for a in plan.crew),
        benign=benign,
        seed=exp.seed,
        rounds=rounds,
    )


def _noise_std(exp: Experiment, round_: int) -> float:
    """sigma_t: the last round only clips."""
    return exp.server.noise if round_ < exp.server.rounds else 0.0


def _attacker(exp: Experiment, data: FederatedData, attacker: Attacker, known: list[float]) -> AttackerRecord:
    local, size = exp.local, data.sizes[attacker.client]
    weight, dropped, update_norm = known
    return AttackerRecord(
        client=attacker.client,
        weight=weight,
        potential_weight=weight,
        scale=attacker.scale,
        learning_rate=local.learning_rates(len(data.shards))[attacker.client],
        poison_ratios=poison_ratios(
            size, attacker.poisoned_per_batch, local.batch_size, local.epochs, local.keep_last_batch
        ),
        magnitude=attacker.magnitude,
        label_flip=attacker.label_flip,
        update=attacker.update,
        update_norm=None if dropped else update_norm,
    )
