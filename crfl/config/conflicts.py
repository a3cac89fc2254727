"""Settings that are sound alone but not together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from crfl.config.sections import Attack, Server

if TYPE_CHECKING:
    from crfl.config import Experiment

Conflict = tuple[tuple[str, ...], str]
"""The keys involved, and a sentence."""


def conflicts(e: Experiment) -> Iterator[Conflict]:
    """All conflicts of an experiment."""
    n = e.data.num_clients
    yield from _when(e.attack, e.server.rounds)
    yield from _who(e.attack, n, e.data.clients if isinstance(e.data.clients, tuple) else ())
    yield from _how(e.attack, e.local.batch_size)
    yield from _split(e.attack)
    yield from _rule(e.server, n)
    rates = e.local.learning_rate
    if isinstance(rates, tuple) and len(rates) != n:
        yield (
            ("local.learning_rate", "data.clients"),
            f"local.learning_rate: got {len(rates)} numbers, expected one, or one for each of the {n} data.clients",
        )


def _when(attack: Attack, last: int) -> Iterator[Conflict]:
    several = isinstance(attack.round, tuple)
    given = attack.round if isinstance(attack.round, tuple) else (attack.round,)
    late = [t for t in given if t is not None and t > last]
    if late:
        yield (
            ("attack.round", "server.rounds"),
            f"attack.round: got {late[0]}, expected 1 to server.rounds = {last}, or null",
        )
    if len(set(given)) < len(given):
        yield ("attack.round",), f"attack.round: got {list(given)}, expected different rounds"
    if attack.every is not None and (several or attack.round is None):
        yield (
            ("attack.every", "attack.round"),
            f"attack.every: got {attack.every}, expected null unless attack.round is one round, the first",
        )


def _who(attack: Attack, n: int, names: tuple[str, ...]) -> Iterator[Conflict]:
    keys = ("attack.clients", "data.clients")
    if attack.count > n:
        yield keys, f"attack.clients: got {attack.count}, expected 0 to the number of data.clients = {n}"
    if not isinstance(attack.clients, int):
        absent = [c for c in attack.clients if (c >= n if isinstance(c, int) else bool(names) and c not in names)]
        if absent:
            allowed = f"numbers 0 to {n - 1}" + (f" or names: {', '.join(names)}" if names else "")
            yield keys, f"attack.clients: got {absent[0]!r}, expected {allowed}"
        if len(set(attack.clients)) < attack.count:
            yield ("attack.clients",), f"attack.clients: got {list(attack.clients)}, expected different clients"
        if attack.random_clients:
            yield (
                ("attack.random_clients", "attack.clients"),
                "attack.random_clients: got true, expected false where attack.clients lists the attackers",
            )
    if attack.per_attacker and len(attack.per_attacker) != attack.count:
        yield (
            ("attack.per_attacker", "attack.clients"),
            f"attack.per_attacker: got {len(attack.per_attacker)} entries, expected none, or one for each of the {attack.count} "
            "attack.clients",
        )


def _how(attack: Attack, batch_size: int) -> Iterator[Conflict]:
    found = [("attack", attack.poisoned_per_batch)]
    found += [(f"attack.per_attacker.{i}", own.poisoned_per_batch or 0) for i, own in enumerate(attack.per_attacker)]
    for group, poisoned in found:
        if poisoned > batch_size:
            yield (
                (f"{group}.poisoned_per_batch", "local.batch_size"),
                f"{group}.poisoned_per_batch: got {poisoned}, expected 0 to local.batch_size = {batch_size}",
            )
    triggers = [("attack", attack.trigger)]
    triggers += [(f"attack.per_attacker.{i}", own.trigger or ()) for i, own in enumerate(attack.per_attacker)]
    for group, trigger in triggers:
        if not isinstance(trigger, str) and len(set(trigger)) < len(trigger):
            yield (f"{group}.trigger",), f"{group}.trigger: got a place twice, expected different places"


def _split(attack: Attack) -> Iterator[Conflict]:
    if not attack.distributed:
        return
    keys = ("attack.distributed", "attack.trigger", "attack.clients", "attack.per_attacker")
    if isinstance(attack.trigger, str):
        yield keys, f"attack.distributed: got true, expected false for a trigger by name ({attack.trigger!r})"
    elif len(attack.trigger) < attack.count:
        yield (
            keys,
            f"attack.distributed: got {attack.count} attackers and {len(attack.trigger)} places in attack.trigger, "
            "expected at least one place an attacker",
        )
    if any(own.trigger is not None or own.magnitude is not None for own in attack.per_attacker):
        yield keys, "attack.distributed: got true, expected false where attack.per_attacker has triggers or magnitudes"


def _rule(server: Server, n: int) -> Iterator[Conflict]:
    """Trimmed mean needs n > 2 f clients a round, Krum n > 2 f + 2 (Blanchard et al. 2017)."""
    spare = {"trimmed_mean": 1, "krum": 3, "multi_krum": 3}.get(server.aggregation)
    present = server.participants(n)
    if spare is not None and present < 2 * server.num_byzantine + spare:
        most = (present - spare) // 2
        allowed = f"0 to {most}" if most >= 0 else "none: too few clients"
        yield (
            ("server.num_byzantine", "server.aggregation", "server.participation", "data.clients"),
            f"server.num_byzantine: got {server.num_byzantine}, expected {allowed} with {server.aggregation} and {present} "
            "clients a round",
        )
