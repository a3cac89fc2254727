"""A run and its benign counterpart: distances against Delta, predictions against certificates."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

import crfl
from benchmarks.adversary import draws, layouts, poison
from benchmarks.adversary.draws import Settings
from benchmarks.adversary.outcome import FloatArray, Outcome, exceeded
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_coupled
from crfl.errors import CertificateError

Change = Callable[[np.random.Generator, Settings, crfl.FederatedData], Settings]


def pair(rng: np.random.Generator, change: Change | None = None) -> Outcome | None:
    """Settings at random, with a family's changes: the poisoned run against its counterpart, both certified."""
    about, data = draws.federation(rng)
    settings = about | draws.draw(rng, data)
    if change is not None:
        settings |= change(rng, settings, data)
    exp = crfl.Experiment().override(settings)
    start = draws.linear(rng, data, exp.model.bias) if rng.random() < 0.5 else None
    benign, attacked = _trained(exp, data, rng, start)
    return compare(attacked, benign, data, rng, settings)


def _trained(
    exp: crfl.Experiment, data: crfl.FederatedData, rng: np.random.Generator, start: torch.nn.Module | None
) -> list[crfl.TrainingRun]:
    """The counterpart, and the run whose poison is chosen against the counterpart's model of the round before."""
    poison.KNOWN.pop("weights", None)
    if rng.random() < 0.3:
        return layouts.train([(exp, True), (exp, False)], data, rng, start)
    [benign] = layouts.train([(exp, True)], data, rng, start)
    first = next((r.round for r in benign.record.attack_rounds), 1)
    poison.aim(benign, first - 1)
    return [benign, *layouts.train([(exp, False)], data, rng, start)]


def distances(one: crfl.TrainingRun, other: crfl.TrainingRun) -> FloatArray:
    """Of the two models after each round, (T,)."""
    pairs = zip(one.checkpoints.values(), other.checkpoints.values(), strict=True)
    return np.array([float((a.double() - b.double()).norm()) for a, b in pairs])


def predictions(runs: Sequence[crfl.TrainingRun], x: torch.Tensor) -> list[Any]:
    """The classes of each run, computed in float64."""
    return [r.model.logits(r.params.double(), x.double()).argmax(1).numpy() for r in runs]


def compare(
    attacked: crfl.TrainingRun,
    benign: crfl.TrainingRun,
    data: crfl.FederatedData,
    rng: np.random.Generator,
    settings: Settings,
) -> Outcome | None:
    """Every certificate of either run against the other; None if all of them are refused."""
    actual = distances(attacked, benign)
    magnitude = max((a.magnitude for r in attacked.record.attack_rounds for a in r.attackers), default=0.0)
    classes = predictions((attacked, benign), data.test.x)
    differ = classes[0] != classes[1]
    best, broken, shares = 0.0, 0, []
    for run in (attacked, benign):
        for any_round in (False, True):
            try:
                check_coupled(run.record, any_round=any_round)
                options: dict[str, Any] = {"attack_round": "any" if any_round else None}
                if rng.random() < 0.2:
                    options |= {"kind": "smoothing", "bounds": "exact"}
                cert = crfl.certify(run, data.test, **options)
            except CertificateError:
                continue
            for strength in (magnitude, math.inf):
                claimed = CoupledScenario(run.record, False, any_round).distances(strength)[:, 1]
                ratio, count = exceeded(actual, claimed)
                held = ~cert.abstained & (cert.radius >= strength)
                best, broken = max(best, ratio), broken + count + int((held & differ).sum())
                shares.append(held.mean())
            broken += int((cert.any_poison & differ).sum())
    if not shares:
        return None
    return Outcome(best, broken, float(np.mean(shares)), float(differ.mean()), settings)


def tiny_clips(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Clip norms far below the local models, full batches (V1)."""
    return {
        "server.clip.start": float(10 ** rng.uniform(-8, -1)),
        "server.clip.slope": 0.0,
        "server.noise": float(rng.choice([0.0, 1e-9, 1e-6])),
        "local.batch_size": max(data.sizes),
        "local.keep_last_batch": True,
        "attack.poisoned_per_batch": 1,
    }


def short_steps(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Steps of a fraction to some hundred spacings of the weights (V2), decay of about one (V3)."""
    unit = 2.0**-24 if settings["local.precision"] == "float32" else 2.0**-53
    _, length = draws.longest_update(settings, data)
    rate = float(np.exp(rng.uniform(np.log(0.1), np.log(300)))) * unit / length
    found: Settings = {"local.learning_rate": rate, "local.schedule": "constant", "local.weight_decay": 0.0}
    found |= {"server.clip.start": math.inf, "server.noise": float(rng.choice([0.0, 1.0])), "server.decay": 0.0}
    kind = rng.random()
    if kind < 0.3:
        found["local.weight_decay"] = unit * float(rng.choice([0.5, 1.0, 2.0])) / rate
    elif kind < 0.5:
        found["server.decay"] = unit * float(rng.choice([0.5, 1.0, 2.0])) / rate
    return found | {"server.update_clip": None}


def layouts_alone(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Poison that changes nothing: all that is between the runs is rounding."""
    return {"attack.trigger": (), "attack.labels": "keep", "attack.magnitude": 0.0, "attack.update": None}


def contents(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Anything in the place of the samples."""
    return {"attack.trigger": "content", "attack.labels": "target", "attack.update": None}


def updates_clipped(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Update clips with schedules, near and far below honest updates; server decay."""
    steps, length = draws.longest_update(settings, data)
    start = length * float(rng.choice([1.01, 0.5, 0.2, 0.05, 0.01]))
    schedule = {"start": start, "end": start * float(rng.choice([0.05, 0.3, 1.0])), "decay_rounds": 2.0}
    decay = float(rng.choice([0.0, 0.01, 0.3])) / (steps * settings["local.learning_rate"])
    found: Settings = {"server.update_clip": schedule, "server.decay": decay, "local.weight_decay": 0.0}
    inverse = decay > 0 and rng.random() < 0.6
    return found | {"local.schedule": "inverse" if inverse else "constant", "attack.round": 1}


def extremes(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Factors, clip norms, noise and steps of any order of magnitude that a number can have."""
    return {
        "attack.scale": float(10 ** rng.uniform(-30, 38)),
        "server.clip.start": float(10 ** rng.choice([rng.uniform(-300, -10), rng.uniform(-45, 40)])),
        "server.clip.slope": 0.0,
        "server.noise": float(rng.choice([0.0, 10 ** rng.uniform(-45, 20)])),
        "local.learning_rate": settings["local.learning_rate"] * float(rng.choice([1.0, 10 ** rng.uniform(-40, 0)])),
        "server.decay": 0.0,
        "local.weight_decay": 0.0,
        "local.schedule": "constant",
        "server.update_clip": None if rng.random() < 0.5 else float(10 ** rng.uniform(-45, 40)),
    }
