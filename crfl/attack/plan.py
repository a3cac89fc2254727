"""Who takes part and who attacks in every round, when and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl import rng
from crfl.attack.malicious import MALICIOUS, as_update
from crfl.attack.triggers import ValidatedTrigger, make_trigger
from crfl.config import Attack, Experiment
from crfl.data.federated import FederatedData
from crfl.errors import DataError

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Attacker:
    """A client that, in an attack round, poisons its batches and scales its update."""

    client: int
    scale: float
    """gamma_i"""
    replaces_model: bool
    """Whether gamma_i is N / R of those who take part, whatever stands there (model replacement, Bagdasaryan et al.)."""
    poisoned_per_batch: int
    """q_B"""
    magnitude: float
    """||delta_i||: how far the trigger moves one of its samples at most, in feature space."""
    target: int
    label_flip: bool
    """Whether poisoned samples get the target label."""
    trigger: ValidatedTrigger
    update: str | None
    """Name of the malicious update that it sends; None: the trained one."""

    def poison(self, data: FederatedData, rows: Tensor, x: Tensor, y: Tensor) -> None:
        """Put the trigger and the target label on the first q_B samples of a batch, in place.

        `rows` (n,) of the training samples; their features x (n, d) in real units; labels y (n,).
        """
        q = min(self.poisoned_per_batch, len(y))
        x[:q] = self.trigger.features(data, rows[:q], x[:q])
        if self.label_flip:
            y[:q] = self.target

    def submitted_update(self, local_update: Tensor, global_model: Tensor, seed: int, round_: int) -> Tensor | None:
        """gamma_i times the trained update (P,), or times the malicious one; None if that is no update."""
        if self.update is None:
            return self.scale * local_update
        generator = rng.stream(seed, "malicious update", round_, self.client)
        update = as_update(MALICIOUS[self.update](local_update.clone(), global_model.clone(), generator), local_update)
        return None if update is None else self.scale * update


@dataclass(frozen=True)
class RoundPlan:
    """Who does what in one round of one run."""

    participants: IntArray
    """Numbers of the clients that take part, rising."""
    attackers: dict[int, Attacker]
    """Those of them that attack, by client."""
    benign: bool
    """Whether this is the benign counterpart: the attackers' data stays clean, and malicious clients send nothing."""

    @property
    def poisoners(self) -> dict[int, Attacker]:
        """The attackers that train on poisoned batches."""
        return {} if self.benign else {c: a for c, a in self.attackers.items() if a.poisoned_per_batch}


class AttackPlan:
    """Who takes part and who attacks in each round of one run. All of it follows from settings and data."""

    def __init__(
        self, exp: Experiment, data: FederatedData, benign: bool = False, clients: IntArray | None = None
    ) -> None:
        """`clients`, rising: those of the run; None: all. SettingsError or DataError if the attack does not fit."""
        self.seed, self.server, self.attack, self.benign = exp.seed, exp.server, exp.attack, benign
        self.clients = np.arange(len(data.shards)) if clients is None else clients
        self.rounds = frozenset(exp.attack.rounds(exp.server.rounds))
        self.all_attackers = _all_attackers(exp, data, self.clients) if self.rounds else ()
        """All attackers of the run, whether they take part in an attack round or not."""

    def round(self, round_: int) -> RoundPlan:
        """The plan of a round; gamma = "replace" becomes N / R of those present."""
        participants = self.participants(round_)
        attackers = {}
        if round_ in self.rounds:
            present = [a for a in self.all_attackers if a.client in participants]
            attackers = {a.client: _scaled(a, len(participants), len(present)) for a in present}
        return RoundPlan(participants, attackers, self.benign)

    def participants(self, round_: int) -> IntArray:
        """The clients that take part in a round, rising.

        The draw knows neither data nor attack; attackers whose participation is forced take the places of the last
        drawn.
        """
        count = self.server.participants(len(self.clients))
        if count == len(self.clients):
            return self.clients
        generator = rng.stream(self.seed, "participation", round_)
        order = self.clients[rng.permutation(len(self.clients), generator).numpy()]
        if self.attack.force_participation and round_ in self.rounds:
            forced = np.array([a.client for a in self.all_attackers], dtype=np.int64)
            others = order[~np.isin(order, forced)]
            order = np.concatenate([forced, others[: max(0, count - len(forced))]])
            count = len(order)
        return np.sort(order[:count])

    def attackers(self, round_: int) -> tuple[Attacker, ...]:
        """All attackers in an attack round, () in others; absent ones have the scale that they would have alone."""
        if round_ not in self.rounds:
            return ()
        plan = self.round(round_)
        return tuple(plan.attackers.get(a.client) or _scaled(a, len(plan.participants), 1) for a in self.all_attackers)


