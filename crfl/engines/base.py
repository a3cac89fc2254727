"""What Algorithm 1 asks of an engine: the clients' local updates in a round, in whatever way is fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl.attack.plan import RoundPlan
from crfl.config import Local

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ClientUpdates:
    """Local updates of some clients in a round."""

    runs: Sequence[int]
    """The r runs for which they are."""
    clients: IntArray
    """(k,) numbers of the clients."""
    updates: Tensor
    """(k, r, P): what each client's local training adds to the global model of each run. The engine may reuse this memory
    once the next updates are asked for."""


@dataclass(frozen=True)
class UpdateSums:
    """Weighted sums of the local updates of some clients, for runs that need no more of them."""

    runs: Sequence[int]
    """The r runs."""
    clients: IntArray
    """(k,) numbers of the clients."""
    totals: Tensor
    """(r, P)"""


class Engine(Protocol):
    """Runs the local training of a federation's clients."""

    def local_updates(
        self,
        global_models: Tensor,
        round_: int,
        learning_rate_caps: Sequence[float],
        plans: Sequence[RoundPlan],
        weights: Sequence[Tensor | None],
        apart: bool = False,
    ) -> Iterator[ClientUpdates | UpdateSums]:
        """The updates of every client that takes part in the round in some run, some clients at a time.

        Args:
            global_models: z_t, (S, P): what the server of each run sent.
            round_: t
            learning_rate_caps: one a run, eta_{i,t} = min(eta_i, this); all the same unless the runs are apart.
            plans: who takes part in each run, and who trains on poisoned batches.
            weights: one a run, the weights (k,) of its participants if the run needs only the weighted sum of their
                updates, else None. The engine may then yield sums.
            apart: train each run by itself, so that nothing of it depends on another run, not even the rounding.

        Returns:
            The updates, some clients at a time, every participant of every run once.
        """


def local_steps(sizes: IntArray, local: Local) -> IntArray:
    """tau_i (N,): local steps in a round of clients with these numbers of samples (N,)."""
    whole = -(-sizes // local.batch_size) if local.keep_last_batch else sizes // local.batch_size
    return whole * local.epochs
