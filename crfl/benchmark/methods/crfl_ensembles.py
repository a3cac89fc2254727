"""FLCert: the vote of disjoint groups (D) and of groups drawn at random (P), against every threat that they cover."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crfl.attack.search import replace_model, targeted_flips, worst_direction
from crfl.attack.search_inputs import optimised_poison, optimised_trigger
from crfl.attack.triggers import Trigger
from crfl.benchmark.attacked import attacking
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.federations import federation
from crfl.certification.certify import certify
from crfl.certification.ensembles.certificate import EnsembleCertificate
from crfl.config import Experiment
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun
from crfl.models.softmax import SoftmaxRegression

__all__ = ["ENTRIES"]

PAPER = "Cao, Jia, Gong, AAAI 2021, arXiv 2102.01854; Cao, Zhang, Jia, Gong (FLCert), TIFS 2022, arXiv 2210.00584"
DISJOINT = (
    "Every client is in one group, dealt before training from the list of clients.",
    "Nobody joins, leaves or poses as several.",
    "The server's own samples set the features.",
)
RANDOM = (
    "Groups are drawn at random, unknown to the clients until training ends.",
    "Nobody poses as several clients.",
    "About the vote of all groups, of which those trained are a sample: alpha = 0.001 for each test sample.",
    "The server's own samples set the features.",
)
VICTIMS, STARTS = 1000, 40
SHARE, SCALE = 0.05, 10.0
"""Of each batch that is poisoned, and factor on the update, in the threat `trigger`."""
TRAINED_AT = {
    "trigger": 1,
    "any content": 50,
    "label flips": 50,
    "replaced samples": 50,
    "clients": 5,
    "client-rounds": 5,
}
"""The strength of each threat at which an attack trains the ensemble anew."""


@dataclass(frozen=True)
class Groups:
    """How clients are grouped."""

    clients: int
    """Of a group."""
    drawn: int | None = None
    """Groups that are drawn at random; None: disjoint ones."""


def settings(task: Task, threat: str, groups: Groups) -> Experiment:
    """The federation, trained in groups as the recipe mnist-ensemble says."""
    number = -(-len(task.data.shards) // groups.clients) if groups.drawn is None else groups.drawn
    if task.smoke and groups.drawn is not None:
        number = min(number, 100)
    size = None if groups.drawn is None else groups.clients
    return federation(task.data_name, threat, task.seed).override(
        {
            "local": {"batch_size": 100_000, "keep_last_batch": True, "learning_rate": 200.0, "schedule": "inverse"},
            "server": {"rounds": 40, "evaluate_every": 40, "decay": 3e-4, "update_clip": None},
            "attack.round": None,
            "ensemble": {"groups": number, "clients_per_group": size},
        }
    )


@lru_cache(maxsize=1)
def trained(task: Task, threat: str, groups: Groups) -> EnsembleRun:
    """The ensemble without an attack."""
    return train_ensemble(settings(task, threat, groups), task.data)


def run(task: Task, threat: str, groups: Groups) -> Outcome:
    """Theorem 1 of disjoint groups, theorems 4 and 5 of random ones; the threat says what a spoiled group costs."""
    start = time.process_time()
    trained.cache_clear()  # what another row trained is no part of this one's time
    ensemble = trained(task, threat, groups)
    cert = certify(ensemble, task.data)
    strength = np.where(cert.abstained, -1.0, STRENGTH[threat](cert))
    seconds = time.process_time() - start
    return Outcome(cert.prediction, strength, len(ensemble.groups), task.data.public_samples, seconds)


STRENGTH: dict[str, Callable[[EnsembleCertificate], npt.NDArray[Any]]] = {
    "clients": lambda cert: cert.malicious_clients,
    "client-rounds": lambda cert: cert.malicious_clients,
    "label flips": lambda cert: cert.malicious_clients,
    "replaced samples": lambda cert: cert.malicious_clients,
    "any content": lambda cert: np.where(cert.malicious_clients >= 1, np.inf, 0.0),
    "trigger": lambda cert: np.where(cert.malicious_clients >= 1, np.inf, 0.0),
}
"""What is certified if so many clients may do anything: poison is of one client, and a sample belongs to one."""


def attack_clients(task: Task, strength: float, threat: str, groups: Groups) -> IntArray:
    """One malicious client in each of as many groups, which replaces the group's model in the last round.

    A linear model that says b of one sample exists for each b, so each sample is also taken by itself: that many votes
    of those that stand against b change to b. And once for all samples: the mean model with its classes shifted.
    """
    ensemble = trained(task, threat, groups)
    votes = ensemble.votes(task.data.test)
    count = int(strength)
    malicious = _one_of_each(ensemble, count)
    alone = changed_votes(votes, ensemble.num_classes, _spoiled(ensemble, malicious, votes, groups))
    if groups.drawn is not None or strength != TRAINED_AT[threat]:
        return alone
    weights = ensemble.params.double().mean(0).view(ensemble.num_classes, -1)
    target = weights.roll(1, dims=0).flatten()
    exp = ensemble.experiment
    changes: dict[str, Any] = {
        "attack.round": exp.server.rounds,
        "attack.clients": malicious,
        "attack.update": "replace",
    }
    changes |= {"attack.scale": 1.0, "attack.poisoned_per_batch": 0}
    with attacking(updates={"replace": replace_model(target, float(groups.clients))}):
        found = train_ensemble(exp.override(changes), task.data)
    return np.stack([alone, found.predict(task.data.test)])


def attack_poison(task: Task, strength: float, threat: str, groups: Groups) -> IntArray | None:
    """In the last round: the image or the trigger whose poison, by ascent through the map, hurts the client's group."""
    if strength != TRAINED_AT[threat]:
        return None
    ensemble = trained(task, threat, groups)
    data, exp, model = task.data, ensemble.experiment, ensemble.model
    assert isinstance(model, SoftmaxRegression)
    own = next(g for g, members in enumerate(ensemble.groups) if 0 in members)
    params = ensemble.params[own].double()
    direction = worst_direction(model, params, data.test.x[:VICTIMS], data.test.y[:VICTIMS], float(params.norm()))
    size, rows = data.sizes[0], data.shards[0][:STARTS].tolist()
    if threat == "trigger":
        delta, label = optimised_trigger(data, model, params, direction, rows, norm=strength)
        poisoned, scale = max(1, round(SHARE * size)), SCALE
        plant: Trigger = lambda x: x + delta.to(x)  # noqa: E731
    else:
        image, label = optimised_poison(data, model, params, direction, rows)
        poisoned, scale = min(int(strength), size), 1.0
        plant = lambda x: image.to(x).expand_as(x)  # noqa: E731
    changes: dict[str, Any] = {
        "attack.round": exp.server.rounds,
        "attack.clients": 1,
        "attack.target": label,
        "attack.scale": scale,
    }
    changes |= {"attack.poisoned_per_batch": poisoned, "attack.trigger": "poison"}
    with attacking(triggers={"poison": plant}):
        return train_ensemble(exp.override(changes), data).predict(data.test)


