"""Deep partition aggregation: the union's samples are dealt to k partitions, each trains a model, the models vote.

Levine and Feizi, ICLR 2021 (arXiv 2006.14768). A changed sample spoils one vote. The paper's hash of a sample's content is
here one of its place: the client's number and the sample's among the client's own. If samples are replaced, the list of
places stands, so a replacement changes one partition; by content it would change two, and half as many were certified.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from crfl.benchmark.attacked import affordable
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.union import flip_labels, norm_bound
from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, plurality
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun
from crfl.errors import CrflError
from crfl.groups import deal_clients

__all__ = ["ASSUMPTIONS", "ENTRIES", "deal_samples", "partitions_of", "train_partitions", "trained"]

PAPER = "Levine and Feizi, ICLR 2021, https://arxiv.org/abs/2006.14768"
ASSUMPTIONS = (
    "The server trains on the union of all samples.",
    "The number of samples of each client stands before training, whatever they hold.",
    "The attacker has no influence on the feature map.",
)
GRID, MOST = (5, 10, 20, 50, 100), 3000
"""Samples a partition; most partitions, as in the paper's finest split of MNIST."""
RATE, DECAY, ROUNDS = 200.0, 3e-4, 40
"""Largest learning rate, lambda and steps, for features in the unit ball: those of configs/certified/mnist-ensemble.yaml."""
ATTACKED_AT = 50
"""Changed labels at which large data are attacked."""


def partitions_of(data: FederatedData, samples: int) -> int:
    """k, for so many samples a partition. CrflError if it is more than 3,000."""
    found = max(1, sum(data.sizes) // samples)
    if found > MOST:
        raise CrflError(f"partitions: got {found}, expected at most {MOST}")
    return found


def deal_samples(data: FederatedData, partitions: int, seed: int) -> FederatedData:
    """The union of the clients' samples, dealt to so many partitions by a keyed hash of their places.

    Partition p is client p of the result. The dealing knows how many samples each client has, not what they hold.

    Raises:
        SettingsError: there are fewer samples than partitions.

    Example:
        >>> import crfl
        >>> deal_samples(crfl.load_data(crfl.Experiment()), partitions=28, seed=0)
        FederatedData 'digits': 1400 training samples of 28 clients, 397 test samples, 64 features, 10 classes
    """
    places = [f"{client}/{number}" for client, size in enumerate(data.sizes) for number in range(size)]
    dealt, rows = torch.from_numpy(deal_clients(places, partitions, seed)), torch.cat(data.shards)
    shards = tuple(rows[dealt == p] for p in range(partitions))
    names = tuple(f"partition {p}" for p in range(partitions))
    return replace(data, shards=shards, client_names=names, partition=None, dirichlet_alpha=None)


def train_partitions(data: FederatedData, partitions: int, seed: int) -> EnsembleRun:
    """One model of each partition of the union, all trained side by side.

    Softmax regression by full-batch gradient descent, eta_t = min(200, 1 / (3e-4 t)) for features in the unit ball, and
    as much for others once they are divided by the bound of their norm: no sample can change the step.

    Raises:
        CrflError: nothing bounds the features.

    Example:
        >>> import crfl
        >>> train_partitions(crfl.load_data(crfl.Experiment()), partitions=28, seed=0)
        EnsembleRun(custom: 28 disjoint groups of 1 of 28 clients, softmax regression, 40 rounds)
    """
    parts, squared = deal_samples(data, partitions, seed), norm_bound(data) ** 2
    exp = Experiment(seed=seed).override(
        {
            "data": {"name": "custom", "clients": partitions},
            "model.bias": False,
            "local": {"batch_size": max(parts.sizes), "keep_last_batch": True, "schedule": "inverse"},
            "local.learning_rate": RATE / squared,
            "server": {"rounds": ROUNDS, "evaluate_every": ROUNDS, "noise": 0.0, "decay": DECAY * squared},
            "server.clip.start": float("inf"),
            "attack.round": None,
        }
    )
    return train_ensemble(exp, parts, groups=partitions)


@lru_cache(maxsize=5)
def trained(task: Task, samples: int, flips: int = 0) -> tuple[EnsembleRun, float]:
    """One model for so many samples, after so many labels were flipped, and CPU seconds; two threats ask for the same."""
    start = time.process_time()
    data = flip_labels(task.data, flips) if flips else task.data
    ensemble = train_partitions(data, partitions_of(data, samples), task.seed)
    return ensemble, time.process_time() - start


def _run(task: Task, samples: int) -> Outcome:
    ensemble, seconds = trained(task, samples)
    start = time.process_time()
    counts = count_votes(ensemble.votes(task.data.test), ensemble.num_classes)
    strength = max_changed_votes(counts).astype(np.float64)
    seconds += time.process_time() - start
    return Outcome(plurality(counts), strength, len(ensemble.groups), task.data.public_samples, seconds)


def _attack(task: Task, strength: float) -> IntArray | None:
    """Predictions after the label flips of `flip_labels`."""
    if not affordable(task.data, strength, once=ATTACKED_AT):
        return None
    return trained(task, CHOICE.of(task.data_name), int(strength))[0].predict(task.data.test)


CHOICE = Choice(_run, GRID, chosen={"digits": 10, "loan": 5, "mnist": 50}, default=50)
"""Chosen on held-out training samples by benchmarks/choose_rivals.py; other data take MNIST's."""


def _entry(threat: str) -> Entry:
    return Entry("DPA", PAPER, threat, "sound", ASSUMPTIONS, CHOICE, _attack)


ENTRIES: tuple[Entry, ...] = (_entry("replaced samples"), _entry("label flips"))
