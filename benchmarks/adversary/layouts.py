"""Ways to compute the same run: engines, threads, sizes of chunks and groups, other runs in the same batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

import crfl
from crfl.algorithm import training_rounds
from crfl.engines import Engine
from crfl.engines.reference import ReferenceEngine
from crfl.engines.vectorised import tuning
from crfl.engines.vectorised.engine import VectorisedEngine
from crfl.run_batch import RunBatch


def train(
    wanted: Sequence[tuple[crfl.Experiment, bool]],
    data: crfl.FederatedData,
    rng: np.random.Generator,
    start: nn.Module | None = None,
) -> list[crfl.TrainingRun]:
    """Runs (settings, benign) with their models of all rounds, in batches and layouts that are drawn at random."""
    if rng.random() < 0.3:
        return _together(wanted, data, rng, start)
    return [run for one in wanted for run in _together([one], data, rng, start)]


def _together(
    wanted: Sequence[tuple[crfl.Experiment, bool]],
    data: crfl.FederatedData,
    rng: np.random.Generator,
    start: nn.Module | None,
) -> list[crfl.TrainingRun]:
    """The runs in one batch, among others that have nothing to do with them."""
    others = [(_other(wanted[0][0], rng), bool(rng.integers(2))) for _ in range(rng.choice([0, 0, 1, 3]))]
    order = rng.permutation(len(wanted) + len(others))
    runs = [[*wanted, *others][i] for i in order]
    rounds = range(1, wanted[0][0].server.rounds + 1)
    batch = RunBatch.of([exp for exp, _ in runs], data, [benign for _, benign in runs], start, rounds)
    state = batch.start()
    with _engine(batch, rng) as engine:
        *_, state = training_rounds(batch, state, engine, None)
    finished = batch.finish(state)
    return [finished[int(np.flatnonzero(order == i)[0])] for i in range(len(wanted))]


def _other(exp: crfl.Experiment, rng: np.random.Generator) -> crfl.Experiment:
    """Settings that can be trained in a batch with others."""
    clip = float(rng.choice([1e-3, 0.5, np.inf]))
    return exp.override(
        {"server.noise": float(rng.choice([0.0, 0.03])), "server.clip.start": clip, "attack.trigger": "full_image"}
    )


@contextmanager
def _engine(batch: RunBatch, rng: np.random.Generator) -> Iterator[Engine]:
    """An engine with chunks and threads drawn at random."""
    threads, small = torch.get_num_threads(), tuning.SMALL_STEP
    several = rng.random() < 0.1
    torch.set_num_threads(2 if several else 1)
    tuning.SMALL_STEP = 0 if several else small  # else small steps have one thread
    try:
        steps = batch.num_rounds * len(batch.experiments) * sum(batch.data.sizes) / batch.local.batch_size
        if rng.random() < 0.2 and steps * batch.local.epochs < 500:  # it is slow
            yield ReferenceEngine(batch.model, batch.data, batch.local, batch.seed)
            return
        memory = int(rng.choice([2**12, 2**15, 2**18, tuning.CHUNK_BYTES]))
        yield VectorisedEngine(batch.model, batch.data, batch.local, batch.seed, chunk_bytes=memory)
    finally:
        tuning.SMALL_STEP = small
        torch.set_num_threads(threads)