def attack_labels(task: Task, strength: float, threat: str, groups: Groups) -> IntArray | None:
    """The labels whose change pushes the mean of the groups' models farthest where it hurts, changed in all rounds."""
    if strength != TRAINED_AT[threat]:
        return None
    ensemble = trained(task, threat, groups)
    data, model = task.data, ensemble.model
    assert isinstance(model, SoftmaxRegression)
    params = ensemble.params.double().mean(0)
    x, y = data.test.x[:VICTIMS], data.test.y[:VICTIMS]
    direction = worst_direction(model, params, x, y, float(params.norm()) / 2)
    rows = torch.cat(data.shards)
    chosen, labels = targeted_flips(model, data.features(rows), data.y[rows], direction, int(strength))
    changed = data.y.clone()
    changed[rows[chosen]] = labels
    return train_ensemble(ensemble.experiment, replace(data, y=changed)).predict(data.test)


def changed_votes(votes: IntArray, num_classes: int, spoiled: IntArray) -> IntArray:
    """What each sample's vote becomes if the `spoiled` (m,) groups that stand against a class vote for it.

    Args:
        votes: (m, G) classes.
        num_classes: C
        spoiled: How many groups vote as the attacker likes, (m,): whichever of them hurt most.

    Returns:
        Classes (m,): another one than before if any can be had; of classes that tie, the smallest wins.
    """
    counts = np.zeros((len(votes), num_classes), dtype=np.int64)
    np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
    before = counts.argmax(1)
    found = before.copy()
    rows = np.arange(len(votes))
    for b in range(num_classes):
        after = counts.copy()
        moved = np.minimum(spoiled, after[rows, before])
        after[rows, before] -= moved
        after[rows, b] += moved
        won = (after.argmax(1) == b) & (before != b)
        found[won] = b
    return found


def _spoiled(ensemble: EnsembleRun, malicious: list[int], votes: IntArray, groups: Groups) -> IntArray:
    """How many groups have a malicious client: of disjoint ones any that many, of random ones those that they hit."""
    if groups.drawn is None:
        return np.full(len(votes), len(malicious))
    hit = np.array([bool(set(members.tolist()) & set(malicious)) for members in ensemble.groups])
    first = votes[:, hit] == _winner(votes, ensemble.num_classes)[:, None]
    return first.sum(1)


def _winner(votes: IntArray, classes: int) -> IntArray:
    counts = np.stack([(votes == c).sum(1) for c in range(classes)], axis=1)
    found: IntArray = counts.argmax(1)
    return found


def _one_of_each(ensemble: EnsembleRun, count: int) -> list[int]:
    """A client of each of `count` groups; as many different ones as there are."""
    firsts = dict.fromkeys(int(members[0]) for members in ensemble.groups)
    return list(firsts)[:count]


def _entry(name: str, threat: str, groups: Groups, attack: Callable[..., IntArray | None]) -> Entry:
    """A row; disjoint groups are certain, random ones are not."""
    sound = groups.drawn is None
    return Entry(
        name,
        PAPER,
        threat,
        "sound" if sound else "statistical",
        DISJOINT if sound else RANDOM,
        partial(run, threat=threat, groups=groups),
        partial(attack, threat=threat, groups=groups),
    )


ENTRIES = (
    _entry("FLCert-D, groups of 1", "trigger", Groups(1), attack_poison),
    _entry("FLCert-D, groups of 1", "any content", Groups(1), attack_poison),
    _entry("FLCert-D, groups of 1", "client-rounds", Groups(1), attack_clients),
    _entry("FLCert-D, groups of 5", "clients", Groups(5), attack_clients),
    _entry("FLCert-D, groups of 2", "clients", Groups(2), attack_clients),
    _entry("FLCert-P, 500 groups of 5", "clients", Groups(5, 500), attack_clients),
    _entry("FLCert-D, groups of 2", "label flips", Groups(2), attack_labels),
    _entry("FLCert-D, groups of 2", "replaced samples", Groups(2), attack_labels),
)
