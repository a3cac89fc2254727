"""Local SGD of many clients and runs at once."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from crfl.attack.plan import Attacker, RoundPlan
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.devices import to_device
from crfl.engines.base import ClientUpdates
from crfl.engines.vectorised.batches import BatchOrders
from crfl.engines.vectorised.support import FeatureSupport, feature_support
from crfl.engines.vectorised.tuning import CHUNK_BYTES, GROUP_SAMPLES, clients_at_once, threads_for
from crfl.models import Model

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Round:
    """What the local training of a round depends on."""

    models: Tensor
    """(S, P)"""
    number: int
    rates: Tensor
    """(N, 1, 1): learning rate of each client."""
    alone: bool = False
    """Whether it is that of one run by itself."""

    def of(self, run: int, rates: Tensor | None = None) -> _Round:
        """The round of one run by itself, with other learning rates if they are given."""
        return _Round(self.models[run : run + 1], self.number, self.rates if rates is None else rates, alone=True)


class VectorisedEngine:
    """Trains as many clients together as the cache holds, for all runs, in memory that it uses again."""

    def __init__(
        self, model: Model, data: FederatedData, local: Local, seed: int, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """`data` lies on the device that trains. `chunk_bytes`: memory of the clients that train together."""
        self.model, self.data, self.local, self.chunk_bytes = model, data, local, chunk_bytes
        sizes = np.asarray(data.sizes, dtype=np.int64)
        self.orders = BatchOrders(sizes, local, seed)
        self.group_size = max(1, GROUP_SAMPLES // self.orders.max_batch)
        """Single-step clients that step as one."""
        self.row_index = torch.cat(data.shards).int().to(data.x.device)
        """Training rows of all clients, one client after the other, (rows,) int32."""
        self.labels = data.y.index_select(0, self.row_index).int()
        """Of `row_index`, (rows,) int32."""
        self.rates = torch.tensor(local.learning_rates(len(sizes)), dtype=torch.float64).view(-1, 1, 1)
        self._buffers: dict[str, Tensor] = {}

    def local_updates(
        self,
        global_models: Tensor,
        round_: int,
        learning_rate_caps: Sequence[float],
        plans: Sequence[RoundPlan],
        weights: Tensor | None = None,
        apart: bool = False,
    ) -> Iterator[ClientUpdates]:
        """See Engine."""
        now = _Round(global_models, round_, self._rates(learning_rate_caps[0], global_models))
        if apart:
            for run, cap in enumerate(learning_rate_caps):
                yield from self._updates_of_run(now.of(run, self._rates(cap, global_models)), run, plans[run])
            return
        poisoned = {
            (run, client): update
            for run, plan in enumerate(plans)
            for client, update in self._poisoned_updates(now.of(run), plan.poisoners).items()
        }
        clients = functools.reduce(np.union1d, (plan.participants for plan in plans))
        if weights is not None:
            attacking = set().union(*(plan.attackers for plan in plans))
            summed = np.setdiff1d(self._single_step_clients(clients, now), list(attacking))
            for members, total in self._weighted_update_sums(now, summed, weights):
                if torch.isfinite(total.sum()):  # else the server is to see whose update is not
                    yield ClientUpdates(members, total, summed=True)
                    clients = np.setdiff1d(clients, members, assume_unique=True)
        for rows, updates in self._updates(now, clients):
            members = clients[rows]
            for (run, client), update in poisoned.items():
                updates[members == client, run] = update
            yield ClientUpdates(members, updates)

    @functools.cached_property
    def support(self) -> FeatureSupport | None:
        """The samples as a linear model learns from them, if that is less. (Decay moves the weights of any feature.)"""
        return feature_support(self.data) if self.model.linear and not self.local.weight_decay else None

    def _rates(self, cap: float, models: Tensor) -> Tensor:
        return self.rates.clamp(max=cap).to(models.dtype)

    def _updates_of_run(self, alone: _Round, run: int, plan: RoundPlan) -> Iterator[ClientUpdates]:
        """The updates of one run by itself: no bit of them depends on another run or on who takes part in it."""
        poisoned = self._poisoned_updates(alone, plan.poisoners)
        for rows, updates in self._updates(alone, plan.participants):
            members, own = plan.participants[rows], updates[:, 0]
            for client, update in poisoned.items():
                own[members == client] = update
            yield ClientUpdates(members, own, run=run)

    def _updates(
        self,
        now: _Round,
        clients: IntArray,
        attackers: Sequence[Attacker] | None = None,
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
            rates = now.rates[np.broadcast_to(clients[members], running.shape)[running]]
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
            for rows, updates in self._updates(alone, clients, [attackers[c] for c in clients.tolist()])
            for client, update in zip(clients[rows].tolist(), updates, strict=True)
        }

    def _single_step_clients(self, clients: IntArray, now: _Round) -> IntArray:
        """Those of the clients that take one step, if they are more than can train at once.

        None under a model of which it is not known that its step is a sum over the samples.
        """
        single = clients[self.orders.steps[clients] == 1]
        at_once = self._at_once(self.orders.max_batch, now.models)
        return single if self.model.linear and len(single) > at_once else single[:0]

    def _weighted_update_sums(
        self, now: _Round, clients: IntArray, weights: Tensor
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Some k of the single-step clients at a time, and the sum (S, P) of their updates times `weights` (N,).

        The gradients are all taken at the global model, so several clients can step as one, whose samples carry the
        weights: ten thousand tiny clients cost what a few large ones do.
        """
        if not len(clients):
            return
        places, group = torch.from_numpy(self.orders.draw(clients, now.number)[0]), self.group_size
        width = places.shape[1]
        own = weights[clients]
        unit = own.mean()  # a step as small as a weight would be lost to rounding
        rates = now.rates[clients] * (own / unit).to(now.rates).view(-1, 1, 1)
        by_sample = (rates * _shares(places, rates.dtype)).expand(-1, 1, width)
        missing = -len(clients) % group  # clients without samples fill the last group
        groups = (len(clients) + missing) // group
        places = functional.pad(places, (0, 0, 0, missing), value=-1).view(groups, group * width)
        by_sample = functional.pad(by_sample, (0, 0, 0, 0, 0, missing)).reshape(groups, 1, group * width)
        rates = functional.pad(rates, (0, 0, 0, 0, 0, missing)).view(groups, group, 1).sum(1, keepdim=True)
        for some in _chunks(np.arange(groups), self._at_once(places.shape[1], now.models)):
            updates = self._train(now.models, [len(some)], places[some], rates[some], by_sample[some])
            members = np.arange(some[0] * group, (some[-1] + 1) * group)
            yield clients[members[members < len(clients)]], updates.sum(0) * float(unit)

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
        stored = self._buffer("stored", x.dtype, counts[0] * places.shape[1], x.shape[1])
        widened = stored if x.dtype == models.dtype else self._buffer("widened", models.dtype, *stored.shape)
        plan = (values.split(counts) for values in (rows, labels, decays, by_sample))
        for batch, y, decay, rate, width in zip(*plan, widths, strict=True):
            batch, y, rate = batch[:, :width], y[:, :width], rate[..., :width]
            features = _gather(x, batch.flatten(), stored, widened).view(*batch.shape, -1)
            if attackers is not None:
                features.mul_(data.scale)
                for attacker, own, samples, targets in zip(attackers, batch, features, y, strict=False):
                    attacker.poison(data, own, samples, targets)
            trainer.step(features, y, rate, decay if self.local.weight_decay else None)
        updates = self._buffer("updates", models.dtype, counts[0], *models.shape[-2:])
        trainer.updates(updates)
        return updates

    def _buffer(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor in memory that every step uses again: fresh memory costs more to touch than to write."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size or self._buffers[name].dtype != dtype:
            self._buffers[name] = torch.empty(size, dtype=dtype, device=self.data.x.device)
        return self._buffers[name][:size].view(shape)


def _gather(x: Tensor, rows: Tensor, stored: Tensor, widened: Tensor) -> Tensor:
    """Rows (k,) of the stored features x (n, d) in the type of the models, in the memory `widened`.

    Images are gathered as bytes in `stored`, a quarter of the traffic, then widened.
    """
    if rows.shape[0] < stored.shape[0]:
        stored, widened = stored[: len(rows)], widened[: len(rows)]
    torch.index_select(x, 0, rows, out=stored)
    return stored if x.dtype == widened.dtype else widened.copy_(stored)


def _chunks(members: IntArray, size: int) -> list[IntArray]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def _shares(places: Tensor, dtype: torch.dtype) -> Tensor | float:
    """Share of each sample in its batch, given places (batches, n): (batches, 1, n), or 1/n without padding."""
    real = places >= 0
    return 1 / places.shape[1] if real.all() else (real.to(dtype) / real.sum(1, keepdim=True)).unsqueeze(1)
