"""Clients that send anything: in every round (kind "clients"), or in some (`max_malicious`)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

import crfl
from benchmarks.adversary import draws, layouts, pairs, poison
from benchmarks.adversary.outcome import Outcome, exceeded
from crfl.certification.coupling.clients import ClientScenario
from crfl.errors import CertificateError


def clusters(rng: np.random.Generator) -> tuple[dict[str, Any], crfl.FederatedData]:
    """Many clients with few samples of classes that are easily told apart."""
    classes, width, clients = int(rng.integers(2, 4)), int(rng.integers(2, 7)), int(rng.integers(6, 31))
    centres = 2 * rng.normal(size=(classes, width))
    size = int(rng.choice([1, 2, 4]))
    y = list(rng.integers(0, classes, (clients, size)))
    x = [(centres[own] + 0.3 * rng.normal(size=(size, width))).astype(np.float32) for own in y]
    if rng.random() < 0.3:  # unequal clients
        x[0], y = np.concatenate(x[:3]), [np.concatenate(y[:3]), *y[1:]]
    test_y = rng.integers(0, classes, 100)
    test = (centres[test_y] + rng.normal(size=(100, width))).astype(np.float32)
    data = crfl.FederatedData.from_arrays(x, y, test, test_y, num_classes=classes)
    return {"seed": int(rng.integers(10**6)), "data.name": "custom", "data.clients": clients}, data


def settings_for(rng: np.random.Generator, data: crfl.FederatedData) -> dict[str, Any]:
    """Settings under which clients that send anything can do little: clipped updates, decay, clip norms that bite or not."""
    settings = draws.draw(rng, data)
    settings |= {"local.batch_size": int(rng.choice([1, 4])), "attack.force_participation": False, "attack.scale": 1.0}
    settings |= {
        "attack.poisoned_per_batch": 1,
        "local.keep_last_batch": True,
        "server.noise": float(rng.choice([0.0, 1e-3])),
    }
    settings |= {"server.clip.start": float(rng.choice([0.5, 3.0, np.inf])), "local.schedule": "constant"}
    settings |= draws._rates(rng, settings | {"local.weight_decay": 0.0}, data)
    settings["server.rounds"] = int(rng.integers(2, 16))
    return settings | pairs.updates_clipped(rng, settings, data)


def direction(data: crfl.FederatedData, model: crfl.TrainingRun, row: int) -> torch.Tensor:
    """(P,): the direction in which a model changes the class of a test sample soonest."""
    x, bias = data.test.x[row].double(), model.model.bias
    logits = model.logits(data.test.x[row : row + 1])[0]
    best, second = logits.topk(2).indices.tolist()
    weights = torch.zeros(data.num_classes, data.num_features + bias, dtype=torch.float64)
    full = torch.cat([x, x.new_ones(1)]) if bias else x
    weights[second], weights[best] = full, -full
    flat = weights[:, : data.num_features].flatten()
    flat = torch.cat([flat, weights[:, -1]]) if bias else flat
    return flat / flat.norm().clamp(min=1e-12)


def throughout(rng: np.random.Generator) -> Outcome | None:
    """m clients push every round, in the run on record they pull, learn or are as good as gold."""
    about, data = clusters(rng)
    settings = about | settings_for(rng, data)
    exp = crfl.Experiment().override(settings | {"attack.round": None, "attack.update": None, "attack.every": None})
    [clean] = layouts.train([(exp, False)], data, rng)
    try:
        cert = crfl.certify(clean, data.test, kind="clients")
    except CertificateError:
        return None
    counts = np.where(cert.abstained, 0, cert.malicious_clients)
    number, row = _number(rng, counts, data)
    poison.KNOWN["direction"] = direction(data, clean, row)
    attackers = _attackers(rng, number, data)
    attack = {"attack.clients": attackers, "attack.round": 1, "attack.every": 1, "attack.per_attacker": ()}
    sends = [exp.override(attack | {"attack.update": name}) for name in ("push", "pull")]
    pushed, pulled = layouts.train([(e, False) for e in sends], data, rng)
    ratio, broken, share = 0.0, 0, []
    runs = (clean, pushed, pulled)
    classes = pairs.predictions(runs, data.test.x)
    for i, run in enumerate(runs):
        try:
            cert = crfl.certify(run, data.test, kind="clients")
        except CertificateError:
            continue
        held = ~cert.abstained & (cert.malicious_clients >= number)
        share.append(held.mean())
        cost = ClientScenario(run.record).cost(number)
        for j, other in enumerate(runs):
            if i != j:
                far, count = exceeded(pairs.distances(run, other)[-1:], np.array([cost]))
                ratio, broken = max(ratio, far), broken + count + int((held & (classes[i] != classes[j])).sum())
    changed = float((classes[0] != classes[1]).mean())
    return Outcome(ratio, broken, float(np.mean(share)), changed, settings | {"malicious": attackers})


def client_rounds(rng: np.random.Generator) -> Outcome | None:
    """k updates, each of one client in one round, are anything: against silence, against other updates."""
    about, data = clusters(rng)
    settings = about | settings_for(rng, data)
    attackers = _attackers(rng, int(rng.integers(1, 4)), data)
    times = rng.choice(
        np.arange(1, settings["server.rounds"] + 1), size=min(2, settings["server.rounds"]), replace=False
    )
    attack = {"attack.clients": attackers, "attack.round": tuple(sorted(times.tolist())), "attack.every": None}
    exp = crfl.Experiment().override(settings | attack | {"attack.update": "push"})
    poison.KNOWN["direction"] = torch.randn(
        data.num_classes * (data.num_features + exp.model.bias), generator=torch.Generator().manual_seed(exp.seed)
    )
    [silent] = layouts.train([(exp, True)], data, rng)
    poison.KNOWN["direction"] = direction(data, silent, int(rng.integers(len(data.test))))
    pushed, pulled = layouts.train([(exp, False), (exp.override({"attack.update": "pull"}), False)], data, rng)
    used = len(attackers) * len(times)
    broken, share, runs = 0, [], (silent, pushed, pulled)
    classes = pairs.predictions(runs, data.test.x)
    for i, run in enumerate(runs):
        for name in (False, True):
            try:
                cert = crfl.certify(run, data.test, kind="margin")
                held = ~cert.abstained & (cert.max_malicious(silent=name) >= used)
            except CertificateError:
                continue
            share.append(held.mean())
            for j in range(3):
                if not name or 0 in (i, j):  # against silence: one of the two runs is the silent one
                    broken += int((held & (classes[i] != classes[j])).sum())
    if not share:
        return None
    changed = float((classes[0] != classes[1]).mean())
    return Outcome(
        math.nan, broken, float(np.mean(share)), changed, settings | {"malicious": attackers, "rounds": str(times)}
    )


def _number(rng: np.random.Generator, counts: Any, data: crfl.FederatedData) -> tuple[int, int]:
    """How many clients are malicious, and a test sample that they aim at: one that is certified against no more."""
    some = counts[counts > 0]
    number = min(int(rng.choice(some)) if len(some) else int(rng.integers(1, 4)), len(data.shards))
    rows = np.flatnonzero(counts == number)
    return number, int(rng.choice(rows)) if len(rows) else int(rng.integers(len(counts)))


def _attackers(rng: np.random.Generator, number: int, data: crfl.FederatedData) -> tuple[int, ...]:
    """So many clients, the first one, which may be larger, often among them."""
    clients = rng.permutation(len(data.shards))
    if rng.random() < 0.5:
        clients = np.append(0, clients[clients != 0])
    return tuple(int(c) for c in sorted(clients[:number]))
