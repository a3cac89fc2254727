"""Clients that take one step in a round: all their gradients are taken at the global model, without a step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl import matmul
from crfl.config import Local
from crfl.data.federated import FederatedData
from crfl.devices import to_device
from crfl.engines.vectorised.batches import BatchOrders
from crfl.engines.vectorised.buffers import Buffers
from crfl.engines.vectorised.tuning import COPIED_BYTES, chunk_memory, threads_for
from crfl.models.base import WeightedGradients

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]


class OneStep:
    """Local training of a linear model's single-step clients, as many at a time as the cache holds.

    The sum of their updates is a product of all their samples with weighted residuals; single updates take one for each
    client. Neither needs the samples in the order of the batch.
    """

    def __init__(
        self,
        gradients: WeightedGradients,
        data: FederatedData,
        row_index: Tensor,
        labels: Tensor,
        local: Local,
        orders: BatchOrders,
        buffers: Buffers,
        chunk_bytes: int,
    ) -> None:
        """As in VectorisedEngine."""
        self.gradients, self.data, self.local, self.orders = gradients, data, local, orders
        self.row_index, self.labels, self.buffers, self.chunk_bytes = row_index, labels, buffers, chunk_bytes

    def takes(self, clients: IntArray) -> npt.NDArray[np.bool_]:
        """Which of the clients (k,) take one step."""
        return self.orders.steps[clients] == 1

    def updates(
        self, models: Tensor, clients: IntArray, round_: int, rates: FloatArray
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Some k of the clients at a time, and their updates (k, S, P) from `models` (S, P); `rates` (N,)."""
        sizes = self.orders.first_batches[clients]
        for size in np.unique(sizes).tolist():
            alike = clients[sizes == size]
            for some in self._chunks(alike, models, together=False):
                members = alike[some]
                places, shares = self._weighted(members, round_, rates[members])
                yield members, self._updates(models, places, shares, rates[members])

    def sums(
        self, models: Tensor, clients: IntArray, round_: int, lengths: FloatArray
    ) -> Iterator[tuple[slice, Tensor]]:
        """Which of the clients (k,), some at a time, and the sum (S, P) of their updates from `models` (S, P).

        `lengths` (k,): of their steps, learning rate times weight in the sum.
        """
        for some in self._chunks(clients, models, together=True):
            places, shares = self._weighted(clients[some], round_, lengths[some])
            yield some, self._updates(models, places, shares, lengths[some].sum(keepdims=True))[0]

    def sums_apart(
        self, models: Tensor, clients: Sequence[IntArray], round_: int, lengths: Sequence[FloatArray]
    ) -> Iterator[tuple[list[tuple[int, slice]], Tensor]]:
        """Runs with a model each and other clients each, some m at a time: which, with which of its clients (k,); their sums (m, 1, P).

        To the bit what `sums` yields of each run alone, in the same order.
        """
        alike: dict[tuple[int, int], list[tuple[int, slice]]] = {}  # which sum of its run, of how many samples
        for run, own in enumerate(clients):
            for number, some in enumerate(self._chunks(own, models, together=True)):
                size = int(self.orders.first_batches[own[some]].sum())
                alike.setdefault((number, size), []).append((run, some))
        for (_, size), sums in sorted(alike.items()):
            widened = size * self.data.num_features * models.dtype.itemsize
            at_once = max(1, chunk_memory(models, self.chunk_bytes) // widened)
            for part in (sums[start : start + at_once] for start in range(0, len(sums), at_once)):
                members = np.concatenate([clients[run][some] for run, some in part])
                own_lengths = [lengths[run][some] for run, some in part]
                places, shares = self._weighted(members, round_, np.concatenate(own_lengths))
                steps = np.array([of_set.sum() for of_set in own_lengths])
                yield part, self._updates(models[[run for run, _ in part]].unsqueeze(1), places, shares, steps)

    def _weighted(self, clients: IntArray, round_: int, lengths: FloatArray) -> tuple[slice | IntArray, FloatArray]:
        """Places of the clients' samples, one client after another, and the share of each in its client's step."""
        sizes = self.orders.first_batches[clients]
        return self.orders.first_places(clients, round_), np.repeat(lengths / sizes, sizes)

    def _updates(self, models: Tensor, places: slice | IntArray, shares: FloatArray, lengths: FloatArray) -> Tensor:
        """The updates (k, S, P) of k sets of equally many samples from `models` (S, P) or (k, S, P).

        Places and shares of the samples, set by set; `lengths` (k,): sum over a set of the lengths of its steps.
        """
        shared = models.dim() == 2 and len(lengths) > 1  # other sets are widened when their turn comes, in the cache
        x, y = self._samples(places, models.dtype if shared else None)
        own = to_device(torch.from_numpy(shares).to(models.dtype), models.device)
        x, y, own = (values.unflatten(0, (len(lengths), -1)) for values in (x, y, own))
        at_once = y.numel() if models.dim() == 2 else y.shape[1]  # models of their own: a product a set
        with threads_for(at_once * models.shape[-2:].numel()):
            moved = self.gradients(models, x, y, own, self.data.scale).neg_()
        if self.local.weight_decay:
            decay = to_device(torch.from_numpy(self.local.weight_decay * lengths).to(models.dtype), models.device)
            moved -= decay.view(-1, 1, 1) * models
        return moved

    def _samples(self, places: slice | IntArray, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Stored features (n, d), in that type or as they are stored, and labels (n,)."""
        chosen = places if isinstance(places, slice) else to_device(torch.from_numpy(places), self.labels.device)
        y = self.labels[chosen].long()
        if self.copied is None:
            return self.buffers.gather(self.data.x, self.row_index[chosen], dtype or self.data.x.dtype), y
        if isinstance(chosen, slice):
            return matmul.aligned(self.copied[chosen]), y
        return self.buffers.gather(self.copied, chosen, self.copied.dtype), y

    @functools.cached_property
    def copied(self) -> Tensor | None:
        """The samples in the order of `row_index` and the type of the models, (rows, d); None if that is too much."""
        size = len(self.row_index) * self.data.num_features * self.local.dtype.itemsize
        if not self.data.x.is_floating_point() or size > COPIED_BYTES:
            return None
        return self.data.x.index_select(0, self.row_index).to(self.local.dtype)

    def _chunks(self, clients: IntArray, models: Tensor, together: bool) -> list[slice]:
        """The clients in parts that fit into the memory of a chunk: their samples as they are stored, if only a sum of
        updates is wanted (`together`), else in the type of the models, and `models` themselves for each.
        """
        if not len(clients):
            return []
        own = 0 if together else models.numel() * models.dtype.itemsize
        stored = self._bytes if together else self.data.num_features * models.dtype.itemsize
        ends = np.cumsum(self.orders.first_batches[clients] * stored + own)
        borders = (np.flatnonzero(np.diff(ends // chunk_memory(models, self.chunk_bytes))) + 1).tolist()
        return [slice(a, b) for a, b in itertools.pairwise([0, *borders, len(ends)])]

    @functools.cached_property
    def _bytes(self) -> int:
        """Of a sample as the data store it. (Whether it is copied depends on all clients, a run's chunks must not.)"""
        return self.data.num_features * self.data.x.dtype.itemsize
