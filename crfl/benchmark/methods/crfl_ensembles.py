"""FLCert: the vote of disjoint groups (D) and of groups drawn at random (P), against every threat that they cover."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.attack.search import replace_model, worst_direction
from crfl.attack.search_inputs import optimised_poison, optimised_trigger
from crfl.attack.triggers import Trigger
from crfl.benchmark.attacked import affordable, attacking
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.federations import MANY_CLIENTS, federation
from crfl.benchmark.union import flip_labels
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

    @property
    def name(self) -> str:
        """As in a table."""
        kind = "FLCert-D," if self.drawn is None else f"FLCert-P, {self.drawn}"
        return f"{kind} groups of {self.clients}"


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


@lru_cache(maxsize=4)
def trained(task: Task, threat: str, groups: Groups) -> tuple[EnsembleRun, float]:
    """The ensemble without an attack, and CPU seconds. Threats that are tried on one federation ask for the same."""
    start = time.process_time()
    ensemble = train_ensemble(settings(task, threat, groups), task.data)
    return ensemble, time.process_time() - start


def run(task: Task, groups: Groups, threat: str) -> Outcome:
    """Theorem 1 of disjoint groups, theorems 4 and 5 of random ones; the threat says what a spoiled group costs."""
    ensemble, seconds = trained(task, tried_on(threat), groups)
    start = time.process_time()
    cert = certify(ensemble, task.data)
    strength = np.where(cert.abstained, -1.0, STRENGTH[threat](cert))
    seconds += time.process_time() - start
    return Outcome(cert.prediction, strength, len(ensemble.groups), task.data.public_samples, seconds)


def tried_on(threat: str) -> str:
    """The first of the threats that are tried on the same federation."""
    return "clients" if threat in MANY_CLIENTS else "trigger"


STRENGTH: dict[str, Callable[[EnsembleCertificate], npt.NDArray[Any]]] = {
    "clients": lambda cert: cert.malicious_clients,
    "client-rounds": lambda cert: cert.malicious_clients,
    "label flips": lambda cert: cert.malicious_clients,
    "replaced samples": lambda cert: cert.malicious_clients,
    "any content": lambda cert: np.where(cert.malicious_clients >= 1, np.inf, 0.0),
    "trigger": lambda cert: np.where(cert.malicious_clients >= 1, np.inf, 0.0),
}
"""What is certified if so many clients may do anything: poison is of one client, and a sample belongs to one."""


def attack_clients(task: Task, strength: float, threat: str, choice: Choice) -> IntArray:
    """One malicious client in each of as many groups, which replaces the group's model in the last round.

    A linear model that says b of one sample exists for each b, so each sample is also taken by itself: that many votes
    of those that stand against b change to b. And once for all samples: the mean model with its classes shifted.
    """
    groups: Groups = choice.of(task.data_name)
    ensemble, _ = trained(task, tried_on(threat), groups)
    votes = ensemble.votes(task.data.test)
    count = int(strength)
    malicious = _one_of_each(ensemble, count) if groups.drawn is None else list(range(count))  # who knows no group
    alone = changed_votes(votes, ensemble.num_classes, _spoiled(ensemble, malicious, votes, groups))
    if groups.drawn is not None or not affordable(task.data, strength, once=TRAINED_AT[threat]):
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


def attack_poison(task: Task, strength: float, threat: str, choice: Choice) -> IntArray | None:
    """In the last round: the image or the trigger whose poison, by ascent through the map, hurts the client's group."""
    if not affordable(task.data, strength, once=TRAINED_AT[threat]):
        return None
    return poisoned(task, trained(task, tried_on(threat), choice.of(task.data_name))[0], threat, strength)


def poisoned(task: Task, ensemble: EnsembleRun, threat: str, strength: float) -> IntArray:
    """Predictions (m,) after the first client was poisoned in the last round."""
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


def attack_labels(task: Task, strength: float, threat: str, choice: Choice) -> IntArray | None:
    """The labels whose change pushes the mean of the groups' models farthest where it hurts, changed in all rounds."""
    if not affordable(task.data, strength, once=TRAINED_AT[threat]):
        return None
    return _flipped(task, tried_on(threat), choice.of(task.data_name), int(strength))


@lru_cache(maxsize=4)
def _flipped(task: Task, threat: str, groups: Groups, count: int) -> IntArray:
    """Predictions (m,) after label flips; two threats ask for the same."""
    ensemble, _ = trained(task, threat, groups)
    data = flip_labels(task.data, count, ensemble.params.double().mean(0))
    return train_ensemble(ensemble.experiment, data).predict(data.test)


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


def _rows(threat: str, choice: Choice, attack: Callable[..., IntArray | None]) -> list[Entry]:
    """A row for each of the chosen sizes, on the data sets for which it was; disjoint groups are certain, random ones are not."""
    return [
        Entry(
            groups.name,
            PAPER,
            threat,
            "sound" if groups.drawn is None else "statistical",
            DISJOINT if groups.drawn is None else RANDOM,
            choice,
            partial(attack, threat=threat, choice=choice),
            tuple(name for name, chosen in choice.chosen.items() if chosen == groups),
        )
        for groups in sorted(set(choice.chosen.values()), key=lambda groups: groups.clients)
    ]


def _choice(threat: str, grid: tuple[Groups, ...], chosen: dict[str, Groups]) -> Choice:
    return Choice(partial(run, threat=threat), grid, chosen, default=grid[0])


FEW = tuple(Groups(size) for size in (1, 2, 4))
MANY = tuple(Groups(size) for size in (1, 2, 5, 10))
DRAWN = tuple(Groups(size, 500) for size in (2, 5, 20))
ONE_ROUND = {"digits": FEW[1], "loan": FEW[1], "mnist": FEW[0], "emnist": FEW[0], "cifar10": FEW[0]}
ROUNDS = {"digits": FEW[0], "loan": FEW[0], "mnist": FEW[0], "emnist": FEW[0], "cifar10": FEW[0]}
CLIENTS = {"digits": MANY[0], "loan": MANY[0], "mnist": MANY[2], "emnist": MANY[2], "cifar10": MANY[2]}
RUNNER_UP = {"mnist": MANY[1]}
SAMPLES = {"digits": MANY[0], "loan": MANY[0], "mnist": MANY[1], "emnist": MANY[1], "cifar10": MANY[1]}
AT_RANDOM = {"digits": DRAWN[1], "loan": DRAWN[1], "mnist": DRAWN[1], "emnist": DRAWN[1], "cifar10": DRAWN[1]}
"""Groups by data set: for poison in one round, for client-rounds, for clients, for samples; drawn at random. Chosen on held-out
training samples by benchmarks/choose_rivals.py; EMNIST and CIFAR-10 take MNIST's, and random groups have one size everywhere.
Against clients MNIST has a second row: the scores of the two sizes differ by 0.0002."""

ENTRIES = (
    *_rows("trigger", _choice("trigger", FEW, ONE_ROUND), attack_poison),
    *_rows("any content", _choice("any content", FEW, ONE_ROUND), attack_poison),
    *_rows("client-rounds", _choice("client-rounds", FEW, ROUNDS), attack_clients),
    *_rows("clients", _choice("clients", MANY, CLIENTS), attack_clients),
    *_rows("clients", _choice("clients", MANY, RUNNER_UP), attack_clients),
    *_rows("clients", _choice("clients", DRAWN, AT_RANDOM), attack_clients),
    *_rows("label flips", _choice("label flips", MANY, SAMPLES), attack_labels),
    *_rows("replaced samples", _choice("replaced samples", MANY, SAMPLES), attack_labels),
)
