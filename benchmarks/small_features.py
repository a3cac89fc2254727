"""Rounds of 58,000 samples of 200 features, as recipes on fixed feature maps have them, against batched products by hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

import crfl
from benchmarks.rivals import BatchedProducts
from benchmarks.table import Row, alternate
from crfl.run_batch import RunBatch
from crfl.state import TrainingState

FEATURES, CLASSES, SAMPLES = 200, 10, 58_000
CLIP = {"server.update_clip": {"start": 0.1, "end": 0.1, "decay_rounds": 1.0}}
FULL_EMNIST = """
import torch, crfl
from benchmarks.footprint import resident
x, y = torch.randint(0, 256, (697_932, 784), dtype=torch.uint8), torch.randint(47, (697_932,))
test = torch.randint(0, 256, (1000, 784), dtype=torch.uint8)
data = crfl.FederatedData.from_arrays(x, y, test, y[:1000], clients=1000, scale=1 / 255, domain=(0.0, 1.0))
exp = crfl.Experiment.from_yaml("configs/emnist.yaml").override(
    {"data.name": "custom", "data.clients": 1000, "attack.round": None, "server.rounds": 2, "local.epochs": 1}
)
crfl.train(exp, data)
print(resident("VmHWM") / 1024)
"""

SCATTERING = """
import time, torch, crfl
from benchmarks.footprint import resident
x = torch.randint(0, 256, (60_000, 28, 28), dtype=torch.uint8)
y = torch.randint(10, (60_000,))
start = time.perf_counter()
crfl.FederatedData.from_arrays(x, y, x[:100], y[:100], clients=20, features="scattering", public=2000, whiten=200, norm=1.0)
print(time.perf_counter() - start, resident("VmHWM") / 1024)
"""


def federation(clients: int, samples: int) -> crfl.FederatedData:
    """Clients of so many samples on the unit sphere; the time does not depend on what they hold."""
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(clients * samples + 100, FEATURES, generator=generator))
    y = torch.randint(CLASSES, (len(x),), generator=generator)
    shards = torch.randperm(clients * samples, generator=generator).split(samples)
    return crfl.FederatedData.from_arrays(x, y, x[-100:], y[-100:], shards=shards, num_classes=CLASSES)


def settings(data: crfl.FederatedData, batch_size: int, precision: str = "float32", **more: object) -> crfl.Experiment:
    """As the recipes of configs/certified: no bias, the server decays, hardly a round is measured."""
    return crfl.Experiment().override(
        {
            "data.name": "custom",
            "data.clients": len(data.shards),
            "model.bias": False,
            "local.batch_size": batch_size,
            "local.learning_rate": 1.0,
            "local.precision": precision,
            "server.rounds": 10**6,
            "server.evaluate_every": 10**6,
            "server.clip": {"start": float("inf")},
            "server.noise": 0.0,
            "server.decay": 5e-4,
            "attack.round": None,
            **more,
        }
    )


def rounds(exp: crfl.Experiment, data: crfl.FederatedData, groups: int | None = None) -> Iterator[TrainingState]:
    """Rounds without end of one run, or of as many runs as there are groups."""
    if groups is None:
        batch = RunBatch.of([exp], data)
    else:
        members = np.split(np.arange(len(data.shards)), groups)
        batch = RunBatch.of([exp.override({"ensemble.groups": groups})] * groups, data, groups=members)
    return batch.rounds(batch.start())


def products(clients: int, samples: int, batch_size: int) -> float:
    """Seconds of a round's products alone, on samples that already lie in order."""
    x = torch.randn(clients, samples, FEATURES).split(batch_size, dim=1)
    weights, residuals = torch.randn(clients, CLASSES, FEATURES), torch.randn(clients, CLASSES, batch_size)

    def once() -> None:
        for batch in x:
            torch.bmm(weights, batch.mT)
            weights.baddbmm_(residuals[:, :, : batch.shape[1]], batch, alpha=1e-6)

    return alternate(once)[0]


def rows() -> list[Row]:
    found = []
    for title, clients, batch_size, more in (
        ("20 clients of 2,900, batch 100", 20, 100, {}),
        ("20 clients of 2,900, full batch", 20, 2900, {}),
        ("1,000 clients of 58, one batch", 1000, 58, {}),
        ("1,000 clients of 58, updates clipped", 1000, 58, CLIP),
    ):
        data = federation(clients, SAMPLES // clients)
        single, double = (settings(data, batch_size, precision, **more) for precision in ("float32", "float64"))
        mine, wide, rival = rounds(single, data), rounds(double, data), BatchedProducts(single, data)
        own, twice, hand = alternate(lambda: next(mine), lambda: next(wide), rival.round)  # noqa: B023
        found.append(Row(f"{title}: batched products by hand / crfl", hand / own, 4, at_least=True))
        found.append(Row(f"{title}: crfl / products alone", own / products(clients, SAMPLES // clients, batch_size), 3))
        found.append(Row(f"{title}: float64 / float32", twice / own, 2.2))
    data = federation(1000, 58)
    exp = settings(data, 58)
    groups, rival = (
        rounds(exp, data, groups=200),
        BatchedProducts(settings(data, 290), federation(200, 290), apart=True),
    )
    own, hand = alternate(lambda: next(groups), rival.round)
    found.append(Row("200 groups side by side: batched products by hand / crfl", hand / own, 4, at_least=True))
    found.append(Row("200 groups side by side: crfl / products alone", own / products(200, 290, 290), 3))
    found.append(Row("100,000 clients of 6 / 10,000 clients of 6", _many(), 10))
    found.append(Row("10,000 rounds: the last 500 / the first 500", _growth(), 1.2))
    (memory,) = _printed(FULL_EMNIST)
    found.append(Row("697,932 images of 1,000 clients: peak memory of the process", memory, 3, "GB"))
    seconds, memory = _printed(SCATTERING)
    found.append(Row("scattering of 60,000 images, whitened", seconds, 60, "s"))
    found.append(Row("the same: peak memory of the process", memory, 1, "GB"))
    return found


def _printed(code: str) -> list[float]:
    """The numbers that a process of its own prints."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def _many() -> float:
    """How much longer a round of ten times as many tiny clients takes."""
    found = []
    for clients in (10_000, 100_000):
        data = federation(clients, 6)
        found.append(rounds(settings(data, 6), data))
    few, many = alternate(lambda: next(found[0]), lambda: next(found[1]), repeats=5)
    return many / few


def _growth() -> float:
    """How much longer the last rounds of many take than the first, on a small federation."""
    data, times = federation(10, 20), [time.perf_counter()]
    run = rounds(settings(data, 20), data)
    for round_ in range(1, 10_001):
        next(run)
        if round_ % 500 == 0:
            times.append(time.perf_counter())
    seconds = [b - a for a, b in pairwise(times)]
    return seconds[-1] / seconds[0]
