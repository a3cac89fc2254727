"""Batch orders of many clients at once, as places in one list of training rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl import rng
from crfl.config import Local
from crfl.engines.base import local_steps

IntArray = npt.NDArray[np.int64]


class BatchOrders:
    """Draws the batches of a round: each client's order comes from (seed, round, client, epoch) alone."""

    def __init__(self, sizes: IntArray, local: Local, seed: int) -> None:
        """`sizes` (N,): samples of each client; its rows come one after the other, client by client."""
        self.sizes, self.local, self.seed = sizes, local, seed
        self.steps = local_steps(sizes, local)
        """tau_i: local steps a round of each client, (N,)."""
        self.max_batch = min(local.batch_size, int(sizes.max()))
        """Samples of the largest batch of all clients."""
        self.first_batches = np.minimum(sizes, local.batch_size)
        """Samples of each client's first batch, (N,)."""
        self.offsets = np.cumsum(sizes) - sizes
        """Place of each client's first row, (N,)."""

    def draw(self, clients: IntArray, round_: int) -> tuple[npt.NDArray[np.int32], IntArray]:
        """Places of all samples of a round, (batches, width), and the number of each client's first batch.

        The width is the largest batch of these clients; -1 pads batches that are not full. An order does not depend on
        who else is listed.
        """
        steps, sizes = self.steps[clients], self.sizes[clients]
        width = min(self.local.batch_size, int(sizes.max()))
        first, offsets = np.cumsum(steps) - steps, self.offsets[clients]
        batches = np.empty((int(steps.sum()), width), dtype=np.int32)
        for epoch in range(self.local.epochs):
            keys = rng.keys(self.seed, "batches", round_, clients, epoch)
            for size in np.unique(sizes).tolist():
                members = np.flatnonzero(sizes == size)
                places = offsets[members, None] + rng.shuffles(keys[members], size)
                count = int(steps[members[0]]) // self.local.epochs
                if count * width > size:
                    places = np.pad(places, ((0, 0), (0, count * width - size)), constant_values=-1)
                numbers = first[members, None] + np.arange(epoch * count, (epoch + 1) * count)
                batches[numbers] = places[:, : count * width].reshape(len(members), count, width)
        return batches, first

    def first_places(self, clients: IntArray, round_: int) -> slice | IntArray:
        """Places of the samples of single-step clients (k,), client by client; in order where those are all it has."""
        offsets, sizes = self.offsets[clients], self.first_batches[clients]
        drawn = sizes < self.sizes[clients]
        if not drawn.any() and (offsets[1:] == offsets[:-1] + sizes[:-1]).all():
            return slice(int(offsets[0]), int(offsets[-1] + sizes[-1]))
        places = np.repeat(offsets - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
        if drawn.any():  # full batches
            places[np.repeat(drawn, sizes)] = self.draw(clients[drawn], round_)[0].flatten()
        return places