def apply_attack(
    plan: RoundPlan, clients: IntArray, updates: Tensor, global_model: Tensor, seed: int, round_: int
) -> tuple[Tensor, list[int]]:
    """The attack on a round's updates: attackers scale theirs by gamma, or replace it by a malicious one.

    Args:
        plan: of the round and run.
        clients: (k,) who trained.
        updates: (k, P) what they trained; not changed.
        global_model: (P,) what the server sent.
        seed: of the run.
        round_: t

    Returns:
        The submitted updates (k, P), and those clients whose malicious update is not P real numbers.
    """
    attacking = np.flatnonzero(np.isin(clients, list(plan.attackers)))
    if not len(attacking):
        return updates, []
    submitted, invalid = updates.clone(), []
    for row in attacking.tolist():
        attacker = plan.attackers[int(clients[row])]
        if plan.benign and attacker.update is not None:
            submitted[row] = 0.0
            continue
        update = attacker.submitted_update(updates[row], global_model, seed, round_)
        if update is None:
            invalid.append(attacker.client)
        else:
            submitted[row] = update
    return submitted, invalid


def _scaled(attacker: Attacker, participants: int, attackers: int) -> Attacker:
    """The attacker with the factor N / R of a round's participants, if it replaces the model."""
    return replace(attacker, scale=participants / attackers) if attacker.replaces_model else attacker


def _all_attackers(exp: Experiment, data: FederatedData, clients: IntArray) -> tuple[Attacker, ...]:
    """All attackers among the clients of a run."""
    found = []
    members = zip(_members(exp.attack, exp.seed, data), exp.attack.individuals, strict=True)
    for number, (client, attack) in enumerate(members):
        if attack.target >= data.num_classes:
            own = attack.target != exp.attack.target
            key = f"attack.per_attacker.{number}.target" if own else "attack.target"
            raise DataError(f"{key}: got {attack.target}, expected 0 to {data.num_classes - 1} in {data.name}")
        if client not in clients:
            continue
        trigger = make_trigger(attack, data, exp.seed)
        found.append(
            Attacker(
                client=client,
                scale=1.0 if attack.scale == "replace" else attack.scale,
                replaces_model=attack.scale == "replace",
                poisoned_per_batch=attack.poisoned_per_batch,
                magnitude=trigger.magnitude(data, client, exp.local.dtype),
                target=attack.target,
                label_flip=attack.labels == "target",
                trigger=trigger,
                update=attack.update,
            )
        )
    return tuple(found)


def _members(attack: Attack, seed: int, data: FederatedData) -> tuple[int, ...]:
    """Numbers of the attackers, in the order of attack.clients."""
    n, names = len(data.shards), data.client_names
    if attack.count > n:
        raise DataError(f"attack.clients: got {attack.count}, expected 0 to {n} clients in the data")
    if isinstance(attack.clients, int):
        if attack.random_clients:
            return tuple(rng.choice(n, attack.clients, rng.stream(seed, "attackers")))
        return tuple(range(attack.clients))
    for client in attack.clients:
        if client not in names and not (isinstance(client, int) and client < n):
            shown = ", ".join(names[:60])
            raise DataError(f"attack.clients: got {client!r}, expected numbers 0 to {n - 1} or names: {shown}")
    members = tuple(c if isinstance(c, int) else names.index(c) for c in attack.clients)
    if len(set(members)) < len(members):
        raise DataError(f"attack.clients: got {list(attack.clients)}, expected different clients")
    return members
