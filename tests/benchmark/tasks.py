"""A small federation on which rival methods are tried."""

from dataclasses import replace

import numpy as np
import torch

import crfl
from crfl.benchmark.entry import Task


def small_task(seed=0, samples=600, features=6, classes=3, clients=4, spread=0.3):
    """Clusters in the cube of edge 2 around 0, one a class."""
    random = np.random.default_rng(seed)
    centres = random.uniform(-1, 1, (classes, features))
    labels = [random.integers(0, classes, n) for n in (samples, 80)]
    inputs = [np.clip(centres[y] + spread * random.normal(size=(len(y), features)), -1, 1).astype("f4") for y in labels]
    data = crfl.FederatedData.from_arrays(
        inputs[0], labels[0], inputs[1], labels[1], clients=clients, domain=(-1, 1), num_classes=classes
    )
    return Task("clusters", data, seed)


def replaced(data, rows, seed=0):
    """The data after the samples in these rows became corners of the cube with random labels."""
    random = np.random.default_rng(seed)
    x, y = data.x.clone(), data.y.clone()
    x[rows] = torch.from_numpy(random.choice([-1, 1], (len(rows), data.num_features)).astype("f4"))
    y[rows] = torch.from_numpy(random.integers(0, data.num_classes, len(rows)))
    return replace(data, x=x, y=y)


def accuracy(prediction, task):
    return float(np.mean(prediction == task.data.test.y.numpy()))


def assert_votes_stand(entries):
    """What 20 partitions certify against replaced samples and flipped labels stands under both; the outcome."""
    task = small_task(samples=1000)
    entry, flips = entries
    assert (entry.threat, flips.threat) == ("replaced samples", "label flips")
    outcome = entry.run(task)
    assert accuracy(outcome.prediction, task) > 0.9
    assert 3 <= outcome.strength.max() <= 10  # of 20 votes at most 10
    strength = 4
    stands = outcome.strength >= strength
    assert stands.any()
    assert (flips.attack(task, strength) == outcome.prediction)[stands].all()
    rows = torch.cat(task.data.shards)[torch.randperm(1000)[:strength]]
    attacked = entry.run(Task("", replaced(task.data, rows), task.seed)).prediction
    assert (attacked == outcome.prediction)[stands].all()
    return outcome
