"""One round of Algorithm 1 for a stack of runs: state in, state out.

`Stack.rounds` yields a state after every round and starts from any of them; `Stack.finish` turns the last one into
runs. Runs that share data, seed and batch order train as one stack: a sweep over an attack, or a run and its benign
counterpart.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import reduce

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl import rng
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.data.load import check_fits
from crfl.errors import HostileUpdateWarning, SettingsError, TrainingError
from crfl.training import run, server
from crfl.training.aggregation import checked, make_aggregator
from crfl.training.attack import Plan
from crfl.training.clients import local_updates
from crfl.training.evaluation import Evaluation
from crfl.training.models import Model
from crfl.training.modules import make_model
from crfl.training.run import FACTS, TrainingRun
from crfl.training.state import TrainingState

IntArray = npt.NDArray[np.int64]


class Stack:
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
        first = experiments[0]
        if len(benign) != len(experiments):
            raise SettingsError(
                [f"benign: found {len(benign)} values, allowed: one for each of the {len(experiments)} experiments"]
            )
        self.seed, self.local, self.num_rounds = first.seed, first.local, first.server.rounds
        for exp in experiments[1:]:
            for key in ("seed", "local", "data"):
                if getattr(exp, key) != getattr(first, key):
                    raise SettingsError([f"{key}: runs of one stack must share it"])
            if exp.server.rounds != self.num_rounds:
                raise SettingsError(["server.rounds: runs of one stack must share it"])
        for exp in experiments:
            check_fits(exp, data)
        self.model = make_model(model, data.num_features, data.num_classes)
        self.plans = [Plan(exp, data) for exp in experiments]
        self.aggregators = [make_aggregator(exp.server.aggregation) for exp in experiments]

    def start(self) -> TrainingState:
        """The state before round 1: every run at the same random model."""
        params = self.model.initial(rng.stream(self.seed, "initial model"))
        return TrainingState(params.repeat(len(self.experiments), 1))

    def rounds(self, state: TrainingState, device: str | torch.device = "cpu") -> Iterator[TrainingState]:
        """The states after each round that is still to come."""
        data = self.data.to(device)
        evaluation = Evaluation(data, self.experiments)
        state = replace(state, params=state.params.to(device))
        while state.round < self.num_rounds:
            state = self._round(state, data, evaluation)
            yield state

    def _round(self, state: TrainingState, data: FederatedData, evaluation: Evaluation) -> TrainingState:
        """One round of Algorithm 1: noise of the round before, local training, attack, aggregation, clipping."""
        round_ = state.round + 1
        sent = state.params
        if round_ > 1:
            stds = [exp.server.noise for exp in self.experiments]
            sent = torch.stack([server.perturb(w, s, self.seed, round_ - 1) for w, s in zip(sent, stds, strict=True)])
        present = [plan.participants(round_) for plan in self.plans]
        trained = reduce(np.union1d, present)
        updates = local_updates(self.model, sent, data, self.local, clients=trained, seed=self.seed, round_=round_)
        moved, facts = [], []
        for i, clients in enumerate(present):
            mine = updates[:, i] if len(clients) == len(trained) else updates[np.searchsorted(trained, clients), i]
            attacked, misshapen = self._attack(i, clients, mine, sent[i], data, round_)
            update, known = self._aggregate(i, clients, attacked, misshapen, state)
            moved.append(sent[i] + update)
            facts.append(known)
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
        return TrainingState(params, (*state.measures, measures), (*state.facts, torch.stack(facts)), kept)

    def _attack(
        self, i: int, clients: IntArray, updates: Tensor, sent: Tensor, data: FederatedData, round_: int
    ) -> tuple[Tensor, IntArray]:
        """What the clients (n,) of run i send, (n, P), and the rows of those whose update has another shape."""
        crew = self.plans[i].attackers(round_)
        misshapen: list[int] = []
        if not crew:
            return updates, np.array(misshapen, dtype=np.int64)
        updates = updates.clone()
        members = np.array([a.client for a in crew])
        rows = np.searchsorted(clients, members)
        poisoned = [k for k, a in enumerate(crew) if a.poisoned_per_batch and not self.benign[i]]
        if poisoned:
            updates[rows[poisoned]] = local_updates(
                self.model,
                sent[None],
                data,
                self.local,
                clients=members[poisoned],
                seed=self.seed,
                round_=round_,
                attackers=[crew[k] for k in poisoned],
            )[:, 0]
        for row, attacker in zip(rows.tolist(), crew, strict=True):
            if self.benign[i] and attacker.update is not None:
                updates[row] = 0.0  # the counterpart of a malicious client sends nothing
                continue
            update = attacker.sent(updates[row], sent, self.seed, round_)
            if isinstance(update, Tensor) and update.shape == sent.shape:
                updates[row] = update
            else:
                misshapen.append(row)
        return updates, np.array(misshapen, dtype=np.int64)

    def _aggregate(
        self, i: int, clients: IntArray, updates: Tensor, misshapen: IntArray, state: TrainingState
    ) -> tuple[Tensor, Tensor]:
        """Run i's aggregated update (P,) of what its clients (n,) sent, and the FACTS (3, N). Hostile updates drop out.

        TrainingError if nobody is left or the rule returns something else than it should.
        """
        exp, round_ = self.experiments[i], state.round + 1
        codes = np.where(server.finite(updates).cpu().numpy(), 0, server.NOT_FINITE)
        codes[misshapen] = server.WRONG_SHAPE
        kept = np.flatnonzero(codes == 0)
        if not len(kept):
            raise TrainingError(
                f"round {round_}: no update is left to aggregate, all {len(clients)} clients were dropped; if training "
                f"diverges, lower local.learning_rate (found {self.local.learning_rate}) or attack.scale. A run folder "
                "keeps the rounds before and goes on from there"
            )
        if len(kept) < len(clients):
            self._warn(i, clients, codes, state)
        used, members = updates if len(kept) == len(clients) else updates[kept], clients[kept]
        if exp.server.update_clip is not None:
            used = server.project(used, exp.server.update_clip)
        sizes = torch.tensor(np.asarray(self.data.sizes)[members], device=used.device)
        aggregate = checked(self.aggregators[i](used, sizes, exp.server), used, exp.server.aggregation)
        facts = torch.zeros(len(FACTS), len(self.data.shards), dtype=torch.float64)
        facts[0, members] = aggregate.weights.double().cpu()
        facts[1, clients] = torch.from_numpy(codes).double()
        attacking = np.flatnonzero(np.isin(members, [a.client for a in self.plans[i].attackers(round_)]))
        facts[2, members[attacking]] = server.norm(used[attacking]).cpu()
        return aggregate.update.to(updates.dtype), facts

    def _warn(self, i: int, clients: IntArray, codes: IntArray, state: TrainingState) -> None:
        """Say who was dropped and why, once for each client and run."""
        before = {client for facts in state.facts for client in facts[i, 1].nonzero().flatten().tolist()}
        new = [
            f"{self.data.client_names[c]} (number {c}): {server.REASONS[code]}"
            for c, code in zip(clients.tolist(), codes.tolist(), strict=True)
            if code and c not in before
        ]
        if new:
            others = f" and {len(new) - 10} others" if len(new) > 10 else ""
            warnings.warn(
                f"round {state.round + 1}: updates dropped, the other clients' weights renormalised: "
                f"{'; '.join(new[:10])}{others}. The record lists these and later rounds",
                HostileUpdateWarning,
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
                history=run.history(exp, measures[:, i], with_distance=stacked),
                checkpoints={round_: params[i].cpu() for round_, params in state.checkpoints.items()},
            )
            for i, exp in enumerate(self.experiments)
        ]
