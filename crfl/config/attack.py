"""The settings of the attack: who attacks, when, how strongly."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

from crfl.config.section import Section, section
from crfl.config.values import Attackers, Count, Labels, Many, Nonnegative, Rounds, Scale, Trigger, Word


@section
class AttackerChanges(Section):
    """Settings of one attacker that differ from those of `attack`; null means: as in `attack`.

    Example:
        >>> AttackerChanges(scale=3.0, labels="keep").changes
        {'scale': 3.0, 'labels': 'keep'}
    """

    scale: Scale | None = None
    """gamma of this attacker."""
    poisoned_per_batch: Count | None = None
    """q_B of this attacker."""
    magnitude: Nonnegative | None = None
    """||delta|| of this attacker's trigger."""
    target: Count | None = None
    """y_target of this attacker."""
    labels: Labels | None = None
    """"target" or "keep", as in attack.labels."""
    trigger: Trigger | None = None
    """This attacker's trigger."""
    update: Word | None = None
    """What this attacker sends in place of its trained update, by name."""

    @property
    def changes(self) -> dict[str, Any]:
        """The settings that are not null."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@section
class Attack(Section):
    """The backdoor: who attacks, when, how strongly.

    Example:
        >>> attack = Attack(round=10, every=5, clients=2, scale=20.0)
        >>> attack.count, attack.rounds(25)
        (2, (10, 15, 20, 25))
    """

    round: Many | Rounds | None = 10
    """t_adv, or several rounds; null means that nobody attacks."""
    every: Many | None = None
    """Attack again in every k-th round from attack.round on; null means that they do not."""
    clients: Count | Attackers = 1
    """R: the first R clients attack; or a list of the attackers, by number (from 0) or name."""
    random_clients: bool = False
    """Draw the R attackers from the seed instead."""
    force_participation: bool = False
    """Whether the attackers take part in attack rounds whatever server.participation draws."""
    scale: Scale = 5.0
    """gamma: factor on the attackers' updates in the attack round; "replace": N / R, of those that take part."""
    poisoned_per_batch: Count = 1
    """q_B: the first q_B samples of each batch are poisoned."""
    magnitude: Nonnegative = 0.1
    """||delta||: l2 norm of the trigger before clamping to the domain; 0 leaves the change of labels alone."""
    target: Count = 0
    """y_target: label of the poisoned samples."""
    labels: Labels = "target"
    """"keep" leaves the poisoned samples their labels (clean-label attack)."""
    trigger: Trigger = ((5, 7), (6, 6), (7, 5), (7, 7))
    """Pixels [row, column] or feature names that share the magnitude evenly, or a name in
    crfl.attack.triggers.TRIGGERS."""
    distributed: bool = False
    """DBA: the trigger's places are dealt out among the attackers; the backdoored test set carries them all."""
    update: Word | None = None
    """What attackers send in place of their trained updates: a name in crfl.attack.malicious.MALICIOUS."""
    per_attacker: tuple[AttackerChanges, ...] = ()
    """Settings of each attacker that differ, in the order of attack.clients; empty, or one entry an attacker."""

    @property
    def active(self) -> bool:
        """Whether anybody attacks at all."""
        return self.round is not None and self.count > 0

    @property
    def count(self) -> int:
        """R"""
        return self.clients if isinstance(self.clients, int) else len(self.clients)

    def rounds(self, last: int) -> tuple[int, ...]:
        """The rounds in which somebody attacks.

        Args:
            last: T, the last round.

        Returns:
            Rounds from 1 to T, rising; () if nobody attacks.
        """
        if self.round is None or not self.active:
            return ()
        given = (self.round,) if isinstance(self.round, int) else self.round
        if self.every is not None:
            given = tuple(range(given[0], last + 1, self.every))
        return tuple(sorted(t for t in given if t <= last))

    @property
    def individuals(self) -> tuple[Attack, ...]:
        """The settings of each of the R attackers: their own values, and under `distributed` their own places."""
        changes = [own.changes for own in self.per_attacker] or [{} for _ in range(self.count)]
        if self.distributed and not isinstance(self.trigger, str):
            for i, own in enumerate(changes):
                own["trigger"] = self.trigger[i :: self.count]
                own["magnitude"] = self.magnitude * math.sqrt(len(own["trigger"]) / len(self.trigger))
        return tuple(replace(self, **own) for own in changes)
