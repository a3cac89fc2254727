"""What one server receives in one round: unusable updates are dropped, the others clipped and aggregated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.aggregation import Rule, validate
from crfl.config import Server
from crfl.devices import to_device
from crfl.errors import TrainingError
from crfl.server import norm, project

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

NOT_FINITE, WRONG_SHAPE = "not finite", "of the wrong shape"
"""Why an update is dropped. Finite means that its norm is, in float64: one of 1e200 would stop the server, too."""


@dataclass(frozen=True)
class ClientStats:
    """What one round of one run leaves to record of its N clients."""

    weights: FloatArray
    """(N,): aggregation weight; 0 of those who were absent or dropped."""
    dropped: dict[int, str]
    """Why the update of a client was dropped."""
    update_norms: FloatArray | None
    """(N,): norm of every update before the server clipped it; None if it does not clip updates."""
    attacker_norms: dict[int, float]
    """Norm of an attacker's update as it was aggregated."""


class RoundAggregator:
    """Collects the submitted updates of one run in one round, some clients at a time.

    A data-independent rule needs only their weighted sum: updates are added up as they come in and then forgotten, so
    ten thousand clients need no more memory than those that are trained together. Other rules get all updates at once,
    in the order of the clients.
    """

    def __init__(
        self,
        *,
        round_: int,
        server: Server,
        rule: Rule,
        clients: IntArray,
        sizes: IntArray,
        attackers: Sequence[int],
        update_clip: float | None,
        like: Tensor,
    ) -> None:
        """`clients` (n,): the participants, rising; `sizes` (N,): samples of all clients; `like` (P,): an update."""
        self.round, self.server, self.rule, self.clients = round_, server, rule, clients
        self.update_clip = update_clip
        self.sizes, self.num_clients = torch.from_numpy(sizes[clients]), len(sizes)
        self.dropped: dict[int, str] = {}
        self.attackers = np.array(attackers, dtype=np.int64)
        self.attacker_norms: dict[int, float] = {}
        self.update_norms = None if update_clip is None else np.zeros(len(sizes))
        independent = rule.data_independent
        self.weights = rule.weights(self.sizes, server) if independent else torch.ones(len(clients)).double()
        """(n,) float64; 1 where the rule finds them itself."""
        self.received = like.new_zeros(1 if independent else len(clients), len(like))
        """The weighted sum of the updates, (1, P), or all of them, (n, P)."""

    @property
    def needs_only_sum(self) -> bool:
        """Whether the weighted sum of the updates does as well as the updates."""
        return self.rule.data_independent and self.update_clip is None

    def of_participants(self, clients: IntArray, updates: Tensor) -> tuple[IntArray, Tensor]:
        """Those of the clients (k,), and of their updates (k, P), that take part in this run."""
        if len(self.clients) == self.num_clients:
            return clients, updates
        present = np.isin(clients, self.clients)
        return (clients, updates) if present.all() else (clients[present], updates[present])

    def add(self, clients: IntArray, updates: Tensor) -> None:
        """Take the updates (k, P) of some of the participants (k,)."""
        rows = np.searchsorted(self.clients, clients)
        used = updates if self.update_clip is None else project(updates, self.update_clip)
        total = self._weighted_sum(rows, used)
        known = np.isin(clients, list(self.dropped)) if self.dropped else np.zeros(len(clients), dtype=bool)
        if known.any() or not torch.isfinite(norm(total)).all():  # else every update is finite
            good = torch.isfinite(norm(updates)).cpu().numpy() & ~known
            self.dropped.update(dict.fromkeys(clients[~good & ~known].tolist(), NOT_FINITE))
            clients, rows, updates = clients[good], rows[good], updates[good]
            used = updates if self.update_clip is None else project(updates, self.update_clip)
            total = self._weighted_sum(rows, used)
        if self.rule.data_independent:
            self.received += total
        else:
            self.received[rows] = used
        if self.update_norms is not None:
            self.update_norms[clients] = norm(updates).cpu().numpy()
        attacking = np.isin(clients, self.attackers)
        if attacking.any():
            norms = norm(used[attacking]).tolist()
            self.attacker_norms.update(zip(clients[attacking].tolist(), norms, strict=True))

    def add_sum(self, total: Tensor) -> None:
        """Take the weighted sum (P,) of the updates of some of the participants, all of them finite."""
        self.received += total

    def drop(self, client: int, reason: str) -> None:
        """Drop whatever comes from a client."""
        self.dropped[client] = reason

    def aggregate(self) -> tuple[Tensor, ClientStats]:
        """The aggregated update (P,), and what is to be recorded of the clients.

        The weights of those who were dropped are shared out among the others. TrainingError if nobody is left, too few
        for the rule, or if the rule returns something else than it should.
        """
        kept = torch.from_numpy(~np.isin(self.clients, list(self.dropped)))
        self._check_quorum(kept)
        weights = torch.zeros(len(kept), dtype=torch.float64)
        if self.rule.data_independent:
            weights[kept] = self.weights[kept]
            total = float(self.weights.sum()) / float(weights.sum()) if not kept.all() else 1.0
            weights, update = weights * total, self.received[0] * total
        else:
            updates = self.received if kept.all() else self.received[kept]
            aggregate = self.rule.function(updates, self.sizes[kept].to(updates.device), self.server)
            aggregate = validate(aggregate, updates, self.server.aggregation)
            update, weights[kept] = aggregate.update.to(updates.dtype), aggregate.weights.double().cpu()
        return update, self._stats(weights.numpy())

    def _check_quorum(self, kept: Tensor) -> None:
        """TrainingError if too few updates are left, of the participants that are kept (n,)."""
        if not self.weights[kept].any():
            raise TrainingError(
                f"round {self.round}: no update is left to aggregate, {len(self.dropped)} of {len(kept)} clients were "
                "dropped and the others, if any, weigh nothing; if training diverges, lower local.learning_rate or "
                "attack.scale. A run folder keeps the rounds before and goes on from there"
            )
        count, needed = int(kept.sum()), self.rule.min_clients(self.server)
        if count < needed:
            raise TrainingError(
                f"round {self.round}: server.aggregation {self.server.aggregation} with server.num_byzantine = "
                f"{self.server.num_byzantine} needs {needed} clients in every round, got {count} "
                f"({len(self.dropped)} were dropped); lower server.num_byzantine or raise server.participation"
            )

    def _stats(self, weights: FloatArray) -> ClientStats:
        by_client = np.zeros(self.num_clients)
        by_client[self.clients] = weights
        return ClientStats(by_client, self.dropped, self.update_norms, self.attacker_norms)

    def _weighted_sum(self, rows: IntArray, updates: Tensor) -> Tensor:
        return to_device(self.weights[rows].to(updates.dtype), updates.device) @ updates


def shared_weights(aggregators: Sequence[RoundAggregator]) -> Tensor | None:
    """The weights (N,) of all clients if every run needs only the same weighted sum, else None."""
    first = aggregators[0]
    for other in aggregators:
        alike = np.array_equal(first.clients, other.clients) and torch.equal(first.weights, other.weights)
        if not (alike and other.needs_only_sum):
            return None
    weights = torch.zeros(first.num_clients, dtype=torch.float64)
    weights[first.clients] = first.weights
    return weights


def potential_weights(
    rule: Rule, server: Server, weights: FloatArray, sizes: IntArray, clients: IntArray
) -> FloatArray:
    """The weight that each of `clients` (k,) has whenever it takes part in a round with these weights (N,).

    Its own if it did; else that of one who takes the place of the participant with the largest weight. 1 under a rule
    whose weights depend on the updates.
    """
    found = weights[clients].copy()
    present = np.flatnonzero(weights)
    for row in np.flatnonzero(found == 0):
        if not rule.data_independent:
            found[row] = 1.0
            continue
        others = np.delete(present, np.argmax(weights[present])) if len(present) else present
        joined = torch.from_numpy(sizes[np.append(others, clients[row])])
        found[row] = float(rule.weights(joined, server)[-1])
    return found

