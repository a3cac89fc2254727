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
    """Local updates of some clients in a round of S runs."""

    clients: IntArray
    """(k,) numbers of the clients."""
    updates: Tensor
    """(k, S, P): what each client's local training adds to the global model of each run; with `summed`, (S, P), their
    sum times the weights that the engine was given. Memory that the engine may use again for the next ones."""
    summed: bool = False


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
