"""One round at the server: updates that are no updates are dropped, the others clipped and aggregated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

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

NOT_FINITE, WRONG_SHAPE, NO_AGGREGATE = "not finite", "of the wrong shape", "of a round without an aggregate"
"""Why an update is dropped. It is finite if its norm is finite in float64."""


@dataclass(frozen=True)
class ClientStats:
    """What is recorded of the n clients of a run in one round."""

    weights: FloatArray
    """(n,): aggregation weight; 0 of those who were absent or dropped."""
    dropped: dict[int, str]
    """Why the update of a client was dropped."""
    update_norms: FloatArray | None
    """(n,): norm of every update before the server clipped it; None if it does not clip updates."""
    attacker_norms: dict[int, float]
    """Norm of an attacker's update as it was aggregated."""

    def sharing(self, before: ClientStats) -> ClientStats:
        """The same statistics; equal weights are kept once for all rounds, as many groups have many rounds."""
        return replace(self, weights=before.weights) if np.array_equal(self.weights, before.weights) else self


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
        members: IntArray,
        sizes: IntArray,
        participants: IntArray,
        attackers: Collection[int],
        update_clip: float | None,
        total: Tensor,
        weights: Tensor | None = None,
    ) -> None:
        """An aggregator that has received nothing.

        Args:
            round_: t
            server: the settings that the rule may read.
            rule: how the updates are aggregated.
            members: (n,) the clients of the run, rising.
            sizes: (n,) their numbers of samples.
            participants: those of them that take part in the round, rising.
            attackers: those whose norms are recorded.
            update_clip: S_t; None: updates are not clipped.
            total: (P,) zeros, for the weighted sum. The caller provides it because it allocates those of all runs at
                once, which fragments the memory less.
            weights: (n,) of a data-independent rule if all take part, where they are known.
        """
        self.round, self.server, self.rule, self.update_clip = round_, server, rule, update_clip
        self.members, self.clients = members, participants
        everybody = len(members) == len(participants)
        self.sizes = torch.from_numpy(sizes if everybody else sizes[np.searchsorted(members, participants)])
        self.dropped: dict[int, str] = {}
        self.attackers = np.array(sorted(attackers), dtype=np.int64)
        self.attacker_norms: dict[int, float] = {}
        self.update_norms = None if update_clip is None else np.zeros(len(members))
        independent = rule.data_independent
        if not independent:
            weights = torch.ones(len(participants), dtype=torch.float64)
        elif weights is None or not everybody:
            weights = rule.weights(self.sizes, server)
        self.weights = weights
        """Of the participants, float64; 1 where the rule derives them from the updates."""
        self.received = total[None] if independent else total.new_zeros(len(participants), len(total))
        """The weighted sum of the updates, (1, P), or all of them."""

    @property
    def needs_only_sum(self) -> bool:
        """Whether the weighted sum of the updates does as well as the updates."""
        return self.rule.data_independent and self.update_clip is None

    def of_participants(self, clients: IntArray, updates: Tensor) -> tuple[IntArray, Tensor]:
        """The clients (k,) without those that do not take part in this run, and their updates (k, P)."""
        if len(self.clients) == len(self.members):
            return clients, updates
        present = np.isin(clients, self.clients)
        return (clients, updates) if present.all() else (clients[present], updates[present])

    def add(self, clients: IntArray, updates: Tensor) -> None:
        """Take the updates (k, P) of some of the participants (k,)."""
        used, norms = updates, None
        if self.update_clip is not None:
            norms = norm(updates)
            used = project(updates, self.update_clip, norms)
        total = self._weighted_sum(clients, used)
        known = np.isin(clients, list(self.dropped)) if self.dropped else np.zeros(len(clients), dtype=bool)
        if known.any() or not torch.isfinite(norm(total)).all():  # else every update is finite
            good = torch.isfinite(norm(updates) if norms is None else norms).cpu().numpy() & ~known
            self.dropped.update(dict.fromkeys(clients[~good & ~known].tolist(), NOT_FINITE))
            clients, used, norms = clients[good], used[good], None if norms is None else norms[good]
            total = self._weighted_sum(clients, used)
        if self.rule.data_independent:
            self.received += total
        else:
            self.received[np.searchsorted(self.clients, clients)] = used
        if norms is not None and self.update_norms is not None:
            self.update_norms[np.searchsorted(self.members, clients)] = norms.cpu().numpy()
        attacking = np.isin(clients, self.attackers) if len(self.attackers) else None
        if attacking is not None and attacking.any():
            sent = norm(used[attacking]).cpu().tolist()
            self.attacker_norms.update(zip(clients[attacking].tolist(), sent, strict=True))

    def add_sum(self, total: Tensor) -> None:
        """Take the weighted sum (P,) of the updates of some of the participants, all of them finite."""
        self.received += total

    def drop(self, client: int, reason: str) -> None:
        """Drop whatever comes from a client."""
        self.dropped[client] = reason

    def aggregate(self) -> tuple[Tensor, ClientStats]:
        """Aggregate what was received. The weights of dropped clients are shared out among the others.

        Returns:
            The aggregated update (P,), and what is recorded of the clients.

        Raises:
            TrainingError: nobody is left, or too few for the rule, or the rule returns no Aggregate of these updates.
        """
        if self.rule.data_independent and not self.dropped:
            self._check_quorum(self.weights)
            return self.received[0], self._stats(self.weights.numpy())
        kept = ~np.isin(self.clients, list(self.dropped))
        rows, weights = torch.from_numpy(kept), torch.zeros(len(kept), dtype=torch.float64)
        self._check_quorum(self.weights[rows])
        if self.rule.data_independent:
            weights[rows] = self.weights[rows]
            share = float(self.weights.sum()) / float(weights.sum())
            return self.received[0] * share, self._stats((weights * share).numpy())
        updates = self.received if kept.all() else self.received[rows]
        aggregate = self.rule.function(updates, self.sizes[rows].to(updates.device), self.server)
        aggregate = validate(aggregate, updates, self.server.aggregation)
        weights[rows] = aggregate.weights.double().cpu()
        return aggregate.update.to(updates.dtype), self._stats(weights.numpy())

    def failure(self) -> tuple[Tensor, ClientStats]:
        """A zero update (P,), where there is no aggregate: every participant counts as dropped."""
        self.dropped = {**dict.fromkeys(self.clients.tolist(), NO_AGGREGATE), **self.dropped}
        return torch.zeros_like(self.received[0]), self._stats(np.zeros(len(self.clients)))

    def _check_quorum(self, weights: Tensor) -> None:
        """TrainingError if too few updates are left, of participants with these weights (k,)."""
        if not weights.any():
            raise TrainingError(
                f"round {self.round}: no update is left to aggregate, {len(self.dropped)} of {len(self.clients)} clients "
                "were dropped and the others, if any, weigh nothing; if training diverges, lower local.learning_rate or "
                "attack.scale. A run folder keeps the rounds before and goes on from there"
            )
        count, needed = len(weights), self.rule.min_clients(self.server)
        if count < needed:
            raise TrainingError(
                f"round {self.round}: server.aggregation {self.server.aggregation} with server.num_byzantine = "
                f"{self.server.num_byzantine} needs {needed} clients in every round, got {count} "
                f"({len(self.dropped)} were dropped); lower server.num_byzantine or raise server.participation"
            )

    def _stats(self, weights: FloatArray) -> ClientStats:
        if len(self.clients) == len(self.members):
            return ClientStats(weights, self.dropped, self.update_norms, self.attacker_norms)
        by_member = np.zeros(len(self.members))
        by_member[np.searchsorted(self.members, self.clients)] = weights
        return ClientStats(by_member, self.dropped, self.update_norms, self.attacker_norms)

    def _weighted_sum(self, clients: IntArray, updates: Tensor) -> Tensor:
        weights = self.weights[np.searchsorted(self.clients, clients)]
        return to_device(weights.to(updates.dtype), updates.device) @ updates


def potential_weights(
    rule: Rule, server: Server, weights: FloatArray, sizes: IntArray, clients: IntArray
) -> FloatArray:
    """The weight that each of some clients (k,) has whenever it takes part in a round with these weights (n,).

    If it took part: its weight. If not: the weight that it would have in place of the participant with the largest
    weight. 1 under a rule whose weights depend on the updates.
    """
    potential = weights[clients].copy()
    present = np.flatnonzero(weights)
    for row in np.flatnonzero(potential == 0):
        if not rule.data_independent:
            potential[row] = 1.0
            continue
        others = np.delete(present, np.argmax(weights[present])) if len(present) else present
        joined = torch.from_numpy(sizes[np.append(others, clients[row])])
        potential[row] = float(rule.weights(joined, server)[-1])
    return potential
