"""Seconds of votes, exact bounds, margins, recursions, prices and curves, and the share of a large product's rate that
votes reach."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import crfl
from benchmarks.table import Row, alternate
from crfl.certification import exact_bounds
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.ensembles.prices import overturning_price
from crfl.matmul import inner

CONFIGS = Path(__file__).parents[1] / "configs"


def rows() -> list[Row]:
    exp = crfl.Experiment.from_yaml(CONFIGS / "mnist.yaml")
    data = crfl.load_data(exp)
    run = crfl.train(exp.override({"server.rounds": 20}), data)
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    votes, product = alternate(lambda: crfl.certify(run, data.test, kind="published"), lambda: inner(a, b), repeats=3)
    rate, limit = 2 * 1000 * 10_000 * 784 * 10 / votes / 1e9, 2 * 2048**3 / product / 1e9
    generator = np.random.default_rng(0)
    wide = generator.normal(size=(10_000, 47)), generator.uniform(0.05, 0.2, 10_000)
    small = generator.normal(size=(10_000, 10)), generator.uniform(0.05, 0.2, 10_000)
    margin, exact, many = alternate(
        lambda: crfl.certify(run, data.test, kind="margin"),
        lambda: exact_bounds(*small),
        lambda: exact_bounds(*wide),
        repeats=3,
    )
    certificates = [crfl.certify(run, data.test, kind="margin")] * 5
    radii = np.linspace(0, 10, 500)
    (curves,) = alternate(lambda: [c.certified_accuracy(data.test.y, radii) for c in certificates])
    return [
        Row("published certificate, M = 1000, 10,000 x 784 x 10", votes, 1.5, "s"),
        Row("votes: share of a large product's rate", rate / limit, 0.7, at_least=True),
        Row("exact bounds, 10,000 x 10", exact, 0.5, "s"),
        Row("exact bounds, 10,000 x 47", many, 4, "s"),
        Row("margin certificate, 10,000 images", margin, 0.1, "s"),
        Row("five curves of 500 radii", curves, 0.1, "s"),
        *recursions(),
        *ensembles(),
    ]


def recursions() -> list[Row]:
    """Of digits in 3,000 rounds whose rate falls, with 20 clients, each made anew from the record."""
    settings = {
        "data.clients": 20,
        "model.bias": False,
        "features.norm": 1.0,
        "local": {"batch_size": 100_000, "keep_last_batch": True, "learning_rate": 1.9, "schedule": "inverse"},
        "server": {"rounds": 3000, "evaluate_every": 3000, "decay": 0.0085, "noise": 0.0, "update_clip": 0.2},
        "server.clip": {"start": float("inf")},
        "attack": {"round": 1500, "clients": 1, "scale": 10.0, "poisoned_per_batch": 3},
    }
    exp = crfl.Experiment().override(settings)
    clipped = crfl.train(exp, crfl.load_data(exp)).record
    record = replace(clipped, rounds=tuple(replace(r, update_clip=None, update_norms=None) for r in clipped.rounds))
    budgets = np.random.default_rng(0).uniform(0.3, 2, 10_000)

    def scenario(of: crfl.TrainingRecord = record) -> CoupledScenario:
        return CoupledScenario(of, before_clip=True, any_round=True)

    least, known = scenario().cost(0.1), scenario()
    own = 0.02 * scenario(clipped).cost(0.1) * budgets
    unknown, unknown_clipped, radii, client_rounds = alternate(
        lambda: scenario().cost(0.1),
        lambda: scenario(clipped).cost(0.1),
        lambda: known.radius(least * budgets),
        lambda: scenario(clipped).max_malicious(own),
        repeats=3,
    )
    return [
        Row("unknown round, 3,000 rounds", unknown, 0.2, "s"),
        Row("the same with clipped updates", unknown_clipped, 0.2, "s"),
        Row("the same: 10,000 radii, all budgets different", radii, unit="s"),
        Row("client-rounds of 10,000 budgets, 3,000 rounds", client_rounds, unit="s"),
    ]


def ensembles() -> list[Row]:
    """Of 10,000 samples and 10 classes."""
    rng, found = np.random.default_rng(0), []
    for groups in (20, 200):
        truth, other = rng.integers(0, 10, (10_000, 1)), rng.integers(0, 10, (10_000, groups))
        votes = np.where(rng.random((10_000, groups)) < 0.7, truth, other)
        prices = rng.uniform(0.5, 9, (10_000, groups, 10))
        (seconds,) = alternate(lambda v=votes, p=prices: overturning_price(v, p, 10), repeats=3)
        found.append(Row(f"prices by class of {groups} groups, 10,000 x 10", seconds, 1, "s"))
    x, y = rng.normal(size=(2400, 200)).astype(np.float32), rng.integers(0, 10, 2400)
    shards = [x[i::200] for i in range(200)], [y[i::200] for i in range(200)]
    test = rng.normal(size=(10_000, 200)).astype(np.float32), rng.integers(0, 10, 10_000)
    data = crfl.FederatedData.from_arrays(*shards, *test)
    settings = {"data": {"name": "custom", "clients": 200}, "local.batch_size": 12, "attack.round": None}
    exp = crfl.Experiment().override({**settings, "server.rounds": 2})
    ensemble = crfl.train_ensemble(exp, data, groups=200)
    (voted,) = alternate(lambda: crfl.certify(ensemble, data.test), repeats=3)
    return [*found, Row("vote of 200 groups, 10,000 x 200 x 10", voted, 1, "s")]
