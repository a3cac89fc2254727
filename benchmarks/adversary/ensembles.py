"""Ensembles: malicious clients, or poisoned samples, chosen against the vote for one test sample."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

import crfl
from benchmarks.adversary import draws, poison
from benchmarks.adversary.clients import clusters, direction
from benchmarks.adversary.outcome import FloatArray, Outcome
from crfl.certification.ensembles.group_prices import price_groups
from crfl.certification.ensembles.plurality import count_votes, plurality
from crfl.errors import CertificateError


def malicious(rng: np.random.Generator) -> Outcome | None:
    """m clients, in the groups where they are cheapest: any rule and model at a price of one client, or prices "clients"."""
    about, data = clusters(rng)
    settings, module = about | _settings(rng), None
    priced = bool(rng.random() < 0.6)
    if priced:
        settings |= {
            "server.update_clip": float(rng.choice([0.03, 0.3])),
            "server.decay": float(rng.choice([0.0, 0.2])),
        }
    elif rng.random() < 0.5:
        inner = torch.nn.Linear(data.num_features, 5), torch.nn.ReLU(), torch.nn.Linear(5, data.num_classes)
        module = torch.nn.Sequential(*inner)
    if not priced:
        settings["server.aggregation"] = str(rng.choice(["mean", "rfa", "median", "weighted_mean"]))
    exp, groups = crfl.Experiment().override(settings), int(rng.integers(3, 10))
    clean = crfl.train_ensemble(exp.override({"attack.round": None}), data, min(groups, len(data.shards)), model=module)
    try:
        cert = crfl.certify(clean, data.test, prices="clients" if priced else None)
    except CertificateError:
        return None
    shape = len(data.test), len(clean.groups), data.num_classes
    prices = price_groups(clean, data.test, "clients")["prices"] if priced else np.ones(shape)
    number, row = chosen(rng, cert.malicious_clients)
    attackers = _cheapest(clean, data, row, prices[row])[:number]
    if not attackers:
        return None
    if module is None:
        poison.KNOWN["direction"] = direction(data, clean.group_run(0), row)
    update = "push" if module is None else str(rng.choice(["sign_flip", "gaussian", "nan"]))
    attack = {"attack.clients": tuple(sorted(attackers)), "attack.round": 1, "attack.every": 1, "attack.update": update}
    attacked = crfl.train_ensemble(
        exp.override(attack | {"attack.scale": 100.0}), data, len(clean.groups), model=module
    )
    after = _vote(attacked, data) if priced else attacked.predict(data.test)
    held = cert.malicious_clients >= len(attackers)
    return _outcome(held, cert.prediction != after, settings | attack)


def poisoned(rng: np.random.Generator) -> Outcome | None:
    """Poisoned samples of any content, in the cheapest groups, in one round (prices "poison")."""
    about, data = clusters(rng)
    settings = about | _settings(rng) | {"attack.scale": 1.0, "attack.trigger": "content", "local.epochs": 1}
    settings |= {
        "attack.poisoned_per_batch": 1,
        "attack.magnitude": 5.0,
        "local.learning_rate": 0.03,
        "model.bias": True,
    }
    arrays = [data.features(rows).numpy() for rows in data.shards]
    largest = max(float(np.abs(x).max()) for x in (*arrays, data.test.x.numpy()))
    labels = [data.y[rows].numpy() for rows in data.shards]
    boxed: dict[str, Any] = {"domain": (-largest, largest), "num_classes": data.num_classes}
    data = crfl.FederatedData.from_arrays(arrays, labels, data.test.x, data.test.y, **boxed)
    exp, groups = crfl.Experiment().override(settings), int(rng.integers(2, 6))
    clean = crfl.train_ensemble(exp.override({"attack.round": None}), data, min(groups, len(data.shards)))
    try:
        cert = crfl.certify(clean, data.test, prices="poison")
    except CertificateError:
        return None
    prices = price_groups(clean, data.test, "poison")["prices"]
    number, row = chosen(rng, cert.poisoned_samples)
    size, keep = exp.local.batch_size, exp.local.keep_last_batch
    steps = [-(-n // size) if keep else n // size for n in data.sizes]  # a sample in every batch
    attackers: list[int] = []
    for client in _cheapest(clean, data, row, prices[row]):
        if steps[client] and sum(steps[c] for c in (*attackers, client)) <= number:
            attackers.append(client)
    if not attackers:
        return None
    poison.KNOWN["weights"] = clean.params[0][: data.num_classes * data.num_features].view(data.num_classes, -1)
    second = int(clean.group_run(0).logits(data.test.x[row : row + 1])[0].topk(2).indices[1])
    attack = {"attack.clients": tuple(sorted(attackers)), "attack.round": int(rng.integers(1, exp.server.rounds + 1))}
    attacked = crfl.train_ensemble(exp.override(attack | {"attack.target": second}), data, len(clean.groups))
    held = ~cert.abstained & (cert.poisoned_samples >= sum(steps[c] for c in attackers))
    return _outcome(held, cert.prediction != _vote(attacked, data), settings | attack)


def chosen(rng: np.random.Generator, counts: Any) -> tuple[int, int]:
    """A number above 0 that some predictions are certified against, and the row of one that is certified no further."""
    some = counts[counts > 0]
    number = int(rng.choice(some)) if len(some) else 1
    rows = np.flatnonzero(counts == number)
    return number, int(rng.choice(rows)) if len(rows) else int(rng.integers(len(counts)))


def _settings(rng: np.random.Generator) -> draws.Settings:
    return {
        "local.batch_size": int(rng.choice([1, 2])),
        "local.learning_rate": float(rng.choice([0.01, 0.1])),
        "server.rounds": int(rng.integers(2, 12)),
        "server.noise": float(rng.choice([0.0, 0.01])),
        "server.clip.start": math.inf,
        "model.bias": bool(rng.integers(2)),
        "attack.labels": "target",
        "attack.round": 1,
        "attack.trigger": "full_image",
        "local.keep_last_batch": True,
    }


def _cheapest(ensemble: crfl.EnsembleRun, data: crfl.FederatedData, row: int, prices: FloatArray) -> list[int]:
    """Clients in the order in which they do most harm to the vote for a sample: all that a group costs, group by group."""
    votes = ensemble.votes(data.test.x[row : row + 1])[0]
    winner = np.bincount(votes, minlength=data.num_classes).argmax()
    cheapest = np.where(np.arange(data.num_classes) == votes[:, None], np.inf, prices).min(axis=1)  # (G,)
    order = [g for g in np.argsort(cheapest, kind="stable") if votes[g] == winner]
    first = [int(c) for g in order for c in ensemble.groups[g][: int(min(cheapest[g], len(ensemble.groups[g])))]]
    return [*first, *(c for c in range(len(data.shards)) if c not in first)]


def _vote(ensemble: crfl.EnsembleRun, data: crfl.FederatedData) -> Any:
    """The vote of the groups' models, computed in float64 as their certificates want it."""
    logits = [ensemble.model.logits(p.double(), data.test.x.double()) for p in ensemble.params]
    return plurality(count_votes(torch.stack(logits).argmax(2).T.numpy(), data.num_classes))


def _outcome(held: Any, differ: Any, about: draws.Settings) -> Outcome:
    return Outcome(math.nan, int((held & differ).sum()), float(held.mean()), float(differ.mean()), about)
