"""Settings that are sound alone but not together."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from crfl.config.attack import Attack
from crfl.config.problems import Conflict, cut, listed, shown
from crfl.config.sections import Ensemble, Features, Local, Server, UpdateClip

if TYPE_CHECKING:
    from crfl.config import Experiment


def conflicts(e: Experiment) -> Iterator[Conflict]:
    """All conflicts of an experiment."""
    n = e.data.num_clients
    yield from _when(e.attack, e.server.rounds)
    yield from _who(e.attack, n, e.data.clients if isinstance(e.data.clients, tuple) else ())
    yield from _how(e.attack, e.local.batch_size)
    yield from _split(e.attack)
    yield from _names(e.attack)
    yield from _rule(e.server, n)
    yield from _decay(e.local, e.server)
    yield from _features(e.features)
    yield from _groups(e.ensemble, n)
    rates = e.local.learning_rate
    if isinstance(rates, tuple) and len(rates) != n:
        yield (
            ("local.learning_rate", "data.clients"),
            f"local.learning_rate: got {len(rates)} numbers, expected one, or one for each of the {n} data.clients",
        )


def _groups(ensemble: Ensemble, n: int) -> Iterator[Conflict]:
    groups, size = ensemble.groups, ensemble.clients_per_group
    if size is None and groups is not None and groups > n:
        yield (
            ("ensemble.groups", "data.clients"),
            f"ensemble.groups: got {groups}, expected 1 to the number of data.clients = {n}, or null",
        )
    if size is not None and size > n:
        yield (
            ("ensemble.clients_per_group", "data.clients"),
            f"ensemble.clients_per_group: got {size}, expected 1 to the number of data.clients = {n}, or null",
        )
    if size is not None and groups is None:
        yield (
            ("ensemble.clients_per_group", "ensemble.groups"),
            f"ensemble.clients_per_group: got {size}, expected null unless ensemble.groups says how many",
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
        yield ("attack.round",), f"attack.round: got {shown(list(given))}, expected different rounds"
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
        known = set(names)
        absent = [c for c in attack.clients if (c >= n if isinstance(c, int) else bool(known) and c not in known)]
        if absent:
            allowed = f"numbers 0 to {n - 1}" + (f" or names: {listed(names)}" if names else "")
            yield keys, f"attack.clients: got {shown(absent[0])}, expected {allowed}"
        if len(set(attack.clients)) < attack.count:
            yield ("attack.clients",), f"attack.clients: got {shown(list(attack.clients))}, expected different clients"
        if attack.random_clients:
            yield (
                ("attack.random_clients", "attack.clients"),
                "attack.random_clients: got true, expected false where attack.clients lists the attackers",
            )
    if attack.per_attacker and len(attack.per_attacker) != attack.count:
        yield (
            ("attack.per_attacker", "attack.clients"),
            f"attack.per_attacker: got {len(attack.per_attacker)} entries, expected none, or one for each of the "
            f"{attack.count} attack.clients",
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
        yield keys, f"attack.distributed: got true, expected false for a trigger by name ({shown(attack.trigger)})"
    elif len(attack.trigger) < attack.count:
        yield (
            keys,
            f"attack.distributed: got {attack.count} attackers and {len(attack.trigger)} places in attack.trigger, "
            "expected at least one place an attacker",
        )
    if any(own.trigger is not None or own.magnitude is not None for own in attack.per_attacker):
        yield keys, "attack.distributed: got true, expected false where attack.per_attacker has triggers or magnitudes"


def _names(attack: Attack) -> Iterator[Conflict]:
    """Malicious updates are found by name."""
    updates = [("attack", attack.update)]
    updates += [(f"attack.per_attacker.{i}", own.update) for i, own in enumerate(attack.per_attacker)]
    for group, name in updates:
        if name is not None:
            yield from _unknown(f"{group}.update", name, "crfl.attack.malicious", "MALICIOUS")


def _rule(server: Server, n: int) -> Iterator[Conflict]:
    """Aggregation rules are found by name, and some need a number of clients in every round."""
    name, present = server.aggregation, server.participants(n)
    if name == "mean":  # known without looking
        return
    unknown = [*_unknown("server.aggregation", name, "crfl.aggregation", "AGGREGATORS")]
    yield from unknown
    needed = None if unknown else getattr(_known("crfl.aggregation", "AGGREGATORS")[name], "min_clients", None)
    if needed is not None and needed(server) > present:
        fewer = bisect_right(
            range(server.num_byzantine), present, key=lambda f: needed(replace(server, num_byzantine=f))
        )
        keys = ("server.num_byzantine", "server.aggregation", "server.participation", "data.clients")
        if fewer:
            about = f"server.num_byzantine: got {server.num_byzantine}, expected 0 to {fewer - 1} with {name} and"
            yield keys, f"{about} {present} clients a round"
        else:
            about = f"server.aggregation: got {name}, which needs {needed(server)} clients a round, expected a rule for"
            yield keys, f"{about} {present}"


def _known(module: str, table: str) -> dict[str, Any]:
    """What is found by name, the user's own included. Looked up at run time: these modules stand above the settings."""
    return getattr(import_module(module), table)


def _unknown(key: str, name: str, module: str, table: str) -> Iterator[Conflict]:
    known = _known(module, table)
    if name not in known:
        own = f"or one of your own that was added to {module}.{table} (on the command line: --plugin FILE)"
        yield (key,), f"{key}: got {cut(name)!r}, expected {listed(known)}, {own}"


def _decay(local: Local, server: Server) -> Iterator[Conflict]:
    """There is one lambda: of the clients' penalty or of the server's shrinking."""
    keys = ("local.weight_decay", "server.decay")
    if local.weight_decay > 0 and server.decay > 0:
        yield (
            keys,
            f"server.decay: got {server.decay:g}, expected 0 where local.weight_decay is {local.weight_decay:g}: "
            "either the server or the clients shrink the model",
        )
    elif local.schedule == "inverse" and local.weight_decay == server.decay == 0:
        yield (
            ("local.schedule", *keys),
            "local.schedule: got 'inverse', expected 'constant' unless local.weight_decay or server.decay is above 0: "
            "the one that is above 0 is the schedule's lambda",
        )
    clip = server.update_clip
    if isinstance(clip, UpdateClip) and clip.start < clip.end:
        yield (
            ("server.update_clip.start", "server.update_clip.end"),
            f"server.update_clip.start: got {clip.start:g}, expected at least server.update_clip.end = {clip.end:g}",
        )


def _features(features: Features) -> Iterator[Conflict]:
    """Whitening learns its directions from the public samples: n of them span n - 1."""
    if features.whiten is not None and features.public <= features.whiten:
        yield (
            ("features.whiten", "features.public"),
            f"features.whiten: got {features.whiten}, expected null, or fewer than features.public = {features.public}",
        )
