"""What Algorithm 1 asks of an engine: the clients' local updates in a round, in whatever way is fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl.attack.plan import RoundPlan
from crfl.config import Local

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClientUpdates:
    """Local updates of some clients in a round of S runs."""

    clients: IntArray
    """(k,) numbers of the clients."""
    updates: Tensor
    """(k, S, P): what each client's local training adds to the global model of each run; with `runs`, (k, P), of that
    run alone; with `summed`, (S, P), their sum times the weights that the engine was given. Memory that the engine may
    use again for the next ones."""
    runs: IntArray | None = None
    """(k,): the one run that each update is for, rising; None: all of them."""
    summed: bool = False

    def by_run(self) -> Iterator[tuple[int, IntArray, Tensor]]:
        """Each run, the clients (j,) with an update for it, and these updates (j, P)."""
        if self.runs is None:
            for run in range(self.updates.shape[1]):
                yield run, self.clients, self.updates[:, run]
            return
        starts = np.flatnonzero(np.diff(self.runs, prepend=-1))
        for start, end in pairwise([*starts.tolist(), len(self.runs)]):
            yield int(self.runs[start]), self.clients[start:end], self.updates[start:end]


class Engine(Protocol):
    """Runs the local training of a federation's clients."""

    def local_updates(
        self,
        global_models: Tensor,
        round_: int,
        learning_rate_cap: float,
        plans: Sequence[RoundPlan],
        weights: Tensor | None = None,
    ) -> Iterator[ClientUpdates]:
        """The updates of every client that takes part in the round in some run, some clients at a time.

        Args:
            global_models: z_t, (S, P): what the server of each run sent.
            round_: t
            learning_rate_cap: eta_{i,t} = min(eta_i, this).
            plans: who takes part in each run, and who trains on poisoned batches.
            weights: (N,) of all clients if every run needs only the same weighted sum of the updates; the engine may
                then add some of them up.
        """


def local_steps(sizes: IntArray, local: Local) -> IntArray:
    """tau_i: local steps a round of clients with so many samples (N,)."""
    whole = -(-sizes // local.batch_size) if local.keep_last_batch else sizes // local.batch_size
    return whole * local.epochs
