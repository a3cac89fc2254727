"""crfl's own rows for one linear model on fixed features, certified by its margin."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from crfl.attack.search import colluding, worst_direction
from crfl.attack.search_inputs import optimised_poison, optimised_trigger
from crfl.benchmark.attacked import attacking, continued, last_round_predictions
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.federations import federation
from crfl.certification.certify import certify
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.radius import RadiusCertificate
from crfl.config import Experiment
from crfl.errors import CertificateError
from crfl.models.softmax import SoftmaxRegression
from crfl.run import TrainingRun
from crfl.training import train_many
from crfl.tune import rehearse

__all__ = ["ENTRIES"]

FloatArray = npt.NDArray[np.floating[Any]]

PAPER = "this project (docs/theory.md, sections 5, 9 and 11); the setting is that of Xie et al., ICML 2021, arXiv 2106.08283"
COMMON = (
    "Softmax regression on fixed features that the server's own samples set.",
    "Full batches of plain SGD, averaged with fixed weights.",
    "Honest clients measure the curvature of their batches and the norms of their updates truly.",
    "Clients and test inputs are the same in both runs.",
)
SHARE, SCALE = 0.05, 10.0
"""Of each batch that is poisoned, and factor on the update, in the threat `trigger`."""
BEFORE_END = 20
"""Rounds after the known one of the threat `trigger`."""
LEVELS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000)
"""Numbers of poisoned samples that are tried; the whole batch is tried, too."""
MODELS = 2
"""Trained for a row: the rehearsal that fits the update clip, and the run."""
STARTS = 40
"""Samples at which the search for poison starts."""
CLIENT_ROUNDS = (10, 5, 2, 1)
"""Arbitrary updates that the update clip is fitted to withstand: the first that can be had."""
VICTIMS = 2000
"""Test samples against which directions are searched."""


@dataclass(frozen=True, eq=False)
class Trained:
    """Runs without poison that share their batches, and what their training took."""

    quiet: TrainingRun
    """Nobody attacks."""
    poisoned: TrainingRun
    """The benign counterpart of a client that poisons; it equals `quiet` and records the attack."""
    scaled: TrainingRun
    """The benign counterpart of one that scales its update by 10 as well."""
    seconds: float


@lru_cache(maxsize=1)
def trained(task: Task, factor: float) -> Trained:
    """The recipe of the data set with lambda times a factor, its update clip fitted to a rehearsal.

    Models that attacks start from are kept.
    """
    start = time.process_time()
    recipe = federation(task.data_name, "trigger", task.seed)
    rounds = recipe.server.rounds
    known = rounds - BEFORE_END
    exp = recipe.override(
        {
            "local": {"batch_size": 100_000, "keep_last_batch": True},
            "server": {"decay": recipe.server.decay * factor, "evaluate_every": rounds},
            "attack.round": None,
        }
    )
    exp = _fitted(exp, task)
    exps = [exp, attack(exp, task, known, 1, 1.0), attack(exp, task, known, share(exp, task), SCALE)]
    kept = [known - 1, rounds - 1]
    runs = train_many(exps, task.data, benign=[False, True, True], checkpoints=kept)
    quiet, poisoned, scaled = runs
    return Trained(quiet, poisoned, scaled, time.process_time() - start)


def share(exp: Experiment, task: Task) -> int:
    """How many samples of a batch the threat `trigger` poisons."""
    return max(1, round(SHARE * min(exp.local.batch_size, min(task.data.sizes))))


def attack(exp: Experiment, task: Task, round_: int, poisoned: int, scale: float, trigger: str = "") -> Experiment:
    """An attack of the first client in one round; without a trigger it records what its benign counterpart does."""
    batch = min(exp.local.batch_size, task.data.sizes[0])
    changes = {"attack.round": round_, "attack.poisoned_per_batch": min(poisoned, batch), "attack.scale": scale}
    changes |= {"attack.magnitude": 0.0, "attack.clients": 1, "attack.target": 0}
    return exp.override(changes | ({"attack.trigger": trigger} if trigger else {}))


def client_rounds(task: Task, factor: float) -> Outcome:
    """Theorem 10: so many arbitrary updates, each clipped by the server."""
    base, start = trained(task, factor), time.process_time()
    cert = certify(base.quiet, task.data, attack_round="any")
    return _outcome(task, cert, cert.max_malicious().astype(np.float64), base, start)


def any_content(task: Task, factor: float) -> Outcome:
    """How many samples of a batch may hold anything, in an unknown round; whole batches are all that there is."""
    base, start = trained(task, factor), time.process_time()
    cert = certify(base.poisoned, task.data, attack_round="any")
    batch = min(base.quiet.experiment.local.batch_size, max(task.data.sizes))
    found = np.zeros(len(cert.prediction))
    for level in (*(q for q in LEVELS if q < batch), batch):
        found[cert.scenario.certifies(cert.budget, cert.scenario.cost(np.inf, poisoned=level))] = level
    return _outcome(task, cert, np.where(found >= batch, np.inf, found), base, start)


def trigger(task: Task, factor: float) -> Outcome:
    """The radius in input space: infinite where nothing matters, unknown (0) where the map's constant is."""
    base, start = trained(task, factor), time.process_time()
    cert = certify(base.scaled, task.data)
    inputs = np.zeros_like(cert.radius) if cert.input_radius is None else cert.input_radius
    return _outcome(task, cert, np.where(np.isinf(cert.radius), np.inf, inputs), base, start)


