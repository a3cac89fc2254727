"""User-level private federated learning: what a few clients can change in the vote of many noisy trainings.

Xie, Long, Chen, Li, Li, CCS 2023 (arXiv 2209.04030). Many trainings of Algorithm 1 in one batch: clients take one full step,
the server clips each update to S and adds Gaussian noise to the average, in every round. The formulas are those of
crfl.certification.privacy. All clients take part in every round, so the accounting of the noise has a closed form.

The first entry is the paper's certificate, from all epsilon with their delta at once. The second one uses that the noise is
Gaussian beyond what epsilon and delta say, and is never below the first.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from crfl import rng
from crfl.benchmark.attacked import affordable
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.certification.bounds.votes import ProbabilityBounds
from crfl.certification.ensembles.random_groups import random_group_bounds
from crfl.certification.privacy import gaussian_delta, gaussian_users, private_users
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.engines import ClientUpdates, make_engine
from crfl.run_batch import RunBatch
from crfl.server import project

__all__ = ["ENTRIES", "Private", "private_votes", "user_mu"]

PAPER = "Xie, Long, Chen, Li and Li, CCS 2023, https://arxiv.org/abs/2209.04030"
ASSUMPTIONS = (
    "The list of clients and the weight of each stand before training.",
    "Noise is drawn by a trusted server, and is Gaussian: floating point is ignored.",
    "Confidence 99.9 % for each test sample; the guarantee is of the expected vote over trainings, not of one model.",
    "The attacker has no influence on the feature map.",
)
RATE = 1e3
"""The clients' rate, so large that S sets the step."""
TRAININGS, ATTACKED, SMOKE, ALPHA, ATTACKED_AT = 500, 100, 100, 0.001, 20
"""Trainings that vote, those under an attack, those of a smoke run; error level; malicious clients at which large
data are attacked."""
DATA = ("digits", "loan", "mnist", "cifar10")
"""Not EMNIST: its many classes and features make hundreds of trainings take most of an hour."""
EPSILONS = np.geomspace(1e-3, 20.0, 200)
"""Times mu."""


@dataclass(frozen=True)
class Private:
    """How training is private."""

    rounds: int = 10
    """T"""
    noise: float = 0.02
    """Of all rounds together, in units of S, T times over: sigma = noise S sqrt(T)."""
    clip: float = 1.0
    """S"""


def user_mu(data: FederatedData, private: Private) -> float:
    """mu of one client, who may send anything: sqrt(T) 2 S max_i p_i / sigma.

    Example:
        >>> import crfl
        >>> user_mu(crfl.load_data(crfl.Experiment()), Private(noise=0.02))  # ten clients
        10.0
    """
    return 2 * max(data.sizes) / sum(data.sizes) / private.noise


def private_votes(data: FederatedData, private: Private, trainings: int, seed: int, malicious: int = 0) -> np.ndarray:
    """Votes (m, C) of models that were trained independently, with noise of their own.

    Args:
        data: the federation.
        private: rounds, noise and clip.
        trainings: R
        seed: of the noise.
        malicious: so many clients send the opposite of what they learnt.

    Example:
        >>> import crfl
        >>> private_votes(crfl.load_data(crfl.Experiment()), Private(), trainings=20, seed=0).sum(axis=1)[:3]
        array([20, 20, 20])
    """
    exp = Experiment(seed=seed).override(
        {
            "data": {"name": "custom", "clients": len(data.shards)},
            "model.bias": False,
            "local": {"batch_size": max(data.sizes), "keep_last_batch": True, "learning_rate": RATE},
            "local.precision": "float32",
            "server": {"rounds": private.rounds, "evaluate_every": private.rounds, "update_clip": private.clip},
            "attack.round": None,
        }
    )
    batch = RunBatch.of([exp], data)
    models = _train(batch, private, trainings, malicious)
    counts = np.zeros((len(data.test), data.num_classes), dtype=np.int64)
    for start, block in enumerate(data.test.blocks(512)):
        for some in models.split(200):
            votes = batch.model.class_logits(some, block.x).argmax(dim=1).T.numpy()
            rows = start * 512 + np.arange(len(votes))
            np.add.at(counts, (rows[:, None], votes), 1)
    return counts


