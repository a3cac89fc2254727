"""Run-Off Election: DPA's partitions, but their models vote twice. See crfl.certification.ensembles.run_off.

Rezaei, Banihashem, Chegini, Feizi, ICML 2023 (arXiv 2302.02300): the number of changed models that the winner stands is
exact here, at least the bound of the paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np

from crfl.benchmark.attacked import affordable
from crfl.benchmark.choice import Choice
from crfl.benchmark.entry import Entry, IntArray, Outcome, Task
from crfl.benchmark.methods.dpa import ASSUMPTIONS, ATTACKED_AT, GRID, trained
from crfl.certification.ensembles.run_off import run_off_price, run_off_winner
from crfl.data.federated import Split
from crfl.ensemble_run import EnsembleRun

__all__ = ["ENTRIES"]

PAPER = "Rezaei, Banihashem, Chegini and Feizi, ICML 2023, https://arxiv.org/abs/2302.02300"
BLOCK = 2**22
"""Logits that are held at a time."""


def _run(task: Task, samples: int) -> Outcome:
    ensemble, seconds = trained(task, samples)
    start = time.process_time()
    found = [(run_off_winner(logits), run_off_price(logits)) for logits in _logits(ensemble, task.data.test)]
    winner, price = (np.concatenate(parts) for parts in zip(*found, strict=True))
    seconds += time.process_time() - start
    return Outcome(winner, price - 1.0, len(ensemble.groups), task.data.public_samples, seconds)


def _attack(task: Task, strength: float) -> IntArray | None:
    """Predictions after the label flips of `flip_labels`."""
    if not affordable(task.data, strength, once=ATTACKED_AT):
        return None
    ensemble, _ = trained(task, CHOICE.of(task.data_name), int(strength))
    return np.concatenate([run_off_winner(logits) for logits in _logits(ensemble, task.data.test)])


def _logits(ensemble: EnsembleRun, test: Split) -> Iterator[np.ndarray]:
    """Logits (samples, models, classes) of the test samples in order, some at a time."""
    models = ensemble.params
    for block in test.blocks(max(1, BLOCK // (len(models) * ensemble.num_classes))):
        yield ensemble.model.class_logits(models, block.x.to(models)).permute(2, 0, 1).numpy()


CHOICE = Choice(_run, GRID, chosen={"digits": 20, "loan": 5, "mnist": 100}, default=100)
"""Chosen on held-out training samples by benchmarks/choose_rivals.py; other data take MNIST's."""


def _entry(threat: str) -> Entry:
    return Entry("Run-Off Election", PAPER, threat, "sound", ASSUMPTIONS, CHOICE, _attack)


ENTRIES: tuple[Entry, ...] = (_entry("replaced samples"), _entry("label flips"))
