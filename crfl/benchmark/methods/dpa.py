"""Deep partition aggregation: the union's samples are dealt to k partitions, each trains a model, the models vote.

Levine and Feizi, ICLR 2021 (arXiv 2006.14768). A changed sample spoils one vote. The paper's hash of a sample's content is
here one of its place: the client's number and the sample's among the client's own. If samples are replaced, the list of
places stands, so a replacement changes one partition; by content it would change two, and half as many were certified.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from crfl.benchmark.entry import Entry, Outcome, Task
from crfl.benchmark.union import flip_labels, norm_bound
from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, plurality
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun
from crfl.groups import deal_clients

__all__ = ["ASSUMPTIONS", "ENTRIES", "deal_samples", "partitions_of", "train_partitions"]

PAPER = "Levine and Feizi, ICLR 2021, https://arxiv.org/abs/2006.14768"
ASSUMPTIONS = (
    "The server trains on the union of all samples.",
    "The number of samples of each client stands before training, whatever they hold.",
    "The attacker has no influence on the feature map.",
)
SAMPLES, MOST = 50, 1200
"""Samples a partition, and most partitions: those of the paper's finer split of MNIST."""
RATE, DECAY, ROUNDS = 200.0, 3e-4, 40
"""Largest learning rate, lambda and steps, for features in the unit ball: those of configs/certified/mnist-ensemble.yaml."""


def partitions_of(data: FederatedData) -> int:
    """k: one partition for every 50 samples, at most 1,200."""
    return max(1, min(MOST, sum(data.sizes) // SAMPLES))


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


def _run(task: Task) -> Outcome:
    ensemble = train_partitions(task.data, partitions_of(task.data), task.seed)
    counts = count_votes(ensemble.votes(task.data.test), ensemble.num_classes)
    strength = max_changed_votes(counts).astype(np.float64)
    return Outcome(plurality(counts), strength, len(ensemble.groups), task.data.public_samples)


def _attack(task: Task, strength: float) -> np.ndarray:
    """Predictions after the targeted label flips of `flip_labels`."""
    poisoned = flip_labels(task.data, int(strength))
    return train_partitions(poisoned, partitions_of(task.data), task.seed).predict(task.data.test)


def _entry(threat: str) -> Entry:
    return Entry("DPA", PAPER, threat, "sound", ASSUMPTIONS, _run, _attack)


ENTRIES: tuple[Entry, ...] = (_entry("replaced samples"), _entry("label flips"))
