"""Local SGD of many clients at once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from crfl import rng
from crfl.attack.plan import Attacker
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.devices import to_device
from crfl.matmul import BLOCKS
from crfl.models.base import LocalSGD, Model
from crfl.models.softmax import SoftmaxRegression

IntArray = npt.NDArray[np.int64]

CHUNK_BYTES = 12 * 2**20
"""Memory for the batches and models of the clients that are trained together on a CPU: about what its cache holds. An
accelerator, which needs more work at a time, gets 32 times as much."""
SHARED_SAMPLES = 128
"""Samples of the small clients that take their only step as one."""
MOST_COLUMNS = 0.9
"""Share of the features up to which it pays to leave out those that a client does not have."""


class LocalTraining:
    """The clients' local SGD, round after round: what stays the same of it, and the memory it works in."""

    def __init__(self, model: Model, data: FederatedData, local: Local, seed: int) -> None:
        """`data` lies on the device that shall train."""
        self.model, self.data, self.local, self.seed = model, data, local, seed
        self.linear = model if type(model) is SoftmaxRegression else None
        """The model, if it is known how its steps depend on the samples."""
        self.sizes = np.asarray(data.sizes, dtype=np.int64)
        whole = -(-self.sizes // local.batch_size) if local.keep_last_batch else self.sizes // local.batch_size
        self.steps = whole * local.epochs
        """tau_i: local steps a round of each client, (N,)."""
        self.width = min(local.batch_size, int(self.sizes.max()))
        """Samples of the largest batch."""
        self.together = max(1, SHARED_SAMPLES // self.width)
        """Clients that can take a single step as one."""
        self.owned = torch.cat(data.shards).int().to(data.x.device)
        """Training rows of all clients, one client after the other, (rows,) int32."""
        self.labels = data.y.index_select(0, self.owned).int()
        """Of `owned`, (rows,) int32."""
        self.begin = np.cumsum(self.sizes) - self.sizes
        """Where each client's rows begin in `owned`, (N,)."""
        self.rates = torch.tensor(local.learning_rates(len(self.sizes)), dtype=torch.float32).view(-1, 1, 1)
        self._spare: dict[str, Tensor] = {}

    @cached_property
    def narrow(self) -> Narrow | None:
        """The samples as a linear model learns from them, if that is less. (Decay moves the weights of any feature.)"""
        return _narrow(self.data) if self.linear and not self.local.weight_decay else None

    def updates(
        self, params: Tensor, clients: IntArray, round_: int, attackers: Sequence[Attacker] | None = None
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """What local SGD of each of these clients adds to `params` (S, P) in one round, some k clients at a time.

        Yields positions in `clients` (k,) and updates (k, S, P), in memory that the next ones overwrite. With
        `attackers`, one for each of the clients, on the same batches poisoned. Not scaled by gamma.
        """
        batches, first = self._batches(clients, round_)
        order = np.argsort(-self.steps[clients], kind="stable")
        for members in _chunks(order, self._at_once(self.width, params)):
            steps = self.steps[clients[members]]
            step = np.arange(steps[0])[:, None]
            running = step < steps  # clients that have finished drop out at the end
            places = torch.from_numpy(batches[(first[members] + step)[running]])
            rates = self.rates[np.broadcast_to(clients[members], running.shape)[running]]
            counts = running.sum(axis=1).tolist()
            by_sample = rates * _shares(places)
            if attackers is not None:  # a trigger may touch any feature
                poisoners = [attackers[i] for i in members]
                yield members, self._train(params, counts, places, rates, by_sample, attackers=poisoners)
            else:
                columns = None
                if self.narrow is not None:
                    columns = self.narrow.columns[to_device(torch.from_numpy(clients[members]), params.device)]
                yield members, self._train(params, counts, places, rates, by_sample, columns)

    def tiny(self, clients: IntArray, params: Tensor) -> IntArray:
        """Those of the clients that take one step, if they are more than `updates` can train at once: for `sums`.

        None under a model of which it is not known that its step is a sum over the samples.
        """
        single = clients[self.steps[clients] == 1]
        return single if self.linear and len(single) > self._at_once(self.width, params) else single[:0]

    def sums(
        self, params: Tensor, clients: IntArray, weights: Tensor, round_: int
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Sums of the updates of clients that take one step each, times `weights` (clients,), some k clients at a time.

        Yields positions in `clients` (k,) and sums (S, P). The gradients are all taken at `params` (S, P), so several
        clients can step as one, whose samples carry the weights: ten thousand tiny clients cost what a few large do.
        """
        places = torch.from_numpy(self._batches(clients, round_)[0])
        unit = weights.mean()  # a step as small as a weight would be lost to rounding
        rates = self.rates[clients] * (weights / unit).to(self.rates).view(-1, 1, 1)
        by_sample = (rates * _shares(places)).expand(-1, 1, self.width)
        missing = -len(clients) % self.together  # clients without samples fill the last group
        groups = (len(clients) + missing) // self.together
        places = functional.pad(places, (0, 0, 0, missing), value=-1).view(groups, self.together * self.width)
        by_sample = functional.pad(by_sample, (0, 0, 0, 0, 0, missing)).reshape(groups, 1, self.together * self.width)
        rates = functional.pad(rates, (0, 0, 0, 0, 0, missing)).view(groups, self.together, 1).sum(1, keepdim=True)
        for some in _chunks(np.arange(groups), self._at_once(places.shape[1], params)):
            updates = self._train(params, [len(some)], places[some], rates[some], by_sample[some])
            members = np.arange(some[0] * self.together, (some[-1] + 1) * self.together)
            yield members[members < len(clients)], updates.sum(0) * float(unit)

    def _batches(self, clients: IntArray, round_: int) -> tuple[npt.NDArray[np.int32], IntArray]:
        """Places in `owned` of all batches of a round, (batches, width), and the number of each client's first batch.

        -1 pads batches that are not full. Each client's order is drawn from (seed, round, client, epoch), so it does
        not depend on who else is listed.
        """
        local, width, steps, sizes = self.local, self.width, self.steps[clients], self.sizes[clients]
        first, begin = np.cumsum(steps) - steps, self.begin[clients]
        batches = np.empty((int(steps.sum()), width), dtype=np.int32)
        for epoch in range(local.epochs):
            keys = rng.keys(self.seed, "batches", round_, clients, epoch)
            for size in np.unique(sizes).tolist():
                members = np.flatnonzero(sizes == size)
                places = begin[members, None] + rng.shuffles(keys[members], size)
                count = int(steps[members[0]]) // local.epochs
                if count * width > size:
                    places = np.pad(places, ((0, 0), (0, count * width - size)), constant_values=-1)
                numbers = first[members, None] + np.arange(epoch * count, (epoch + 1) * count)
                batches[numbers] = places[:, : count * width].reshape(len(members), count, width)
        return batches, first

    def _at_once(self, samples: int, params: Tensor) -> int:
        """How many clients to train together if each has so many samples in a batch."""
        memory = CHUNK_BYTES if params.device.type == "cpu" else 32 * CHUNK_BYTES
        count = memory // (4 * (samples * self.data.num_features + 2 * params.numel()))
        return max(1, count - count % 8 if count > 8 else count)  # 2, 4 or 8 threads share them evenly

    def _train(
        self,
        params: Tensor,
        counts: Sequence[int],
        places: Tensor,
        rates: Tensor,
        by_sample: Tensor,
        columns: Tensor | None = None,
        attackers: Sequence[Attacker] | None = None,
    ) -> Tensor:
        """The updates (k, S, P) of k = counts[0] clients that step together.

        Step by step the batches of the first `counts` of them: places in `owned` (batches, n), -1 for none; learning
        rates (batches, 1, 1); and those of each sample, (batches, 1, n) or (batches, 1, 1), which sum to the former.
        `columns` (k, w): features that each client has; None: all.
        """
        data, device = self.data, params.device
        places, rates, by_sample = (to_device(values, device) for values in (places.clamp(min=0), rates, by_sample))
        labels = self.labels.index_select(0, places.flatten()).long().view(places.shape)
        decays = rates * self.local.weight_decay
        trainer: LocalSGD
        if columns is not None and self.narrow is not None and self.linear is not None:
            x, rows = self.narrow.x, places
            trainer = self.linear.local_sgd(params, counts[0], data.scale, columns)
        else:
            x, rows = data.x, self.owned.index_select(0, places.flatten()).view(places.shape)
            trainer = self.model.local_sgd(params, counts[0], data.scale if attackers is None else 1.0)
        stored = self._memory("stored", x.dtype, counts[0] * places.shape[1], x.shape[1])
        widened = stored if x.dtype == torch.float32 else self._memory("widened", torch.float32, *stored.shape)
        plan = (values.split(counts) for values in (rows, labels, decays, by_sample))
        for batch, y, decay, rate in zip(*plan, strict=True):
            features = _gather(x, batch.flatten(), stored, widened).view(*batch.shape, -1)
            if attackers is not None:
                features.mul_(data.scale)
                for attacker, samples, targets in zip(attackers, features, y, strict=False):
                    attacker.poison(samples, targets)
            trainer.step(features, y, rate, decay if self.local.weight_decay else None)
        updates = self._memory("updates", params.dtype, counts[0], *params.shape)
        trainer.updates(updates)
        return updates

    def _memory(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor in memory that every step uses again: to touch fresh memory costs more than to write to it."""
        size = math.prod(shape)
        if name not in self._spare or self._spare[name].numel() < size:
            self._spare[name] = torch.empty(size, dtype=dtype, device=self.data.x.device)
        return self._spare[name][:size].view(shape)


def _gather(x: Tensor, rows: Tensor, stored: Tensor, widened: Tensor) -> Tensor:
    """Rows (k,) of the stored features x as float32 (k, d), in the memory `widened` (k or more, d).

    Images are gathered as bytes in `stored`, a quarter of the way to memory, then widened.
    """
    if rows.shape[0] < stored.shape[0]:
        stored, widened = stored[: len(rows)], widened[: len(rows)]
    torch.index_select(x, 0, rows, out=stored)
    return stored if x.dtype == torch.float32 else widened.copy_(stored)


def _chunks(members: IntArray, size: int) -> list[IntArray]:
    return [members[start : start + size] for start in range(0, len(members), size)]


@dataclass(frozen=True)
class Narrow:
    """The training samples without the features that a client does not have: it can learn nothing of them."""

    columns: Tensor
    """(N, w): the features that are left to each client, as many as the client with the most needs."""
    x: Tensor
    """(rows, w): these features of the stored samples, one client after the other."""


def _narrow(data: FederatedData) -> Narrow | None:
    """The samples without features that are 0 in all samples of a client; None if there are few of those."""
    used = torch.zeros(len(data.shards), data.num_features, dtype=torch.bool, device=data.x.device)
    for own, rows in zip(used, data.shards, strict=True):
        for block in rows.split(1024):
            own |= data.x[block].any(dim=0).bool()  # of bytes, any() gives bytes
        if own.sum() > MOST_COLUMNS * len(own):
            return None
    width = int(used.sum(1).max())
    width += width % BLOCKS == 0
    columns = used.int().sort(dim=1, descending=True, stable=True).indices[:, :width].clone()
    return Narrow(columns, torch.cat([data.x[rows][:, own] for rows, own in zip(data.shards, columns, strict=True)]))


def _shares(places: Tensor) -> Tensor | float:
    """Share of each sample in its batch, given places (batches, n): (batches, 1, n), or 1/n without padding."""
    real = places >= 0
    return 1 / places.shape[1] if real.all() else (real.float() / real.sum(1, keepdim=True)).unsqueeze(1)