def attack_client_rounds(task: Task, strength: float) -> IntArray:
    """In the last round: each sample under its own worst updates, exactly; and clients that collude against all."""
    base, data = _chosen(task), task.data
    run, count = base.quiet, min(int(strength), len(task.data.shards))
    last = run.record.rounds[-1]
    before = run.checkpoints[last.round - 1]
    alone = last_round_predictions(run, data, before, count, data.test.x)
    assert last.update_clip is not None
    x, y = data.test.x[:VICTIMS], data.test.y[:VICTIMS]
    reach = count * max(last.weights) * last.update_clip
    send = colluding(_model(run), x, y, norm=2 * last.update_clip, reach=reach)
    changes = {"attack.round": last.round, "attack.clients": count, "attack.update": "collude"}
    changes |= {"attack.scale": 1.0, "attack.poisoned_per_batch": 0}
    with attacking(updates={"collude": send}):
        params = continued([run.experiment.override(changes)], data, before, last.round - 1)
    return np.stack([alone, _predict(run, params[0], data.test.x)])


def attack_any_content(task: Task, strength: float) -> IntArray:
    """In the last round: copies of the image whose gradient, by ascent through the map, hurts most samples."""
    base, data = _chosen(task), task.data
    run, last = base.quiet, base.quiet.record.rounds[-1]
    before = run.checkpoints[last.round - 1]
    exp = attack(run.experiment, task, last.round, int(strength), 1.0, trigger="poison")
    ratio = exp.attack.poisoned_per_batch / data.sizes[0]
    reach = last.weights[0] * ratio * min(max(run.record.learning_rates), last.learning_rate_cap) * np.sqrt(2)
    direction = worst_direction(_model(run), run.params, data.test.x[:VICTIMS], data.test.y[:VICTIMS], float(reach))
    image, label = optimised_poison(data, _model(run), before, direction, data.shards[0][:STARTS].tolist())
    return _poisoned(task, run, exp.override({"attack.target": label}), _becomes(image), before)


def attack_trigger(task: Task, strength: float) -> IntArray:
    """In the known round: the trigger of this norm, by ascent through the map, whose poison hurts most samples."""
    base, data = _chosen(task), task.data
    run, round_ = base.scaled, base.scaled.record.attack_rounds[0].round
    before = run.checkpoints[round_ - 1]
    exp = attack(run.experiment, task, round_, share(run.experiment, task), SCALE, trigger="poison")
    reach = CoupledScenario(run.record, before_clip=True).cost(np.inf) / 4
    direction = worst_direction(_model(run), run.params, data.test.x[:VICTIMS], data.test.y[:VICTIMS], reach)
    rows = data.shards[0][: 2 * STARTS].tolist()
    delta, label = optimised_trigger(data, _model(run), before, direction, rows, norm=strength)
    return _poisoned(task, run, exp.override({"attack.target": label}), lambda x: x + delta.to(x), before)


def _poisoned(
    task: Task, run: TrainingRun, exp: Experiment, plant: Callable[[Tensor], Tensor], before: Tensor
) -> IntArray:
    """Predictions (1, m) of the final model if a client plants poison in the attack round of these settings."""
    assert isinstance(exp.attack.round, int)
    with attacking(triggers={"poison": plant}):
        params = continued([exp], task.data, before, exp.attack.round - 1)
    return _predict(run, params[0], task.data.test.x)[None]


def _fitted(exp: Experiment, task: Task) -> Experiment:
    """The update clip that withstands most client-rounds; that of the recipe if none does."""
    for count in CLIENT_ROUNDS:
        try:
            return rehearse(exp, task.data, client_rounds=count)
        except CertificateError:
            continue
    return exp


def _chosen(task: Task) -> Trained:
    """What attacks start from: the settings are the same for all threats."""
    return trained(task, TRIGGER_CHOICE.of(task.data_name))


def _outcome(task: Task, cert: RadiusCertificate, strength: FloatArray, base: Trained, start: float) -> Outcome:
    seconds = base.seconds + time.process_time() - start
    found = np.where(cert.abstained, -1.0, strength)
    return Outcome(cert.prediction, found, MODELS, task.data.public_samples, seconds)


def _becomes(image: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: image.to(x).expand_as(x)


def _model(run: TrainingRun) -> SoftmaxRegression:
    assert isinstance(run.model, SoftmaxRegression)
    return run.model


def _predict(run: TrainingRun, params: Tensor, x: Tensor) -> IntArray:
    """Classes (m,) in float64, as the certificate sees them."""
    return run.model.logits(params.double(), x.double()).argmax(1).numpy()


FACTORS = (0.5, 1.0, 2.0)
"""On the recipe's lambda."""
CHOSEN = {"digits": 1.0, "loan": 2.0, "mnist": 1.0}
TRIGGER_CHOICE, CONTENT_CHOICE, ROUNDS_CHOICE = (
    Choice(func, FACTORS, CHOSEN, default=1.0) for func in (trigger, any_content, client_rounds)
)
"""By data set, of all three threats together: chosen on held-out training samples by benchmarks/choose_rivals.py; other data
have their recipe's lambda, that of EMNIST being chosen by public images."""

ENTRIES = (
    Entry(
        "CRFL margin",
        PAPER,
        "trigger",
        "sound",
        (*COMMON, "The attacker's benign counterpart scales its update, too."),
        TRIGGER_CHOICE,
        attack_trigger,
    ),
    Entry(
        "CRFL margin",
        PAPER,
        "any content",
        "sound",
        (*COMMON, "The poisoned samples' client trains as told and does not scale its update."),
        CONTENT_CHOICE,
        attack_any_content,
    ),
    Entry(
        "CRFL margin",
        PAPER,
        "client-rounds",
        "sound",
        (*COMMON, "The server clips updates, to a norm that honest ones never reach."),
        ROUNDS_CHOICE,
        attack_client_rounds,
    ),
)
