"""One linear model on fixed features, certified by its margin: crfl's own rows for poison in one round."""

from __future__ import annotations

import numpy as np

from crfl.benchmark.entry import Entry, Outcome, Task
from crfl.benchmark.federations import DATA_SETS
from crfl.certification.certify import certify
from crfl.config import Experiment
from crfl.training import train

__all__ = ["ENTRIES"]

PAPER = "crfl, theory section 9 to 11: https://github.com/AI-secure/CRFL is the published method"


def settings(task: Task) -> Experiment:
    """The recipe of the data set, without an attack."""
    exp = Experiment.named(DATA_SETS[task.data_name].recipe)
    return exp.override({"seed": task.seed, "attack.round": None, "server.evaluate_every": exp.server.rounds})


def client_rounds(task: Task) -> Outcome:
    """Theorem 10: so many arbitrary updates, each clipped by the server."""
    run = train(settings(task), task.data)
    cert = certify(run, task.data, attack_round="any")
    strength = np.where(cert.abstained, -1.0, cert.max_malicious())
    return Outcome(cert.prediction, strength, 1, task.data.public_samples)


ENTRIES = (
    Entry(
        name="CRFL margin",
        paper=PAPER,
        threat="client-rounds",
        guarantee="sound",
        assumptions=("softmax regression",),
        run=client_rounds,
    ),
)
