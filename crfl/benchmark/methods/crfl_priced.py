"""Priced votes against poisoned samples: a group's vote costs as many samples as the group's own margin says."""

from __future__ import annotations

import time
from functools import lru_cache

import numpy as np

from crfl.benchmark.attacked import affordable
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.federations import federation
from crfl.benchmark.methods.crfl_clients import Priced
from crfl.benchmark.methods.crfl_ensembles import poisoned
from crfl.certification.certify import certify
from crfl.ensemble import train_ensemble
from crfl.ensemble_run import EnsembleRun

__all__ = ["ENTRIES"]

ASSUMPTIONS = (
    "Softmax regression on fixed features that the server's own samples set.",
    "Full batches of plain SGD, averaged with fixed weights.",
    "Honest clients measure the curvature of their batches truly.",
    "The list of clients stands before training, and nobody poses as several.",
    "The poisoned samples' client trains as told and does not scale its update, or its group's vote alone is lost.",
)
ROUNDS = 100
DATA = ("digits", "loan", "mnist")
"""Prices of a group take seconds, of those with many classes and features minutes."""
ATTACKED_AT = 50
"""Poisoned samples at which large data are attacked."""


@lru_cache(maxsize=1)
def trained(task: Task, priced: Priced) -> tuple[EnsembleRun, float]:
    """The groups, trained as the data set's recipe says but without an update clip, and CPU seconds."""
    start, exp = time.process_time(), federation(task.data_name, "any content", task.seed)
    exp = exp.override(
        {
            "local": {"batch_size": 100_000, "keep_last_batch": True},
            "server": {"rounds": ROUNDS, "evaluate_every": ROUNDS, "update_clip": None},
            "server.decay": exp.server.decay * priced.factor,
            "attack.round": None,
        }
    )
    return train_ensemble(exp, task.data, groups=priced.groups), time.process_time() - start


def run(task: Task, priced: Priced) -> Outcome:
    """Theorem 2 of the ensembles with prices in samples; and theorem 1, by which one client may do anything at all.

    What has as many samples as a client owns is everything that the threat's client can do.
    """
    ensemble, seconds = trained(task, priced)
    start = time.process_time()
    samples, whatever = certify(ensemble, task.data, prices="poison"), certify(ensemble, task.data)
    strength = np.where(samples.abstained, -1.0, samples.poisoned_samples)
    strength[(whatever.malicious_clients >= 1) | (strength >= max(task.data.sizes))] = np.inf
    seconds += time.process_time() - start
    return Outcome(samples.prediction, strength, priced.groups, task.data.public_samples, seconds)


def attack(task: Task, strength: float) -> IntArray | None:
    """In the last round: the image whose poison, by ascent through the map, hurts the first client's group."""
    if not affordable(task.data, strength, once=ATTACKED_AT):
        return None
    return poisoned(task, trained(task, CHOICE.of(task.data_name))[0], "any content", strength)


CHOICE = Choice(
    run,
    tuple(Priced(groups, factor) for groups in (10, 20) for factor in (1.0, 3.0)),
    chosen={"digits": Priced(10), "loan": Priced(10, 3.0), "mnist": Priced(10)},
    default=Priced(20, 3.0),
)
"""Chosen on held-out training samples by benchmarks/choose_rivals.py."""

ENTRIES = (
    Entry(
        "Priced votes",
        "this project (docs/theory-ensembles.md, theorem 2), after EnsembleCert, ICLR 2026, arXiv 2604.11416",
        "any content",
        "sound",
        ASSUMPTIONS,
        CHOICE,
        attack,
        DATA,
    ),
)
