"""Who takes part and who attacks in every round, when and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl import rng
from crfl.attack.malicious import MALICIOUS, as_update, check_malicious
from crfl.attack.triggers import ValidatedTrigger, make_trigger
from crfl.config import Attack, Experiment
from crfl.data.federated import FederatedData
from crfl.errors import DataError


@dataclass(frozen=True)
class Attacker:
    """A client that, in an attack round, poisons its batches and scales its update."""

    client: int
    scale: float
    """gamma_i; NaN while it is not known who takes part."""
    poisoned_per_batch: int
    """q_B"""
    magnitude: float
    """||delta_i||"""
    target: int
    label_flip: bool
    """Whether poisoned samples get the target label."""
    trigger: ValidatedTrigger
    update: str | None
    """Name of the malicious update that it sends; None: what it learnt."""

    def poison(self, x: Tensor, y: Tensor) -> None:
        """Put the trigger and the target label on the first q_B samples of a batch x (n, d), y (n,), in place."""
        q = min(self.poisoned_per_batch, len(y))
        x[:q] = self.trigger(x[:q])
        if self.label_flip:
            y[:q] = self.target

    def sent(self, learnt: Tensor, model: Tensor, seed: int, round_: int) -> Tensor | None:
        """What it sends: its update (P,) or the malicious one, times gamma; None if that is no update."""
        if self.update is None:
            return self.scale * learnt
        generator = rng.stream(seed, "malicious update", round_, self.client)
        update = as_update(MALICIOUS[self.update](learnt.clone(), model.clone(), generator), learnt)
        return None if update is None else self.scale * update


class Plan:
    """Who takes part and who attacks in each round of one run. All of it follows from settings and data."""

    def __init__(self, exp: Experiment, data: FederatedData) -> None:
        """SettingsError or DataError if the attack does not fit the data."""
        self.seed, self.server, self.attack, self.num_clients = exp.seed, exp.server, exp.attack, len(data.shards)
        self.rounds = frozenset(exp.attack.rounds(exp.server.rounds))
        self.crew = _crew(exp, data) if self.rounds else ()

    def participants(self, round_: int) -> npt.NDArray[np.int64]:
        """The clients that take part in a round, in rising order.

        The draw knows neither data nor attack; attackers who are always present take the places of the last drawn.
        """
        count = self.server.participants(self.num_clients)
        if count == self.num_clients:
            return np.arange(count)
        drawn = rng.permutation(self.num_clients, rng.stream(self.seed, "participation", round_)).numpy()
        if self.attack.force_participation and round_ in self.rounds:
            forced = np.array([a.client for a in self.crew])
            others = drawn[~np.isin(drawn, forced)]
            drawn = np.concatenate([forced, others[: max(0, count - len(forced))]])
            count = len(drawn)
        return np.sort(drawn[:count])

    def attackers(self, round_: int) -> tuple[Attacker, ...]:
        """Those who attack in a round; each takes part in it. gamma = "replace" becomes N / R of those present."""
        if round_ not in self.rounds:
            return ()
        present = self.participants(round_)
        crew = [a for a in self.crew if a.client in present]
        return tuple(replace(a, scale=len(present) / len(crew)) if np.isnan(a.scale) else a for a in crew)


def _crew(exp: Experiment, data: FederatedData) -> tuple[Attacker, ...]:
    """All attackers of a run."""
    crew = []
    for number, (client, attack) in enumerate(
        zip(_members(exp.attack, exp.seed, data), exp.attack.individuals, strict=True)
    ):
        if attack.target >= data.num_classes:
            key = "attack.target" if attack.target == exp.attack.target else f"attack.per_attacker.{number}.target"
            raise DataError(f"{key}: got {attack.target}, expected 0 to {data.num_classes - 1} in {data.name}")
        if attack.update is not None:
            check_malicious(attack.update)
        trigger = make_trigger(attack, data, exp.seed)
        crew.append(
            Attacker(
                client=client,
                scale=np.nan if attack.scale == "replace" else attack.scale,
                poisoned_per_batch=attack.poisoned_per_batch,
                magnitude=trigger.magnitude(data, client),
                target=attack.target,
                label_flip=attack.labels == "target",
                trigger=trigger,
                update=attack.update,
            )
        )
    return tuple(crew)


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
