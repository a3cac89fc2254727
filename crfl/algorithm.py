"""One round of Algorithm 1 for a stack of runs: state in, state out.

`RunBatch.rounds` yields a state after every round and starts from any of them; `RunBatch.finish` turns the last one into
runs. Runs that share data, seed and batch order train as one stack: a sweep over an attack, or a run and its benign
counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn

from crfl import rng, run, server
from crfl.aggregation import make_aggregator
from crfl.attack.plan import Attacker, Plan
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.data.load import check_fits
from crfl.engines.vectorised import IntArray, LocalTraining
from crfl.errors import InvalidUpdateWarning, SettingsError, TrainingError
from crfl.evaluation import Evaluation
from crfl.models.base import Model
from crfl.models.module import make_model
from crfl.run import FACTS, TrainingRun
from crfl.server import RoundAggregator
from crfl.state import TrainingState


class RunBatch:
    """S runs that share their batches: the constants of training them together."""

    def __init__(
        self,
        experiments: tuple[Experiment, ...],
        benign: tuple[bool, ...],
        data: FederatedData,
        checkpoints: tuple[int, ...] = (),
        model: Model | nn.Module | None = None,
    ) -> None:
        self.experiments, self.benign, self.data, self.checkpoints = experiments, benign, data, checkpoints
        if not experiments:
            raise SettingsError(["experiments: got none, expected one or more"])
        first = experiments[0]
        if len(benign) != len(experiments):
            raise SettingsError(
                [f"benign: got {len(benign)} values, expected one for each of the {len(experiments)} experiments"]
            )
        self.seed, self.local, self.num_rounds = first.seed, first.local, first.server.rounds
        for key in ("seed", "local", "data", "server.rounds"):
            if len({attrgetter(key)(exp) for exp in experiments}) > 1:
                raise SettingsError([f"{key}: runs of one stack must share it"])
        for round_ in checkpoints:
            if not isinstance(round_, (int, np.integer)) or not 1 <= round_ <= self.num_rounds:
                raise SettingsError([f"checkpoints: got {round_!r}, expected rounds 1 to {self.num_rounds}"])
        for exp in experiments:
            check_fits(exp, data)
        self.model = make_model(model, data.num_features, data.num_classes)
        self.plans = [Plan(exp, data) for exp in experiments]
        self.rules = [make_aggregator(exp.server.aggregation) for exp in experiments]

    def start(self) -> TrainingState:
        """The state before round 1: every run at the same random model."""
        params = self.model.initial(rng.stream(self.seed, "initial model"))
        return TrainingState(params.repeat(len(self.experiments), 1))

    def rounds(self, state: TrainingState, device: str | torch.device = "cpu") -> Iterator[TrainingState]:
        """The states after each round that is still to come."""
        data = self.data.to(device)
        training = LocalTraining(self.model, data, self.local, self.seed)
        evaluation = Evaluation(data, self.experiments)
        state = state.to(device)
        while state.round < self.num_rounds:
            state = self._round(state, training, evaluation)
            yield state

    def _round(self, state: TrainingState, training: LocalTraining, evaluation: Evaluation) -> TrainingState:
        """One round of Algorithm 1: noise of the round before, local training, attack, aggregation, clipping."""
        round_ = state.round + 1
        sent = state.params
        if round_ > 1:
            stds = [exp.server.noise for exp in self.experiments]
            sent = torch.stack([server.perturb(w, s, self.seed, round_ - 1) for w, s in zip(sent, stds, strict=True)])
        inboxes = self._receive(sent, training, round_)
        for i, inbox in enumerate(inboxes):
            self._check(i, inbox, state)
        aggregates = [inbox.aggregate() for inbox in inboxes]
        facts = torch.zeros(len(inboxes), len(FACTS), len(training.sizes), dtype=torch.float64)
        for known, inbox, aggregate in zip(facts, inboxes, aggregates, strict=True):
            for row, values in zip(known, (aggregate.weights, inbox.codes, inbox.norms), strict=True):
                row[inbox.clients] = torch.as_tensor(values, dtype=torch.float64)
        unclipped = sent + torch.stack([aggregate.update for aggregate in aggregates])
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
                f"(got {self.local.learning_rate}) or attack.scale"
            )
        measures = torch.cat([torch.stack(norms, dim=1), evaluation.measure(self.model, params)], dim=1)
        kept = {**state.checkpoints, round_: params} if round_ in self.checkpoints else state.checkpoints
        return TrainingState(params, (*state.measures, measures), (*state.facts, facts), kept)

    def _receive(self, sent: Tensor, training: LocalTraining, round_: int) -> list[RoundAggregator]:
        """What every run's server receives in this round, after its clients got `sent` (S, P)."""
        present = [plan.participants(round_) for plan in self.plans]
        crews = [{a.client: a for a in plan.attackers(round_)} for plan in self.plans]
        inboxes = [
            RoundAggregator(exp.server, rule, clients, training.sizes[clients], list(crew), sent[0])
            for exp, rule, clients, crew in zip(self.experiments, self.rules, present, crews, strict=True)
        ]
        poisoned = [self._poisoned(i, crew, sent[i], training, round_) for i, crew in enumerate(crews)]
        takes_part = np.zeros((len(present), len(training.sizes)), dtype=bool)
        for i, clients in enumerate(present):
            takes_part[i, clients] = True
        summed = self._sum_up(sent, training, inboxes, set().union(*crews), round_)
        takes_part[:, summed] = False
        trained = np.flatnonzero(takes_part.any(axis=0))
        for members, updates in training.updates(sent, trained, round_):
            for i, (inbox, crew) in enumerate(zip(inboxes, crews, strict=True)):
                mine = takes_part[i, trained[members]]
                clients, learnt = trained[members[mine]], updates[:, i] if mine.all() else updates[mine, i]
                for row in np.flatnonzero(np.isin(clients, list(crew))):
                    client = clients[row]
                    update = self._sent(i, crew[client], poisoned[i].get(client, learnt[row]), sent[i], round_)
                    if update is None:
                        inbox.refuse(client, server.WRONG_SHAPE)
                    else:
                        learnt[row] = update
                inbox.add(clients, learnt)
        return inboxes

    def _sum_up(
        self, sent: Tensor, training: LocalTraining, inboxes: list[RoundAggregator], attacking: set[int], round_: int
    ) -> IntArray:
        """Give the inboxes the summed updates of tiny clients, if all weigh them alike. Returns these clients."""
        first = inboxes[0]
        clients = training.tiny(first.clients, sent)
        if not len(clients) or not all(inbox.takes_sums and inbox.weighs_like(first) for inbox in inboxes):
            return clients[:0]
        clients = np.setdiff1d(clients, list(attacking))
        weights = first.weights[np.searchsorted(first.clients, clients)]
        done = [clients[:0]]
        for members, sums in training.sums(sent, clients, weights, round_):
            if torch.isfinite(sums.sum()):  # else let the server see whose update is not
                done.append(clients[members])
                for inbox, total in zip(inboxes, sums, strict=True):
                    inbox.received += total
        return np.concatenate(done)

    def _poisoned(
        self, i: int, crew: dict[int, Attacker], sent: Tensor, training: LocalTraining, round_: int
    ) -> dict[int, Tensor]:
        """What the attackers of run i that poison batches learn from them, by client."""
        members = [a for a in crew.values() if a.poisoned_per_batch and not self.benign[i]]
        clients = np.array([a.client for a in members], dtype=np.int64)
        found = training.updates(sent[None], clients, round_, members) if members else ()
        return {
            clients[row]: update[0].clone()
            for rows, updates in found
            for row, update in zip(rows, updates, strict=True)
        }

    def _sent(self, i: int, attacker: Attacker, learnt: Tensor, sent: Tensor, round_: int) -> Tensor | None:
        """What an attacker of run i sends; the counterpart of a malicious client sends nothing."""
        if self.benign[i] and attacker.update is not None:
            return torch.zeros_like(sent)
        return attacker.sent(learnt, sent, self.seed, round_)

    def _check(self, i: int, inbox: RoundAggregator, state: TrainingState) -> None:
        """Warn of the clients of run i that were dropped, each of them once; TrainingError if nobody is left."""
        clients, codes, round_ = inbox.clients, inbox.codes, state.round + 1
        if codes.all():
            raise TrainingError(
                f"round {round_}: no update is left to aggregate, all {len(clients)} clients were dropped; if training "
                f"diverges, lower local.learning_rate (got {self.local.learning_rate}) or attack.scale. A run folder "
                "keeps the rounds before and goes on from there"
            )
        if not codes.any():
            return
        before = {client for facts in state.facts for client in facts[i, 1].nonzero().flatten().tolist()}
        new = [
            f"{self.data.client_names[c]} (number {c}): {server.REASONS[code]}"
            for c, code in zip(clients.tolist(), codes.tolist(), strict=True)
            if code and c not in before
        ]
        if new:
            others = f" and {len(new) - 10} others" if len(new) > 10 else ""
            warnings.warn(
                f"round {round_}: updates dropped, the other clients' weights renormalised: "
                f"{'; '.join(new[:10])}{others}. The record lists these and later rounds",
                InvalidUpdateWarning,
                stacklevel=2,
            )

    def finish(self, state: TrainingState) -> list[TrainingRun]:
        """The runs that end in `state`, on the CPU."""
        measures, facts = torch.stack(state.measures).cpu(), torch.stack(state.facts)
        stacked = len(self.experiments) > 1
        return [
            TrainingRun(
                experiment=exp,
                model=self.model,
                params=state.params[i].cpu(),
                record=run.record(
                    exp, self.data, self.model, self.benign[i], self.plans[i], measures[:, i], facts[:, i]
                ),
                columns=run.columns(exp, measures[:, i], with_distance=stacked),
                checkpoints={round_: params[i].cpu().clone() for round_, params in state.checkpoints.items()},
            )
            for i, exp in enumerate(self.experiments)
        ]
