"""Local SGD of many clients and runs at once."""

from __future__ import annotations

import functools
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.attack.plan import Attacker, RoundPlan
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.devices import to_device
from crfl.engines.base import ClientUpdates, UpdateSums
from crfl.engines.vectorised.batches import BatchOrders
from crfl.engines.vectorised.buffers import Buffers
from crfl.engines.vectorised.one_step import OneStep
from crfl.engines.vectorised.support import FeatureSupport, feature_support
from crfl.engines.vectorised.tuning import CHUNK_BYTES, clients_at_once, threads_for
from crfl.models import Model

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Round:
    """What the local training of a round depends on."""

    models: Tensor
    """(S, P)"""
    number: int
    rates: FloatArray
    """(N,): learning rate of each client."""
    alone: bool = False
    """Whether it is that of one run by itself."""

    def of(self, run: int) -> _Round:
        """The round of one run by itself."""
        return _Round(self.models[run : run + 1], self.number, self.rates, alone=True)


class VectorisedEngine:
    """Trains as many clients together as the cache holds, for all runs, in memory that it uses again."""

    def __init__(
        self, model: Model, data: FederatedData, local: Local, seed: int, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """`data` lies on the device that trains. `chunk_bytes`: memory of the clients that train together."""
        self.model, self.data, self.local, self.chunk_bytes = model, data, local, chunk_bytes
        torch.set_num_threads(torch.get_num_threads())  # from the first call on, MKL takes no fewer
        self.orders = BatchOrders(np.asarray(data.sizes, dtype=np.int64), local, seed)
        self.row_index = torch.cat(data.shards).int().to(data.x.device)
        """Training rows of all clients, one client after the other, (rows,) int32."""
        self.labels = data.y.index_select(0, self.row_index).int()
        """Of `row_index`, (rows,) int32."""
        self.rates = np.array(local.learning_rates(len(data.shards)))
        self.buffers = Buffers(data.x.device)
        self.one_step = None
        if model.weighted_gradients is not None:
            samples = data, self.row_index, self.labels
            self.one_step = OneStep(model.weighted_gradients, *samples, local, self.orders, self.buffers, chunk_bytes)

    def local_updates(
        self,
        global_models: Tensor,
        round_: int,
        learning_rate_caps: Sequence[float],
        plans: Sequence[RoundPlan],
        weights: Sequence[Tensor | None],
        apart: bool = False,
    ) -> Iterator[ClientUpdates | UpdateSums]:
        """See Engine."""
        if apart:
            rounds = [
                _Round(models[None], round_, np.minimum(self.rates, cap), alone=True)
                for models, cap in zip(global_models, learning_rate_caps, strict=True)
            ]
            by_run = yield from self._sums_apart(global_models, rounds, plans, weights)
            for run, (now, plan, clients) in enumerate(zip(rounds, plans, by_run, strict=True)):
                yield from self._single_updates([run], now, [plan], clients)
        else:
            now = _Round(global_models, round_, np.minimum(self.rates, learning_rate_caps[0]))
            singly = yield from self._sums(now, plans, weights)
            yield from self._single_updates(range(len(plans)), now, plans, singly)

    def _sums(
        self, now: _Round, plans: Sequence[RoundPlan], weights: Sequence[Tensor | None]
    ) -> Generator[UpdateSums, None, IntArray]:
        """Sums of updates, if all runs need only the same. Returns the clients of which updates are needed singly."""
        clients = functools.reduce(np.union1d, (plan.participants for plan in plans))
        if self.one_step is None or (shared := _shared_weights(plans, weights)) is None:
            return clients
        members, lengths, singly = self._summed(now, clients, set().union(*(plan.attackers for plan in plans)), shared)
        for some, totals in self.one_step.sums(now.models, members, now.number, lengths):
            if torch.isfinite(totals).all():  # else the server is to see whose update is not
                yield UpdateSums(range(len(plans)), members[some], totals)
            else:
                singly = np.union1d(singly, members[some])
        return singly

    def _sums_apart(
        self,
        global_models: Tensor,
        rounds: Sequence[_Round],
        plans: Sequence[RoundPlan],
        weights: Sequence[Tensor | None],
    ) -> Generator[UpdateSums, None, list[IntArray]]:
        """The same of runs that train apart. Returns these clients of each run."""
        singly = [plan.participants for plan in plans]
        if self.one_step is None:
            return singly
        members, lengths = [singly[0][:0]] * len(plans), [self.rates[:0]] * len(plans)
        for run, (now, plan, own) in enumerate(zip(rounds, plans, weights, strict=True)):
            if own is not None:
                found = self._summed(now, plan.participants, plan.attackers, own.numpy())
                members[run], lengths[run], singly[run] = found
        for sums, totals in self.one_step.sums_apart(global_models, members, rounds[0].number, lengths):
            finite = torch.isfinite(totals).flatten(1).all(1).tolist()
            for (run, some), total, good in zip(sums, totals, finite, strict=True):
                if good:
                    yield UpdateSums([run], members[run][some], total)
                else:
                    singly[run] = np.union1d(singly[run], members[run][some])
        return singly

    def _summed(
        self, now: _Round, clients: IntArray, attackers: Collection[int], weights: FloatArray
    ) -> tuple[IntArray, FloatArray, IntArray]:
        """Clients that take one step and do not attack, the lengths of their weighted steps, and the other clients."""
        assert self.one_step is not None
        summed = self.one_step.takes(clients)
        if attackers:
            summed &= ~np.isin(clients, list(attackers))
        members = clients[summed]
        return members, now.rates[members] * weights[summed], clients[~summed]

    def _single_updates(
        self, runs: Sequence[int], now: _Round, plans: Sequence[RoundPlan], clients: IntArray
    ) -> Iterator[ClientUpdates]:
        """The updates of clients one by one; those of attackers are from poisoned batches."""
        if not len(clients):
            return
        poisoned = {
            (i, client): update
            for i, plan in enumerate(plans)
            for client, update in self._poisoned_updates(now.of(i), plan.poisoners).items()
        }
        for members, updates in self._updates(now, clients):
            for (i, client), update in poisoned.items():
                updates[members == client, i] = update
            yield ClientUpdates(runs, members, updates)

    @functools.cached_property
    def support(self) -> FeatureSupport | None:
        """The samples as a linear model learns from them, if that is less. (Decay moves the weights of any feature.)"""
        return feature_support(self.data) if self.model.linear and not self.local.weight_decay else None

    def _updates(self, now: _Round, clients: IntArray) -> Iterator[tuple[IntArray, Tensor]]:
        """Some k of the clients at a time, and their updates (k, S, P) in memory that is used again."""
        if self.one_step is not None:
            single = self.one_step.takes(clients)
            members, clients = clients[single], clients[~single]
            yield from self.one_step.updates(now.models, members, now.number, now.rates)
        for rows, updates in self._stepwise(now, clients):
            yield clients[rows], updates

    def _stepwise(
        self, now: _Round, clients: IntArray, attackers: Sequence[Attacker] | None = None
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Positions of some k of the clients at a time, and their updates (k, S, P) in memory that is used again.

        With `attackers`, one for each client, on the same batches poisoned.
        """
        if not len(clients):
            return
        batches, first = self.orders.draw(clients, now.number)
        at_once = self._at_once(batches.shape[1], now.models)
        for members in (chunk for alike in self._trained_alike(clients) for chunk in _chunks(alike, at_once)):
            steps = self.orders.steps[clients[members]]
            step = np.arange(steps[0])[:, None]
            running = step < steps  # clients that have finished drop out at the end
            places = torch.from_numpy(batches[(first[members] + step)[running]])
            of_batches = now.rates[np.broadcast_to(clients[members], running.shape)[running]]
            rates = torch.from_numpy(of_batches).to(now.models.dtype).view(-1, 1, 1)
            counts = running.sum(axis=1).tolist()
            by_sample = rates * _shares(places, rates.dtype)
            columns = None
            if not now.alone and self.support is not None:
                columns = self.support.columns[to_device(torch.from_numpy(clients[members]), now.models.device)]
            poisoners = None if attackers is None else [attackers[i] for i in members]
            with threads_for(self._multiplications(places.shape[1] * len(members), now.models)):
                updates = self._train(now.models, counts, places, rates, by_sample, columns, poisoners)
            yield members, updates

    def _trained_alike(self, clients: IntArray) -> list[IntArray]:
        """Rows of the clients that may train together, those with the most steps first.

        The samples of a batch may see each other in a module. There, only clients of one size train together, so that
        no batch needs padding.
        """
        order = np.argsort(-self.orders.steps[clients], kind="stable")
        if self.model.linear or not self.local.keep_last_batch:
            return [order]
        sizes = self.orders.sizes[clients]
        return [np.flatnonzero(sizes == size) for size in np.unique(sizes)]

    def _poisoned_updates(self, alone: _Round, attackers: dict[int, Attacker]) -> dict[int, Tensor]:
        """What the attackers of a run learn from poisoned batches, by client. A trigger may touch any feature."""
        if not attackers:
            return {}
        clients = np.array(sorted(attackers), dtype=np.int64)
        return {
            client: update[0].clone()
            for rows, updates in self._stepwise(alone, clients, [attackers[c] for c in clients.tolist()])
            for client, update in zip(clients[rows].tolist(), updates, strict=True)
        }

    def _multiplications(self, samples: int, models: Tensor) -> int:
        """Of the logits of so many samples; of a module they are not known, and taken as many."""
        return samples * models.numel() if self.model.linear else 2**62

    def _at_once(self, samples: int, models: Tensor) -> int:
        return clients_at_once(samples, self.data.num_features, models, self.chunk_bytes)

    def _train(
        self,
        models: Tensor,
        counts: Sequence[int],
        places: Tensor,
        rates: Tensor,
        by_sample: Tensor,
        columns: Tensor | None = None,
        attackers: Sequence[Attacker] | None = None,
    ) -> Tensor:
        """The updates (k, S, P) of k = counts[0] clients that step together from `models` (S, P) or (k, S, P).

        Step by step the batches of the first `counts` of them: places in `row_index` (batches, n), -1 for none;
        learning rates (batches, 1, 1); and those of each sample, (batches, 1, n) or (batches, 1, 1), which sum to the
        former. `columns` (k, w): features that each client has; None: all.
        """
        data, device = self.data, models.device
        full = [places.shape[1]] * len(counts)
        widths = full if self.model.linear else [int((batch >= 0).sum(1).max()) for batch in places.split(counts)]
        padded = torch.where(places < 0, places[:, :1], places)  # by a sample of the same client, at a rate of 0
        places, rates, by_sample = (to_device(values, device) for values in (padded, rates, by_sample))
        labels = self.labels.index_select(0, places.flatten()).long().view(places.shape)
        decays = rates * self.local.weight_decay
        if columns is not None and self.support is not None:
            x, rows = self.support.x, places
        else:
            x, rows = data.x, self.row_index.index_select(0, places.flatten()).view(places.shape)
        trainer = self.model.local_sgd(models, counts[0], data.scale if attackers is None else 1.0, columns)
        plan = (values.split(counts) for values in (rows, labels, decays, by_sample))
        for batch, y, decay, rate, width in zip(*plan, widths, strict=True):
            batch, y, rate = batch[:, :width], y[:, :width], rate[..., :width]
            features = self.buffers.gather(x, batch.flatten(), models.dtype).view(*batch.shape, -1)
            if attackers is not None:
                features.mul_(data.scale)
                for attacker, own, samples, targets in zip(attackers, batch, features, y, strict=False):
                    attacker.poison(data, own, samples, targets)
            trainer.step(features, y, rate, decay if self.local.weight_decay else None)
        updates = self.buffers.get("updates", models.dtype, counts[0], *models.shape[-2:])
        trainer.updates(updates)
        return updates


def _shared_weights(plans: Sequence[RoundPlan], weights: Sequence[Tensor | None]) -> FloatArray | None:
    """The weights (k,) of the participants if they are the same in every run, and every run needs only that sum."""
    first, clients = weights[0], plans[0].participants
    for plan, own in zip(plans, weights, strict=True):
        alike = plan.participants is clients or np.array_equal(plan.participants, clients)
        if first is None or own is None or not alike or not (own is first or torch.equal(own, first)):
            return None
    return None if first is None else first.numpy()


def _chunks(members: IntArray, size: int) -> list[IntArray]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def _shares(places: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Share of each sample in its batch, given places (batches, n): (batches, 1, n), or 1/n without padding."""
    real = places >= 0
    return 1 / places.shape[1] if real.all() else (real.to(dtype) / real.sum(1, keepdim=True)).unsqueeze(1)
