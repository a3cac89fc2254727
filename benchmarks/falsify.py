"""A standing adversary of the coupling certificates: a search for runs that break them, and how tight they are.

Run: python benchmarks/falsify.py [--seconds 60] [--seed 0] [--out FILE.csv]. Each pair draws settings at random: who
attacks when and how, triggers by gradient ascent on the model at hand, label changes, tiny and large clip norms, noise,
decay of clients and server, schedules, participation, update clips, malicious updates, precision. It trains a poisoned
model of the digits and its benign counterpart, together or apart: by another engine, with another number of threads. In
every round their distance must be at most Delta_t, computed from either record, for the
known and for an unknown round, and no certified prediction may differ. FILE gets a row a pair. Ends with an error if
anything is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

import crfl
from crfl.attack import triggers
from crfl.certification.coupling.clients import ClientScenario
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_coupled
from crfl.errors import CertificateError

STEEPEST: dict[str, torch.Tensor] = {}
"""The weights (C, d) that the trigger "steepest" works against; without them a random model."""


@dataclass(frozen=True)
class Steepest:
    """Projected gradient ascent on how far a sample's loss gradient turns, under a linear model."""

    weights: torch.Tensor
    magnitude: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The samples x (m, d), each moved by at most the magnitude."""
        weights = self.weights.to(x)
        clean = torch.softmax(x @ weights.T, 1)
        label = torch.nn.functional.one_hot(clean.argmin(1), len(weights))
        start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        change = 1e-3 * self.magnitude * start
        for _ in range(5):
            moved = (x + change).requires_grad_()
            residual = torch.softmax(moved @ weights.T, 1) - label
            turn = torch.einsum("mc,md->mcd", residual, moved) - torch.einsum("mc,md->mcd", clean - label, x)
            turn.square().sum().backward()
            assert moved.grad is not None
            step = moved.grad / moved.grad.norm(dim=1, keepdim=True).clamp(min=1e-9)
            change = change + self.magnitude * step
            change = change * (self.magnitude / change.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1.0)
        return x + change


def steepest(attack: Any, data: crfl.FederatedData, generator: torch.Generator) -> Steepest:
    """The trigger "steepest": gradient ascent under the known or a random model, the same for all attackers."""
    weights = STEEPEST.get("weights")
    if weights is None:
        weights = torch.randn(data.num_classes, data.num_features, generator=generator)
    return Steepest(weights, attack.magnitude)


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Settings of one pair, by dotted key."""
    rounds = int(rng.integers(3, 13))
    attack_rounds = sorted(rng.choice(np.arange(1, rounds + 1), size=min(rounds, 3), replace=False).tolist())
    settings: dict[str, Any] = {
        "seed": int(rng.integers(5)),  # five partitions are enough
        "model.bias": bool(rng.random() < 0.7),
        "server.rounds": rounds,
        "server.clip.start": float(rng.choice([1e-5, 1e-2, 0.3, 1.0, 1.5, 2.0, np.inf])),
        "server.clip.slope": float(rng.choice([0.0, 0.0, 0.02, 0.1])),
        "server.noise": float(rng.choice([0.0, 1e-4, 0.01, 0.1])),
        "server.aggregation": str(rng.choice(["mean", "weighted_mean"])),
        "server.participation": float(rng.choice([1.0, 1.0, 0.5])),
        "local.learning_rate": float(rng.choice([3e-7, 1e-3, 0.01, 0.05, 0.1, 0.1629])),
        "local.precision": str(rng.choice(["float64", "float64", "float32"])),
        "local.batch_size": int(rng.choice([10, 20, 37, 140])),
        "local.keep_last_batch": bool(rng.random() < 0.3),
        "local.epochs": int(rng.choice([1, 1, 2])),
        "attack.round": tuple(attack_rounds) if rng.random() < 0.3 else attack_rounds[0],
        "attack.clients": int(rng.choice([1, 1, 2, 5, 10])),
        "attack.force_participation": bool(rng.random() < 0.5),
        "attack.scale": float(np.exp(rng.uniform(np.log(0.5), np.log(100)))),
        "attack.magnitude": float(rng.choice([0.0, 0.01, 0.1, 1.0, 5.0])),
        "attack.labels": str(rng.choice(["target", "keep"])),
        "attack.target": int(rng.integers(10)),
        "attack.trigger": [((5, 7), (6, 6), (7, 5), (7, 7)), "full_image", "steepest", "steepest"][rng.integers(4)],
    }
    settings["attack.poisoned_per_batch"] = int(rng.integers(1, settings["local.batch_size"] + 1))
    if rng.random() < 0.1:
        settings["attack.update"] = str(rng.choice(["sign_flip", "gaussian"]))
    return settings | _defence(rng, settings)


