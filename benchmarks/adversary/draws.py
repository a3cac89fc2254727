"""Data and settings, drawn at random."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from torch import nn

import crfl
from crfl.curvature import batch_smoothness

Settings = dict[str, Any]


@functools.cache
def digits(seed: int) -> crfl.FederatedData:
    """The digits, dealt out anew."""
    return crfl.load_data(crfl.Experiment(seed=seed))


def federation(rng: np.random.Generator) -> tuple[Settings, crfl.FederatedData]:
    """Settings of the data, and the data: the digits, or a few clients with random features of any size."""
    if rng.random() < 0.25:
        seed = int(rng.integers(5))  # five partitions are enough
        return {"seed": seed}, digits(seed)
    classes, width, clients = int(rng.integers(2, 6)), int(rng.integers(1, 13)), int(rng.integers(2, 9))
    centres = rng.normal(size=(classes, width))
    labels = [rng.integers(0, classes, rng.integers(1, 41)) for _ in range(clients)]
    shards = [centres[y] + rng.normal(size=(len(y), width)) * rng.choice([0.1, 1.0]) for y in labels]
    if rng.random() < 0.4:  # two clients that pull in opposite directions
        shards[1], labels[1] = -shards[0], labels[0]
    test_labels = rng.integers(0, classes, 200)
    test = centres[test_labels] + rng.normal(size=(200, width))
    size = float(np.exp(rng.uniform(math.log(0.01), math.log(100))))
    options: dict[str, Any] = {}
    if rng.random() < 0.3:  # bytes
        arrays = [np.clip(128 + 40 * x, 0, 255).astype(np.uint8) for x in (*shards, test)]
    else:
        arrays = [(size * x).astype(np.float32) for x in (*shards, test)]
        if rng.random() < 0.5:
            least, most = (float(f([f(x) for x in arrays])) for f in (np.min, np.max))
            options = {"domain": (least, most + 1e-3)}
    data = crfl.FederatedData.from_arrays(arrays[:-1], labels, arrays[-1], test_labels, num_classes=classes, **options)
    return {"seed": int(rng.integers(10**6)), "data.name": "custom", "data.clients": clients}, data


def draw(rng: np.random.Generator, data: crfl.FederatedData) -> Settings:
    """Settings of training and attack for the data, by dotted key."""
    settings: Settings = {
        "model.bias": bool(rng.random() < 0.7),
        "local.precision": str(rng.choice(["float64", "float64", "float32"])),
        "local.batch_size": (batch := int(rng.choice([1, 4, 10, 40] if max(data.sizes) < 50 else [20, 37, 140, 140]))),
        "local.keep_last_batch": bool(batch > min(data.sizes) or rng.random() < 0.4),
        "local.epochs": int(rng.choice([1, 1, 2])),
    }
    settings |= _server(rng) | _attack(rng, data, settings["local.batch_size"])
    settings |= _rates(rng, settings, data)
    return settings | _update_clip(rng, settings, data)


def _server(rng: np.random.Generator) -> Settings:
    return {
        "server.rounds": int(rng.integers(2, 13)),
        "server.clip.start": float(rng.choice([1e-5, 1e-2, 0.3, 1.0, 1.5, 2.0, np.inf])),
        "server.clip.slope": float(rng.choice([0.0, 0.0, 0.02, 0.1])),
        "server.noise": float(rng.choice([0.0, 1e-4, 0.01, 0.1])),
        "server.aggregation": str(rng.choice(["mean", "weighted_mean"])),
        "server.participation": float(rng.choice([1.0, 1.0, 0.5])),
    }


def _attack(rng: np.random.Generator, data: crfl.FederatedData, batch: int) -> Settings:
    clients = len(data.shards)
    found: Settings = {
        "attack.round": int(rng.integers(1, 3)),
        "attack.clients": int(min(clients, rng.choice([1, 1, 2, 5, 10]))),
        "attack.force_participation": bool(rng.random() < 0.4),
        "attack.scale": float(rng.choice([1.0, np.exp(rng.uniform(np.log(0.5), np.log(100)))])),
        "attack.magnitude": float(rng.choice([0.0, 0.01, 0.1, 1.0, 5.0])) * max(1.0, data.max_feature_norm / 4),
        "attack.labels": str(rng.choice(["target", "keep"])),
        "attack.target": int(rng.integers(data.num_classes)),
        "attack.trigger": str(rng.choice(["full_image", "steepest", "steepest", "content"])),
        "attack.poisoned_per_batch": int(rng.integers(1, batch + 1)),
    }
    if rng.random() < 0.3:
        found["attack.every"] = int(rng.integers(1, 4))
    if rng.random() < 0.1:
        found["attack.update"] = str(rng.choice(["sign_flip", "gaussian"]))
    return found


def _rates(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """Learning rates up to the longest that is certified, with decays and schedules."""
    local = crfl.Experiment().override({k: v for k, v in settings.items() if k.startswith("local.")}).local
    curved = float(batch_smoothness(data, local, settings["model.bias"]).max())
    share = float(rng.choice([1e-6, 0.01, 0.1, 0.5, 1 - 1e-9]))
    kind = str(rng.choice(["none", "none", "clients", "server"]))
    decay = float(rng.choice([2.0**-23, 1e-3, 0.05, 0.4]))  # eta lambda
    found: Settings = {"local.learning_rate": share * 2 / curved}
    if kind == "clients":  # eta = share * 2 / (beta + 2 lambda), eta lambda = share * decay
        weight_decay = decay * curved / (2 - 2 * decay)
        found = {"local.weight_decay": weight_decay, "local.learning_rate": share * 2 / (curved + 2 * weight_decay)}
    if kind == "server":
        found["server.decay"] = decay / found["local.learning_rate"]
    if kind != "none" and rng.random() < 0.5:
        found["local.schedule"], found["local.schedule_offset"] = "inverse", float(rng.choice([0.0, 20.0]))
    return found


def longest_update(settings: Settings, data: crfl.FederatedData) -> tuple[int, float]:
    """tau of the largest client, and sqrt(2) B: no update is longer than tau eta times that (without weight decay)."""
    size, batch = max(data.sizes), settings["local.batch_size"]
    steps = settings["local.epochs"] * (-(-size // batch) if settings["local.keep_last_batch"] else size // batch)
    return max(1, steps), math.sqrt(2) * math.hypot(settings["model.bias"], data.max_feature_norm)


def _update_clip(rng: np.random.Generator, settings: Settings, data: crfl.FederatedData) -> Settings:
    """None, fixed ones, schedules; loose and tight."""
    steps, length = longest_update(settings, data)
    factor = float(rng.choice([1.01, 0.3, 0.1, 0.01]))
    kind = rng.random()
    if kind < 0.55:
        return {}
    if kind < 0.8:
        return {"server.update_clip": factor * steps * settings["local.learning_rate"] * length}
    start = factor * length
    schedule = {"start": start, "end": start * float(rng.choice([0.1, 1.0])), "decay_rounds": float(rng.choice([1, 5]))}
    return {"server.update_clip": schedule}


def linear(rng: np.random.Generator, data: crfl.FederatedData, bias: bool) -> nn.Module:
    """A first model with weights of a random size."""
    module, generator = nn.Linear(data.num_features, data.num_classes, bias=bias), torch.Generator()
    generator.manual_seed(int(rng.integers(2**31)))
    size = float(np.exp(rng.uniform(math.log(1e-3), math.log(30))))
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=size, generator=generator)
    return module
