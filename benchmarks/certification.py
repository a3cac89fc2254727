"""Seconds of votes, exact bounds, margins and curves, and the share of a large product's rate that votes reach."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import crfl
from benchmarks.table import Row, alternate
from crfl.certification import exact_bounds
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
    ]
