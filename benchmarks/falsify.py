"""A long search for runs that break the coupling certificate, and how tight it is where it holds.

Run: python benchmarks/falsify.py [--runs 1000] [--seed 0] [--out FILE.csv]. Each run draws settings at random
(attackers, scale, poison, triggers, label changes, clipping, noise, weight decay, participation, several attack rounds,
malicious updates), trains a poisoned model of the digits and its benign counterpart with common seeds, and compares: in
every round their distance must be at most Delta_t, and no certified prediction may differ. FILE gets a row a run. Ends
with an error if anything is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

import crfl
from crfl.attack import triggers
from crfl.certification.coupled import check_coupled
from crfl.certification.coupling.distance import CoupledScenario
from crfl.errors import CertificateError


@dataclass(frozen=True)
class Steepest:
    """Projected gradient ascent on how far a sample's loss gradient turns, under a random linear model."""

    weights: torch.Tensor
    magnitude: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The samples x (m, d), each moved by at most the magnitude."""
        clean = torch.softmax(x @ self.weights.T, 1)
        label = torch.nn.functional.one_hot(clean.argmin(1), len(self.weights))
        start = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        change = 1e-3 * self.magnitude * start
        for _ in range(5):
            moved = (x + change).requires_grad_()
            residual = torch.softmax(moved @ self.weights.T, 1) - label
            turn = torch.einsum("mc,md->mcd", residual, moved) - torch.einsum("mc,md->mcd", clean - label, x)
            turn.square().sum().backward()
            assert moved.grad is not None
            step = moved.grad / moved.grad.norm(dim=1, keepdim=True).clamp(min=1e-9)
            change = change + self.magnitude * step
            change = change * (self.magnitude / change.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1.0)
        return x + change


def steepest(attack: Any, data: crfl.FederatedData, generator: torch.Generator) -> Steepest:
    """The trigger "steepest": the same random model for all attackers."""
    return Steepest(torch.randn(data.num_classes, data.num_features, generator=generator), attack.magnitude)


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Settings of one run, by dotted key."""
    rounds = int(rng.integers(3, 13))
    several = rng.random() < 0.3
    attack_rounds = sorted(rng.choice(np.arange(1, rounds + 1), size=min(rounds, 3), replace=False).tolist())
    settings: dict[str, Any] = {
        "seed": int(rng.integers(10**6)),
        "server.rounds": rounds,
        "server.clip.start": float(rng.choice([0.3, 1.0, 1.5, 2.0, np.inf])),
        "server.clip.slope": float(rng.choice([0.0, 0.02, 0.1])),
        "server.noise": float(rng.choice([0.0, 0.01, 0.1])),
        "server.aggregation": str(rng.choice(["mean", "weighted_mean"])),
        "server.participation": float(rng.choice([1.0, 1.0, 0.5])),
        "local.learning_rate": float(rng.choice([0.01, 0.05, 0.1, 0.1629])),
        "local.weight_decay": float(rng.choice([0.0, 0.0, 0.05])),
        "local.batch_size": int(rng.choice([10, 20, 37, 140])),
        "local.keep_last_batch": bool(rng.random() < 0.3),
        "local.epochs": int(rng.choice([1, 1, 2])),
        "attack.round": tuple(attack_rounds) if several else attack_rounds[0],
        "attack.clients": int(rng.choice([1, 1, 2, 5, 10])),
        "attack.force_participation": True,
        "attack.scale": float(np.exp(rng.uniform(np.log(0.5), np.log(100)))),
        "attack.magnitude": float(rng.choice([0.0, 0.01, 0.1, 1.0, 5.0])),
        "attack.labels": str(rng.choice(["target", "keep"])),
        "attack.target": int(rng.integers(10)),
        "attack.trigger": [((5, 7), (6, 6), (7, 5), (7, 7)), "full_image", "steepest"][int(rng.integers(3))],
    }
    settings["attack.poisoned_per_batch"] = int(rng.integers(1, settings["local.batch_size"] + 1))
    if settings["local.weight_decay"]:
        settings["local.learning_rate"] = min(settings["local.learning_rate"], 0.1)
    elif rng.random() < 0.3:
        steps = 2 * -(-144 // settings["local.batch_size"])  # at least tau of two epochs
        settings["server.update_clip"] = 1.01 * steps * settings["local.learning_rate"] * np.sqrt(2) * 4.92
    if rng.random() < 0.1:
        settings["attack.update"] = str(rng.choice(["sign_flip", "gaussian"]))
    return settings


def compare(settings: dict[str, Any], data: crfl.FederatedData) -> dict[str, Any] | None:
    """One pair of runs: what was claimed and what happened. None if the certificate is refused."""
    exp = crfl.Experiment().override(settings)
    attacked, benign = crfl.train_many([exp, exp], data, benign=[False, True])
    try:
        check_coupled(attacked.record)
    except CertificateError:
        return None
    magnitude = max(a.magnitude for r in attacked.record.attack_rounds for a in r.attackers)
    actual = benign.history["distance"].to_numpy()
    claimed = CoupledScenario(attacked.record, before_clip=False).distances(magnitude)[:, 1]
    first = attacked.record.attack_rounds[0].round - 1
    cert = crfl.certify(attacked, data.test, kind="margin")
    held = ~cert.abstained & (cert.radius >= magnitude)
    other = benign.model.logits(benign.params.double(), data.test.x.double()).argmax(dim=1).numpy()
    return {
        **settings,
        "distance": actual[-1],
        "delta": claimed[-1],
        "ratio": actual[-1] / claimed[-1] if claimed[-1] else 0.0,
        "ratio_attack_round": actual[first] / claimed[first] if claimed[first] else 0.0,
        "certified": held.mean(),
        "changed": (other != cert.prediction).mean(),
        "rounds_exceeded": int((actual > claimed).sum()),
        "predictions_broken": int((held & (other != cert.prediction)).sum()),
    }


def main() -> None:
    """Search, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None)
    options = parser.parse_args()
    triggers.TRIGGERS["steepest"] = steepest
    rng, data = np.random.default_rng(options.seed), {}
    rows, start = [], time.perf_counter()
    while len(rows) < options.runs:
        settings = draw(rng)
        seed = settings["seed"] % 5  # five partitions are enough
        settings["seed"] = seed
        if seed not in data:
            data[seed] = crfl.load_data(crfl.Experiment(seed=seed))
        row = compare(settings, data[seed])
        if row is not None:
            rows.append(row)
    table = pd.DataFrame(rows)
    if options.out:
        table.to_csv(options.out, index=False)
    print(f"{len(table)} pairs of runs in {time.perf_counter() - start:.0f} s")
    print(table[["ratio", "ratio_attack_round", "certified", "changed"]].describe().round(4).to_string())
    broken = table[(table.rounds_exceeded > 0) | (table.predictions_broken > 0)]
    print(f"certified and unchanged: {int((table.certified * len(data[seed].test)).sum())} predictions")
    print(f"violations: {len(broken)}")
    if len(broken):
        print(broken.to_string())
        sys.exit(1)


if __name__ == "__main__":
    main()