def _train(batch: RunBatch, private: Private, trainings: int, malicious: int) -> Tensor:
    """The final models (R, P): z <- z + sum_i p_i clip_S(u_i(z)) + N(0, sigma^2 I), T times from 0."""
    engine = make_engine("vectorised", batch.model, batch.data, batch.local, batch.seed)
    weights = torch.from_numpy(batch.sizes / batch.sizes.sum()).float()
    models = torch.zeros(trainings, batch.model.num_params)
    std = private.noise * private.clip * private.rounds**0.5
    for t in range(1, batch.num_rounds + 1):
        moved = models.clone()
        caps, plans = batch.learning_rate_caps(t) * trainings, [batch.plans[0].round(t)] * trainings
        for block in engine.local_updates(models, t, caps, plans, [None] * trainings):
            assert isinstance(block, ClientUpdates)
            share = weights[block.clients] * torch.where(torch.from_numpy(block.clients) < malicious, -1.0, 1.0)
            moved += torch.einsum("k,ksp->sp", share, project(block.updates, private.clip))
        generator = rng.stream(batch.seed, "private noise", t)
        models = moved + std * torch.randn(moved.shape, generator=generator)
    return models


@lru_cache(maxsize=1)
def _bounds(task: Task, private: Private) -> tuple[ProbabilityBounds, int, float]:
    """Bounds of the expected vote, how many trainings voted, and CPU seconds; both entries ask for the same."""
    start, trainings = time.process_time(), SMOKE if task.smoke else TRAININGS
    # Independent trainings are to the expected vote what groups drawn at random are to the vote of all groups.
    found = random_group_bounds(private_votes(task.data, private, trainings, task.seed), ALPHA)
    return found, trainings, time.process_time() - start


def _run(task: Task, private: Private, privacy: Literal["pairs", "Gaussian"]) -> Outcome:
    (bounds, trainings, seconds), mu = _bounds(task, private), user_mu(task.data, private)
    start = time.process_time()
    if privacy == "Gaussian":
        users = gaussian_users(bounds.p_a, bounds.p_b, mu)
    else:
        users = private_users(bounds.p_a, bounds.p_b, mu * EPSILONS, gaussian_delta(mu, mu * EPSILONS))
    strength = np.where(bounds.abstained, -1.0, users.astype(np.float64))
    seconds += time.process_time() - start
    return Outcome(bounds.prediction, strength, trainings, task.data.public_samples, seconds)


def _attack(task: Task, strength: float, choice: Choice) -> IntArray | None:
    """The vote after so many clients sent the opposite of what they learnt, in every round."""
    if not affordable(task.data, strength, once=ATTACKED_AT):
        return None
    return _attacked_votes(task, choice.of(task.data_name), int(strength)).argmax(axis=1)


@lru_cache(maxsize=4)
def _attacked_votes(task: Task, private: Private, malicious: int) -> np.ndarray:
    return private_votes(task.data, private, ATTACKED, task.seed + 1, malicious)


TRIED = (*(Private(3, noise) for noise in (0.01, 0.02, 0.05)), Private(10, 0.02))


CHOSEN = {"digits": TRIED[1], "loan": TRIED[3], "mnist": TRIED[1]}
"""Chosen on held-out training samples by benchmarks/choose_rivals.py, as the mean of both entries; MNIST takes the digits',
whose trainings take a fiftieth of the time."""


def _entry(name: str, paper: str, privacy: Literal["pairs", "Gaussian"]) -> Entry:
    choice = Choice(partial(_run, privacy=privacy), TRIED, chosen=CHOSEN, default=TRIED[1])
    return Entry(name, paper, "clients", "statistical", ASSUMPTIONS, choice, partial(_attack, choice=choice), DATA)


ENTRIES: tuple[Entry, ...] = (
    _entry("DPFL", PAPER, "pairs"),
    _entry("DPFL, Gaussian privacy", PAPER + " (with Dong, Roth and Su 2022)", "Gaussian"),
)
