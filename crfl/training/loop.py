"""Algorithm 1: federated averaging whose server clips and perturbs the global model every round.

`Stack.rounds` yields a state after every round and starts from any of them; `Stack.finish` turns the last one into
runs. Runs that share data, seed and batch order train as one stack: a sweep over an attack, or a run and its benign
counterpart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from crfl import rng
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.data.load import check_fits
from crfl.errors import SettingsError, TrainingError
from crfl.training import run, server
from crfl.training.aggregation import make_aggregator
from crfl.training.attack import attackers
from crfl.training.clients import local_updates
from crfl.training.evaluation import Evaluation
from crfl.training.models import SoftmaxRegression
from crfl.training.run import TrainingRun


@dataclass(frozen=True)
class TrainingState:
    """Where S runs stand after a round, and what was measured until then. Everything else follows from the settings.

    The parameters are those after clipping and before noise: the next round begins by drawing the noise of this one,
    so a run of fewer rounds is a prefix of a longer one.
    """

    params: Tensor
    """(S, P) float32"""
    measures: tuple[Tensor, ...] = ()
    """For each round (S, 7) float64: NORMS, then MEASURES."""
    weights: tuple[Tensor, ...] = ()
    """For each round (S, N) float64: aggregation weights."""
    checkpoints: dict[int, Tensor] = field(default_factory=dict)
    """Parameters (S, P) after the rounds asked for."""

    @property
    def round(self) -> int:
        """Rounds done."""
        return len(self.measures)


def train(
    exp: Experiment,
    data: FederatedData,
    *,
    benign: bool = False,
    checkpoints: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> TrainingRun:
    """Algorithm 1 with the attack of the settings.

    `benign` trains the benign counterpart: the same seeds, batches, noise and scaling, but the attackers' data stays
    clean. `checkpoints` are rounds whose model is kept. Raises SettingsError or DataError if data and settings do
    not fit, TrainingError if the model diverges.
    """
    return train_stack([exp], data, benign=[benign], checkpoints=checkpoints, device=device, progress=progress)[0]


def train_stack(
    experiments: Sequence[Experiment],
    data: FederatedData,
    *,
    benign: Sequence[bool] | None = None,
    checkpoints: Sequence[int] = (),
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> list[TrainingRun]:
    """Train runs that share seed, data, local settings and rounds in one pass over the data.

    Each equals the run trained alone to float32 rounding. Their histories gain a column `distance`: the l2 distance of
    the global model to that of the first run.
    """
    from tqdm.auto import tqdm

    stack = Stack(tuple(experiments), tuple(benign or [False] * len(experiments)), data, tuple(checkpoints))
    state = stack.start()
    rounds = tqdm(
        stack.rounds(state, device), total=stack.num_rounds, desc="training", unit="round", disable=not progress
    )
    for state in rounds:  # noqa: B007 the last one is wanted
        pass
    return stack.finish(state)


class Stack:
    """S runs that share their batches: the constants of training them together."""

    def __init__(
        self,
        experiments: tuple[Experiment, ...],
        benign: tuple[bool, ...],
        data: FederatedData,
        checkpoints: tuple[int, ...] = (),
    ) -> None:
        self.experiments, self.benign, self.data, self.checkpoints = experiments, benign, data, checkpoints
        first = experiments[0]
        self.seed, self.local, self.num_rounds = first.seed, first.local, first.server.rounds
        for exp in experiments[1:]:
            for key in ("seed", "local", "data"):
                if getattr(exp, key) != getattr(first, key):
                    raise SettingsError([f"{key}: runs of one stack must share it"])
            if exp.server.rounds != self.num_rounds:
                raise SettingsError(["server.rounds: runs of one stack must share it"])
        for exp in experiments:
            check_fits(exp, data)
        self.model = SoftmaxRegression(data.num_features, data.num_classes)
        self.attackers = [attackers(exp, data) for exp in experiments]
        self.aggregators = [make_aggregator(exp.server.aggregation) for exp in experiments]

    def start(self) -> TrainingState:
        """The state before round 1: every run at the same random model."""
        params = self.model.initial(rng.stream(self.seed, "initial model"))
        return TrainingState(params.repeat(len(self.experiments), 1))

    def rounds(self, state: TrainingState, device: str | torch.device = "cpu") -> Iterator[TrainingState]:
        """The states after each round that is still to come."""
        data = self.data.to(device)
        evaluation = Evaluation(data, self.experiments)
        sizes = torch.tensor(data.sizes, device=device)
        state = replace(state, params=state.params.to(device))
        while state.round < self.num_rounds:
            state = self._round(state, data, sizes, evaluation)
            yield state

    def _round(self, state: TrainingState, data: FederatedData, sizes: Tensor, evaluation: Evaluation) -> TrainingState:
        """One round of Algorithm 1: noise of the round before, local training, attack, aggregation, clipping."""
        round_ = state.round + 1
        sent = state.params
        if round_ > 1:
            stds = [exp.server.noise for exp in self.experiments]
            sent = torch.stack([server.perturb(w, s, self.seed, round_ - 1) for w, s in zip(sent, stds, strict=True)])
        updates = local_updates(self.model, sent, data, self.local, seed=self.seed, round_=round_)
        moved, weights = [], []
        for i, aggregator in enumerate(self.aggregators):
            attacked = self._attack(i, updates[:, i], sent[i], data, round_)
            update_clip = self.experiments[i].server.update_clip
            aggregate = aggregator(attacked if update_clip is None else server.project(attacked, update_clip), sizes)
            moved.append(sent[i] + aggregate.update)
            weights.append(aggregate.weights)
        unclipped = torch.stack(moved)
        clip_norms = [exp.server.clip.norm(round_) for exp in self.experiments]
        params = torch.stack([server.project(w, rho) for w, rho in zip(unclipped, clip_norms, strict=True)])
        norms = [
            server.norm(sent),
            self.model.spectral_norm(sent),
            server.norm(unclipped),
            server.norm(params - params[0]),
        ]
        if not torch.isfinite(norms[2]).all():
            raise TrainingError(
                f"round {round_}: the global model is no longer finite; lower local.learning_rate "
                f"(found {self.local.learning_rate}) or attack.scale"
            )
        measures = torch.cat([torch.stack(norms, dim=1), evaluation.measure(self.model, params)], dim=1)
        kept = {**state.checkpoints, round_: params} if round_ in self.checkpoints else state.checkpoints
        return TrainingState(params, (*state.measures, measures), (*state.weights, torch.stack(weights)), kept)

    def _attack(self, i: int, updates: Tensor, sent: Tensor, data: FederatedData, round_: int) -> Tensor:
        """The updates (N, P) of run i with those of this round's attackers poisoned and scaled."""
        crew = self.attackers[i].get(round_, ())
        if not crew:
            return updates
        updates = updates.clone()
        members = torch.tensor([a.client for a in crew], device=updates.device)
        if not self.benign[i] and any(a.poisoned_per_batch for a in crew):
            updates[members] = local_updates(
                self.model, sent[None], data, self.local, seed=self.seed, round_=round_, attackers=crew
            )[:, 0]
        updates[members] *= torch.tensor([a.scale for a in crew], device=updates.device).unsqueeze(1)
        return updates

    def finish(self, state: TrainingState) -> list[TrainingRun]:
        """The runs that end in `state`, on the CPU."""
        measures, weights = torch.stack(state.measures).cpu(), torch.stack(state.weights).cpu()
        stacked = len(self.experiments) > 1
        return [
            TrainingRun(
                experiment=exp,
                model=self.model,
                params=state.params[i].cpu(),
                record=run.record(exp, self.data, self.model, self.benign[i], measures[:, i], weights[:, i]),
                history=run.history(exp, measures[:, i], with_distance=stacked),
                checkpoints={round_: params[i].cpu() for round_, params in state.checkpoints.items()},
            )
            for i, exp in enumerate(self.experiments)
        ]
