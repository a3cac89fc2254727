"""Runs that share their batches: what stays the same while Algorithm 1 trains them together."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl import rng
from crfl.aggregation import Rule, get_rule
from crfl.aggregator import ClientStats, RoundAggregator
from crfl.algorithm import training_rounds
from crfl.attack.plan import AttackPlan, RoundPlan
from crfl.config import Experiment, Local
from crfl.curvature import batch_smoothness
from crfl.data.federated import FederatedData
from crfl.data.load import check_fits
from crfl.devices import resolve_device
from crfl.engines import EngineName, make_engine
from crfl.engines.base import local_steps
from crfl.ensemble_run import EnsembleRun
from crfl.errors import InvalidUpdateWarning, SettingsError, TrainingError
from crfl.evaluation import Evaluation
from crfl.finish import finished_run
from crfl.models import Model, make_model
from crfl.progress import bar
from crfl.run import TrainingRun
from crfl.schedule import Schedule
from crfl.server import norm
from crfl.state import TrainingState

IntArray = npt.NDArray[np.int64]

SHARED = ("seed", "local", "data", "features", "model", "server.rounds", "server.decay", "server.evaluate_every")
"""Settings that runs of a batch have in common."""


@dataclass(frozen=True)
class RunBatch:
    """S runs that share seed, data, local settings and rounds, and so their batches."""

    experiments: tuple[Experiment, ...]
    benign: tuple[bool, ...]
    """Which of them are benign counterparts."""
    data: FederatedData
    model: Model
    checkpoints: tuple[int, ...] = ()
    """Rounds whose model is kept."""
    groups: tuple[IntArray, ...] | None = None
    """For each run the clients that it is trained on, rising; None: all of them for every run."""

    @classmethod
    def of(
        cls,
        experiments: Sequence[Experiment],
        data: FederatedData,
        benign: Sequence[bool] | None = None,
        model: Model | nn.Module | None = None,
        checkpoints: Sequence[int] = (),
        groups: Sequence[IntArray] | None = None,
    ) -> RunBatch:
        """A batch of validated runs. SettingsError or DataError if settings, data and model do not fit."""
        benign = [False] * len(experiments) if benign is None else benign
        _check_alike(experiments, benign)
        last = experiments[0].server.rounds
        for round_ in checkpoints:
            if not isinstance(round_, (int, np.integer)) or not 1 <= round_ <= last:
                raise SettingsError([f"checkpoints: got {round_!r}, expected rounds 1 to {last}"])
        for exp in dict.fromkeys(experiments):
            check_fits(exp, data)
            if groups is None and exp.ensemble.groups is not None:
                raise SettingsError([f"ensemble.groups: got {exp.ensemble.groups}, expected null, or train_ensemble"])
        trained = make_model(model, data.num_features, data.num_classes, experiments[0].model.bias)
        kept, own = tuple(int(t) for t in checkpoints), None if groups is None else tuple(groups)
        batch = cls(tuple(experiments), tuple(benign), data, trained, kept, own)
        batch.plans  # noqa: B018 raises where the attack does not fit the data
        batch.rules  # noqa: B018
        return batch

    def start(self) -> TrainingState:
        """The state before round 1: every run at the same initial model."""
        params = self.model.initial(rng.stream(self.seed, "initial model")).to(self.local.dtype)
        return TrainingState(params.repeat(len(self.experiments), 1))

    def rounds(
        self,
        state: TrainingState,
        device: str | torch.device = "cpu",
        engine: EngineName = "vectorised",
        progress: bool = False,
    ) -> Iterator[TrainingState]:
        """The states after each round that is still to come."""
        data = self.data.to(resolve_device(device))
        trainer = make_engine(engine, self.model, data, self.local, self.seed)
        evaluation = None if self.groups else Evaluation(self.model, data, self.experiments)
        states = training_rounds(self, state.to(device), trainer, evaluation)
        done, last = state.round, self.num_rounds
        return iter(bar(states, initial=done, total=last, desc="training", unit="round", shown=progress))

    def train(self, device: str | torch.device, engine: EngineName, progress: bool) -> TrainingState:
        """The state after the last round."""
        return deque(self.rounds(self.start(), device, engine, progress), maxlen=1).pop()

    def finish(self, state: TrainingState) -> list[TrainingRun]:
        """The runs that end in `state`, on the CPU."""
        return [finished_run(self, i, state) for i in range(len(self.experiments))]

    def finish_ensemble(self, state: TrainingState) -> EnsembleRun:
        """The groups that end in `state`, on the CPU."""
        assert self.groups is not None
        state = state.to("cpu")
        return EnsembleRun(
            experiment=self.experiments[0],
            model=self.model,
            params=state.params,
            groups=self.groups,
            client_names=self.data.client_names,
            make_group_run=partial(finished_run, self, state=state),
        )

    @property
    def seed(self) -> int:
        """Of all runs."""
        return self.experiments[0].seed

    @property
    def local(self) -> Local:
        """Of all runs."""
        return self.experiments[0].local

    @property
    def num_rounds(self) -> int:
        """T"""
        return self.experiments[0].server.rounds

    @cached_property
    def sizes(self) -> IntArray:
        """n_i: training samples of each client, (N,)."""
        return np.asarray(self.data.sizes, dtype=np.int64)

    @cached_property
    def plans(self) -> tuple[AttackPlan, ...]:
        """Who takes part and who attacks, one a run."""
        groups = self.groups or (None,) * len(self.experiments)
        runs = zip(self.experiments, self.benign, groups, strict=True)
        return tuple(AttackPlan(exp, self.data, benign, clients) for exp, benign, clients in runs)

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The aggregation rule of each run."""
        return tuple(get_rule(exp.server.aggregation) for exp in self.experiments)

    @cached_property
    def schedules(self) -> tuple[Schedule, ...]:
        """What changes from round to round, one a run."""
        steps = local_steps(self.sizes, self.local)
        runs = zip(self.experiments, self.plans, strict=True)
        return tuple(Schedule(exp, int(steps[plan.clients].max())) for exp, plan in runs)

    @cached_property
    def smoothness(self) -> npt.NDArray[np.float64]:
        """beta_i of each client, (N,); infinite if the loss is not convex."""
        if not self.model.linear:
            return np.full(len(self.sizes), np.inf)
        return batch_smoothness(self.data, self.local, self.model.bias)

    def learning_rate_caps(self, t: int) -> tuple[float, ...]:
        """Of each run: its clients' learning rates are at most this."""
        return tuple(schedule.learning_rate_cap(t) for schedule in self.schedules)

    @cached_property
    def full_weights(self) -> tuple[Tensor | None, ...]:
        """The weights (n,) of each run's clients if all take part; None if the rule finds them from the updates."""
        runs = zip(self.rules, self.experiments, self.plans, strict=True)
        return tuple(
            rule.weights(torch.from_numpy(self.sizes[plan.clients]), exp.server) if rule.data_independent else None
            for rule, exp, plan in runs
        )

    def noise_stds(self, t: int) -> Tensor:
        """sigma_t of each run, (S,)."""
        return self._of_runs(lambda s: s.noise_std(t))

    def decays(self, t: int) -> Tensor:
        """kappa_t of each run, (S,)."""
        return self._of_runs(lambda s: s.decay(t))

    def clip_norms(self, t: int) -> Tensor:
        """rho_t of each run, (S,)."""
        return self._of_runs(lambda s: s.clip_norm(t))

    def evaluates(self, t: int) -> bool:
        """Whether round t is measured on the test set."""
        return self.schedules[0].evaluates(t)

    def aggregators(self, plans: Sequence[RoundPlan], t: int, like: Tensor) -> list[RoundAggregator]:
        """One a run, empty."""
        runs = zip(self.experiments, self.rules, self.plans, plans, self.schedules, self.full_weights, strict=True)
        totals = like.new_zeros(len(plans), len(like))
        return [
            RoundAggregator(
                round_=t,
                server=exp.server,
                rule=rule,
                members=attack.clients,
                sizes=self.sizes[attack.clients],
                participants=plan.participants,
                attackers=plan.attackers,
                update_clip=schedule.update_clip(t),
                total=total,
                weights=weights,
            )
            for (exp, rule, attack, plan, schedule, weights), total in zip(runs, totals, strict=True)
        ]

    def aggregate(self, aggregator: RoundAggregator) -> tuple[Tensor, ClientStats]:
        """Its aggregate; a group in which that fails, whatever its clients sent, does not stop the other groups."""
        if self.groups is None:
            return aggregator.aggregate()
        try:
            return aggregator.aggregate()
        except Exception:  # a rule may raise anything
            return aggregator.failure()

    def check_finite(self, moved: Tensor, global_models: Tensor, t: int) -> Tensor:
        """`moved` (S, P) if it is finite. TrainingError if not; a group whose model diverges keeps that it had."""
        diverged = ~torch.isfinite(norm(moved))
        if not diverged.any():
            return moved
        if self.groups is None:
            raise TrainingError(
                f"round {t}: the global model is no longer finite; lower local.learning_rate (got "
                f"{self.local.learning_rate}) or attack.scale"
            )
        return torch.where(diverged.unsqueeze(1), global_models, moved)

    def warn_of_dropped(self, clients: Sequence[ClientStats], state: TrainingState, t: int) -> None:
        """InvalidUpdateWarning of the clients dropped in round t, each of them once."""
        for run, stats in enumerate(clients):
            if not stats.dropped:
                continue
            known = {client for before in state.clients for client in before[run].dropped}
            names = self.data.client_names
            new = [f"{names[c]} (number {c}): {why}" for c, why in sorted(stats.dropped.items()) if c not in known]
            if new:
                others = f" and {len(new) - 10} others" if len(new) > 10 else ""
                warnings.warn(
                    f"round {t}: updates dropped, the other clients' weights renormalised: "
                    f"{'; '.join(new[:10])}{others}. The record lists these and later rounds",
                    InvalidUpdateWarning,
                    stacklevel=2,
                )

    def _of_runs(self, value: Callable[[Schedule], float]) -> Tensor:
        return torch.tensor([value(schedule) for schedule in self.schedules], dtype=torch.float64)


def _check_alike(experiments: Sequence[Experiment], benign: Sequence[bool]) -> None:
    """SettingsError unless the runs can share their batches."""
    if not experiments:
        raise SettingsError(["experiments: got none, expected one or more"])
    if len(benign) != len(experiments):
        raise SettingsError(
            [f"benign: got {len(benign)} values, expected one for each of the {len(experiments)} experiments"]
        )
    for key in SHARED:
        if len({attrgetter(key)(exp) for exp in experiments}) > 1:
            raise SettingsError([f"{key}: got different values, expected the same in all runs that train together"])
