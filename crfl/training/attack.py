"""Who attacks, when and how strongly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.training.triggers import Trigger, make_trigger


@dataclass(frozen=True)
class Attacker:
    """A client that, in an attack round, poisons its batches and scales its update."""

    client: int
    scale: float
    """gamma_i"""
    poisoned_per_batch: int
    """q_B"""
    magnitude: float
    """||delta_i||"""
    target: int
    trigger: Trigger

    def poison(self, x: Tensor, y: Tensor) -> None:
        """Put the trigger and the target label on the first q_B samples of a batch x (n, d), y (n,), in place."""
        q = min(self.poisoned_per_batch, len(y))
        x[:q] = self.trigger(x[:q])
        y[:q] = self.target


def attackers(exp: Experiment, data: FederatedData) -> dict[int, tuple[Attacker, ...]]:
    """The attackers of each attack round. SettingsError if the trigger does not fit the data."""
    attack = exp.attack
    if attack.round is None or not attack.active:
        return {}
    trigger = make_trigger(exp, data)
    return {
        attack.round: tuple(
            Attacker(client, attack.scale, attack.poisoned_per_batch, attack.magnitude, attack.target, trigger)
            for client in range(attack.clients)
        )
    }