def _defence(rng: np.random.Generator, settings: dict[str, Any]) -> dict[str, Any]:
    """Decay, schedules and update clips, tight ones too."""
    found: dict[str, Any] = {}
    kind = rng.choice(["none", "none", "clients", "server"])
    if kind == "clients":
        found["local.weight_decay"] = float(rng.choice([2.0**-23 / settings["local.learning_rate"], 0.05]))
        found["local.learning_rate"] = min(settings["local.learning_rate"], 0.1)
    if kind == "server":
        found["server.decay"] = float(rng.choice([1e-3, 0.1, 1.0]))
    if kind != "none" and rng.random() < 0.5:
        found["local.schedule"], found["local.schedule_offset"] = "inverse", float(rng.choice([0.0, 20.0]))
    if rng.random() < 0.4:
        steps = 2 * -(-144 // settings["local.batch_size"])  # at least tau of two epochs
        largest = steps * settings["local.learning_rate"] * np.sqrt(2) * 4.92
        found["server.update_clip"] = float(largest * rng.choice([1.01, 0.3, 0.1, 0.01]))
    return found


@contextmanager
def layout(rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Another way to compute the same run: engine and threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(int(rng.choice([1, 2])))
    try:
        yield {"engine": str(rng.choice(["vectorised", "reference"], p=[0.85, 0.15]))}
    finally:
        torch.set_num_threads(threads)


def train(exp: crfl.Experiment, data: crfl.FederatedData, rng: np.random.Generator) -> list[crfl.TrainingRun]:
    """The poisoned run and its benign counterpart, trained together or apart, with their models of all rounds."""
    rounds = range(1, exp.server.rounds + 1)
    if rng.random() < 0.3:
        return crfl.train_many([exp, exp], data, benign=[False, True], checkpoints=rounds)
    runs = []
    for benign in (True, False):
        with layout(rng) as options:
            runs.append(crfl.train(exp, data, benign=benign, checkpoints=rounds, **options))
        first = runs[0].record.attack_rounds[0].round
        model = runs[0].checkpoints[max(1, first - 1)]
        STEEPEST["weights"] = runs[0].model.split(model)[0]
    return runs[::-1]


def compare(settings: dict[str, Any], data: crfl.FederatedData, rng: np.random.Generator) -> dict[str, Any] | None:
    """One pair of runs: what was claimed and what happened. None if the certificate is refused."""
    exp = crfl.Experiment().override(settings)
    attacked, benign = train(exp, data, rng)
    pairs = [
        (a.double(), b.double()) for a, b in zip(*(r.checkpoints.values() for r in (attacked, benign)), strict=True)
    ]
    actual = np.array([float((a - b).norm()) for a, b in pairs])
    magnitude = max(a.magnitude for r in attacked.record.attack_rounds for a in r.attackers)
    row: dict[str, Any] = {**settings, "distance": actual[-1], "rounds_exceeded": 0, "predictions_broken": 0}
    predictions = [r.logits(data.test.x).argmax(1).numpy() for r in (attacked, benign)]
    for run in (attacked, benign):
        for any_round in (False, True):
            try:
                check_coupled(run.record, any_round=any_round)
                cert = crfl.certify(run, data.test, kind="margin", attack_round="any" if any_round else None)
            except CertificateError:
                continue
            claimed = CoupledScenario(run.record, False, any_round).distances(magnitude)[:, 1]
            held = ~cert.abstained & (cert.radius >= magnitude)
            row["rounds_exceeded"] += int((actual > claimed).sum())
            row["predictions_broken"] += int((held & (predictions[0] != predictions[1])).sum())
            if not any_round:
                first = run.record.attack_rounds[0].round - 1
                ratios = actual / np.where(claimed > 0, claimed, 1.0)
                row |= {"delta": claimed[-1], "certified": held.mean(), "changed": np.mean(np.not_equal(*predictions))}
                row |= {"ratio": ratios.max(), "ratio_attack_round": ratios[first]}
    row["rounds_exceeded"] += _clients_exceeded(attacked, benign, pairs[-1])
    return row if "delta" in row else None


def _clients_exceeded(
    attacked: crfl.TrainingRun, benign: crfl.TrainingRun, last: tuple[torch.Tensor, torch.Tensor]
) -> int:
    """Whether the runs are farther apart than so many clients that send anything in every round can drive them."""
    record = attacked.record
    if (
        any(r.update_clip is None for r in record.rounds)
        or record.rounds[-1].clip_norm < record.rounds[-1].pre_clip_norm
    ):
        return 0
    distance = float((last[0] - last[1]).norm())
    return sum(distance > ClientScenario(run.record).cost(len(record.attackers)) for run in (attacked, benign))


def main() -> None:
    """Search, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    triggers.TRIGGERS["steepest"] = steepest
    rng, data, rows, refused = np.random.default_rng(options.seed), {}, [], 0
    start = time.perf_counter()
    while time.perf_counter() - start < options.seconds or not rows:
        settings = draw(rng)
        seed = settings["seed"]
        if seed not in data:
            data[seed] = crfl.load_data(crfl.Experiment(seed=seed))
        try:
            row = compare(settings, data[seed], rng)
        except (crfl.errors.SettingsError, crfl.errors.TrainingError):
            continue
        refused += row is None
        rows += [] if row is None else [row]
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False)
    print(f"{len(table)} pairs of runs in {time.perf_counter() - start:.0f} s, {refused} refused")
    by = table.groupby("local.precision")[["ratio", "ratio_attack_round", "certified", "changed"]]
    print(by.agg(["mean", "max"]).round(6).to_string())
    broken = table[(table.rounds_exceeded > 0) | (table.predictions_broken > 0)]
    print(f"tightest ratio of distance and Delta: {table.ratio.max():.6f}")
    print(f"violations: {len(broken)}")
    if len(broken):
        print(broken.to_string())
        sys.exit(1)


if __name__ == "__main__":
    main()
