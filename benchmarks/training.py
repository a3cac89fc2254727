"""Seconds a round against hand-written loops, stacks, uneven shards, many small clients."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

import crfl
from benchmarks.many_clients import images
from benchmarks.rivals import HandWritten, WithDataLoader
from benchmarks.table import Row, alternate
from crfl.engines.vectorised.support import feature_support
from crfl.matmul import inner
from crfl.run_batch import RunBatch
from crfl.state import TrainingState

CONFIGS = Path(__file__).parents[1] / "configs"


def rounds(exp: crfl.Experiment, data: crfl.FederatedData, runs: int = 1) -> Iterator[TrainingState]:
    """Rounds of one or several runs without end, evaluation included."""
    exp = exp.override({"server.rounds": 10**6, "attack.round": 2})
    scales = [exp.override({"attack.scale": 10.0 + i}) for i in range(runs)]
    batch = RunBatch.of(scales, data)
    return batch.rounds(batch.start())


def floor(exp: crfl.Experiment, data: crfl.FederatedData) -> float:
    """Seconds of a round's products at a large product's rate: two a training sample, one a test sample."""
    support = feature_support(data)
    trained = data.num_features if support is None else support.x.shape[1]
    return 2 * data.num_classes * (2 * sum(data.sizes) * trained + len(data.test) * data.num_features) / gemm_rate()


def rows() -> list[Row]:
    found = []
    mnist = crfl.Experiment.from_yaml(CONFIGS / "mnist.yaml")
    data = crfl.load_data(mnist)
    root = os.environ.get("CRFL_DATA_DIR", "data")
    one, five = rounds(mnist, data), rounds(mnist, data, runs=5)
    by_hand = HandWritten(mnist, data)
    # Many turns: on a shared machine the loop's time alone moves by a fifth from minute to minute.
    crfl_s, hand_s = alternate(lambda: next(one), by_hand.round, repeats=21)
    found.append(Row("MNIST round, 20 clients", crfl_s, unit="s"))
    found.append(Row("MNIST round: its products at a large one's rate", floor(mnist, data), unit="s"))
    found.append(Row("MNIST round: hand-written loop / crfl", hand_s / crfl_s, 8, at_least=True))
    crfl_s, five_s = alternate(lambda: next(one), lambda: next(five))
    found.append(Row("five runs together / one run", five_s / crfl_s, 3.5))
    loader = WithDataLoader(mnist, data, root)
    crfl_s, loader_s = alternate(lambda: next(one), loader.round, repeats=3)
    found.append(Row("MNIST round: loop with DataLoader / crfl", loader_s / crfl_s, 60, at_least=True))
    for name in ("emnist", "loan-sample"):
        exp = crfl.Experiment.from_yaml(CONFIGS / f"{name}.yaml").override({"local.epochs": 1})
        data = crfl.load_data(exp)
        mine, rival = rounds(exp, data), HandWritten(exp, data)
        crfl_s, hand_s = alternate(lambda mine=mine: next(mine), rival.round, repeats=9)
        if name == "emnist":
            found.append(Row("emnist round, 50 clients", crfl_s, unit="s"))
            found.append(Row("emnist round: its products at a large one's rate", floor(exp, data), unit="s"))
        target = 4 if name == "emnist" else 3
        found.append(Row(f"{name} round: hand-written loop / crfl", hand_s / crfl_s, target, at_least=True))
    base = mnist.override({"data.name": "custom"})
    few = rounds(base.override({"local.batch_size": 100}), images(20, 3000))
    many = rounds(base.override({"data.clients": 1000, "local.batch_size": 60}), images(1000, 60))
    tiny = rounds(
        base.override({"data.clients": 10_000, "local.batch_size": 6, "attack.poisoned_per_batch": 1}),
        images(10_000, 6),
    )
    few_s, many_s, tiny_s = alternate(lambda: next(few), lambda: next(many), lambda: next(tiny), repeats=5)
    found.append(Row("1,000 clients of 60 / 20 clients of 3,000", many_s / few_s, 1.5))
    found.append(Row("10,000 clients of 6 / 20 clients of 3,000", tiny_s / few_s, 2))
    return found


def on_gpu() -> list[Row]:
    """Seconds of whole runs on a GPU, and how far their curves are from the CPU's; not measured without one."""
    seconds = gap = figures = None
    if torch.cuda.is_available():
        exp = crfl.Experiment.from_yaml(CONFIGS / "mnist.yaml")
        data = crfl.load_data(exp)
        (seconds,) = alternate(lambda: crfl.train(exp, data, device="cuda"), repeats=3)
        accuracy = [crfl.train(exp, data, device=device).columns["accuracy"] for device in ("cpu", "cuda")]
        gap = float(abs(accuracy[0] - accuracy[1]).max())
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "experiments/reproduce.py", "--device", "cuda", "--out", folder]
            start = time.perf_counter()
            subprocess.run(command, check=False, cwd=CONFIGS.parent, stdout=subprocess.DEVNULL)
            figures = time.perf_counter() - start
            if not Path(folder, "report.html").exists():  # a claim that fails is no error, a crash is
                raise RuntimeError("the reproduction did not finish")
    return [
        Row("MNIST on a GPU: 100 rounds", seconds, 1, "s"),
        Row("MNIST on a GPU: largest difference of accuracy to the CPU in a round", gap, 0.005),
        Row("all figures on a GPU", figures, 120, "s"),
    ]


@cache
def gemm_rate() -> float:
    """FLOP/s of a large product in float32, as crfl multiplies."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / alternate(lambda: inner(a, b))[0]


def machine() -> list[Row]:
    """The machine's own limits, for the profile."""
    source, sink = torch.ones(2**26), torch.ones(2**26)
    (copy,) = alternate(lambda: sink.copy_(source))
    return [
        Row("large product", gemm_rate() / 1e9, unit="GFLOP/s"),
        Row("copy bandwidth", 2 * source.nbytes / copy / 1e9, unit="GB/s"),
    ]
