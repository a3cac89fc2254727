"""Optimised poison against the certificate "whatever the poisoned samples hold": does it break, and how tight is it?

Run: python benchmarks/poison_search.py [--runs 500] [--seed 0]. Each run draws a small federation at random, whose
features come from a fixed map, an attack round, a test sample and a wrong label for it. Gradient ascent on the poisoned
image, through the map, makes its gradient push that sample towards the label; poisoned run and benign counterpart share
everything else. Certified predictions must agree and the distance must stay below Delta (attack round unknown). Ends
with an error if anything is broken.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import crfl
from crfl.attack import triggers
from crfl.certification.coupling.distance import CoupledScenario

SIDE, CLASSES = 6, 3


class Map(nn.Module):
    """A frozen convolution with tanh: smooth, so that gradients pass."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(seed)))

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(nn.functional.conv2d(images, self.kernels, stride=2)).flatten(1)


def draw(rng: np.random.Generator) -> dict[str, Any]:
    """Settings of a federation and its attack."""
    rounds, size = int(rng.integers(2, 16)), int(rng.choice([10, 20]))
    batch = int(rng.choice([size, size // 2]))
    settings: dict[str, Any] = {
        "seed": int(rng.integers(10**6)),
        "data.name": "custom",
        "data.clients": int(rng.integers(2, 7)),
        "model.bias": False,
        "local.batch_size": batch,
        "local.learning_rate": float(rng.choice([0.1, 1.0, 3.0])),
        "local.schedule": "inverse",
        "local.epochs": int(rng.integers(1, 3)),
        "server.rounds": rounds,
        "server.noise": float(rng.choice([0.0, 0.02])),
        "server.clip.start": float(rng.choice([0.5, np.inf])),
        "server.decay": float(rng.choice([0.03, 0.3])),
        "attack.round": int(rng.integers(1, rounds + 1)),
        "attack.scale": float(rng.choice([1.0, 10.0])),
        "attack.poisoned_per_batch": int(rng.integers(1, batch + 1)),
        "attack.magnitude": 100.0,
        "attack.target": int(rng.integers(CLASSES)),
        "attack.trigger": "optimised",
    }
    if rng.random() < 0.5:
        steps = settings["local.epochs"] * (size // batch)
        settings["server.update_clip"] = 1.01 * steps * settings["local.learning_rate"] * np.sqrt(2)
    return settings


def federation(settings: dict[str, Any], rng: np.random.Generator) -> crfl.FederatedData:
    """Images around a mean of each class, dealt out."""
    count = settings["data.clients"] * (20 if settings["local.batch_size"] in (20,) else 10)
    means = rng.random((CLASSES, SIDE, SIDE))
    y = rng.integers(0, CLASSES, count + 80)
    x = np.clip(means[y] + 0.25 * rng.standard_normal((len(y), SIDE, SIDE)), 0, 1).astype(np.float32)
    held = len(y) - 40
    return crfl.FederatedData.from_arrays(
        x[:held],
        y[:held],
        x[held:],
        y[held:],
        clients=settings["data.clients"],
        domain=(0.0, 1.0),
        num_classes=CLASSES,
        seed=settings["seed"],
        features=Map(settings["seed"]),
        public=40,
        whiten=8,
        norm=1.0,
    )


def ascend(data: crfl.FederatedData, model: Tensor, victim: Tensor, target: int, start: Tensor) -> Tensor:
    """The image (d_in,) whose loss gradient pushes the victim's features (k,) most towards the target label."""
    phi, weights = data.feature_map, model.float().view(CLASSES, -1)
    assert phi is not None
    assert isinstance(phi.function, nn.Module)
    scores = weights @ victim
    rival = int(torch.where(torch.arange(CLASSES) == target, -torch.inf, scores).argmax())
    image = start.clone().requires_grad_()
    for _ in range(15):
        raw = phi.function(image.clamp(0, 1).view(1, 1, SIDE, SIDE))
        feature = phi._finish(raw)[0]
        push = nn.functional.one_hot(torch.tensor(target), CLASSES).float() - torch.softmax(weights @ feature, 0)
        gain = (push[target] - push[rival]) * (feature @ victim)
        (slope,) = torch.autograd.grad(gain, image)
        image = (image + 0.5 * slope / slope.norm().clamp_min(1e-9)).clamp(0, 1).detach().requires_grad_()
    return image.detach()


def compare(settings: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    """One pair of runs: what was claimed and what happened."""
    data = federation(settings, rng)
    exp = crfl.Experiment().override({**settings, "attack.trigger": "full_image"})
    before = settings["attack.round"] - 1
    quiet = crfl.train(exp.override({"attack.round": None}), data, checkpoints=[before] if before else [])
    model = quiet.checkpoints[before] if before else torch.zeros_like(quiet.params)
    victim, start = data.test.x[rng.integers(40)], data.test_inputs[rng.integers(40)]
    image = ascend(data, model, victim, settings["attack.target"], start)
    triggers.TRIGGERS["optimised"] = lambda *_: lambda x: image.expand_as(x)
    try:
        exp = crfl.Experiment().override(settings)
        attacked, benign = crfl.train_pair(exp, data)
    finally:
        del triggers.TRIGGERS["optimised"]
    cert = crfl.certify(attacked, data.test, attack_round="any")
    scenario = CoupledScenario(attacked.record, before_clip=False, any_round=True)
    delta, distance = scenario.cost(np.inf), float((attacked.params - benign.params).norm())
    changed = benign.predict(data.test.x) != cert.prediction
    return {
        **settings,
        "distance": distance,
        "delta": delta,
        "ratio": distance / delta,
        "certified": float(cert.any_poison.mean()),
        "changed": float(changed.mean()),
        "broken": int((changed & cert.any_poison).sum()) + int(distance > delta),
    }


def search(runs: int, seed: int) -> pd.DataFrame:
    """A row a pair of runs."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame([compare(draw(rng), rng) for _ in range(runs)])


def main() -> None:
    """Search, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = search(options.runs, options.seed)
    print(f"{len(found)} pairs, {int((found.broken > 0).sum())} broken")
    print(f"distance / Delta: {found.ratio.quantile([0.5, 0.9, 1.0]).round(4).tolist()} (median, 0.9, largest)")
    print(
        f"certified whatever the poison: {found.certified.mean():.3f}; predictions changed: {found.changed.mean():.3f}"
    )
    if found.broken.any():
        print(found[found.broken > 0].to_string())
        sys.exit(1)


if __name__ == "__main__":
    main()
