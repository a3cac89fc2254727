"""CRFL as published, and the margin certificate of the very same run: softmax regression on the inputs themselves."""

from __future__ import annotations

import time
import warnings
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.attack.search import worst_direction
from crfl.attack.search_inputs import optimised_trigger
from crfl.benchmark.attacked import affordable, attacking, continued
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.certification.certify import certify
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.radius import RadiusCertificate
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.errors import CertificateWarning
from crfl.models.softmax import SoftmaxRegression
from crfl.run import TrainingRun
from crfl.training import train

__all__ = ["ENTRIES"]

RECIPES = {"digits": "digits", "loan": "loan-sample", "mnist": "mnist", "emnist": "emnist"}
"""The paper's settings by data set; it has none for CIFAR-10."""
STEPS = {"emnist": 72}
"""Local steps a round that the paper's clients make on all images; a part of them takes more passes for it."""
SHARE, SCALE = 0.05, 10.0
VICTIMS, STARTS = 1000, 40


@lru_cache(maxsize=1)
def trained(task: Task) -> tuple[TrainingRun, FederatedData, float]:
    """The benign counterpart under the paper's settings, the federation without its feature map, and CPU seconds."""
    start = time.process_time()
    data = inputs_of(task.data)
    exp = Experiment.named(RECIPES[task.data_name])
    batch = min(exp.local.batch_size, min(data.sizes))
    changes: dict[str, Any] = {"seed": task.seed, "data.clients": len(data.shards), "data.partition": data.partition}
    changes |= {"local.batch_size": batch, "attack.scale": SCALE, "attack.clients": 1}
    changes |= {"attack.poisoned_per_batch": max(1, round(SHARE * batch)), "server.evaluate_every": exp.server.rounds}
    if task.data_name in STEPS:
        changes["local.epochs"] = -(-STEPS[task.data_name] * batch // min(data.sizes))
    exp = exp.override(changes)
    assert isinstance(exp.attack.round, int)
    run = train(exp, data, benign=True, checkpoints=[exp.attack.round - 1])
    return run, data, time.process_time() - start


def inputs_of(data: FederatedData) -> FederatedData:
    """The same federation without its feature map."""
    if data.origin is None:
        return data
    origin = data.origin
    return replace(data, x=origin.x, scale=origin.scale, test=origin.test, feature_map=None, origin=None)


def published(task: Task) -> Outcome:
    """Corollary 1 as printed, on Algorithm 2's votes."""
    run, data, seconds = trained(task)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CertificateWarning)
        cert = certify(run, data, kind="published")
    return _outcome(cert, seconds + time.process_time() - start)


def margin(task: Task) -> Outcome:
    """Delta against the margin, for the same run."""
    run, data, seconds = trained(task)
    start = time.process_time()
    cert = certify(run, data)
    return _outcome(cert, seconds + time.process_time() - start)


def attack(task: Task, strength: float) -> IntArray | None:
    """In the known round: the trigger of this norm and the label whose poison hurts most samples."""
    run, data, _ = trained(task)
    if not affordable(data, strength, once=1):
        return None
    return _attacked(run, data, strength)[None]


@lru_cache(maxsize=8)
def _attacked(run: TrainingRun, data: FederatedData, strength: float) -> IntArray:
    """Predictions (m,) of the attacked model without noise; the margin's noise is isotropic and keeps the largest."""
    exp, round_, model = run.experiment, run.record.attack_rounds[0].round, run.model
    assert isinstance(model, SoftmaxRegression)
    before = run.checkpoints[round_ - 1]
    reach = CoupledScenario(run.record, before_clip=False).cost(strength) / 4
    x, y = data.test.x[:VICTIMS], data.test.y[:VICTIMS]
    direction = worst_direction(model, run.params, x, y, reach)
    rows = data.shards[0][:STARTS].tolist()
    delta, label = optimised_trigger(data, model, before, direction, rows, norm=strength)
    attacked = exp.override({"attack.trigger": "optimised", "attack.target": label})
    with attacking(triggers={"optimised": lambda x: x + delta.to(x)}):
        params = continued([attacked], data, before, round_ - 1)[0]
    found: IntArray = model.logits(params.double(), data.test.x.double()).argmax(1).numpy()
    return found


def _outcome(cert: RadiusCertificate, seconds: float) -> Outcome:
    strength: npt.NDArray[np.floating[Any]] = np.where(cert.abstained, -1.0, cert.radius)
    return Outcome(cert.prediction, strength, 1, 0, seconds)


COMMON = (
    "Softmax regression on the inputs, plain SGD, averaged with fixed weights.",
    "The attacker's benign counterpart scales its update, too.",
)
ENTRIES = (
    Entry(
        "CRFL published",
        "Xie, Chen, Chen, Li, ICML 2021, arXiv 2106.08283",
        "trigger",
        "as printed",
        (*COMMON, "Inputs lie in the unit ball and labels stay: this run breaks both, so nothing is guaranteed."),
        published,
        attack,
        tuple(RECIPES),
    ),
    Entry(
        "CRFL margin, same run",
        "this project (docs/theory.md, section 5)",
        "trigger",
        "sound",
        (*COMMON, "Training in float32: rounding is modelled, not proved (MNIST, EMNIST, LOAN)."),
        margin,
        attack,
        tuple(RECIPES),
    ),
)
