"""The run-off election on partitions of the union. Its certificate: tests/certification/test_ensemble_run_off.py."""

import numpy as np
import torch

from crfl.benchmark.entry import Task
from crfl.benchmark.methods import dpa, run_off_election
from tests.benchmark.tasks import accuracy, replaced, small_task


def test_what_is_certified_stands():
    task = small_task(samples=1000)
    entry, flips = run_off_election.ENTRIES
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


def test_two_classes_are_dpa():
    """The run-off of two classes is the vote."""
    task = small_task(classes=2)
    plain, twice = dpa.ENTRIES[0].run(task), run_off_election.ENTRIES[0].run(task)
    np.testing.assert_array_equal(plain.prediction, twice.prediction)
    np.testing.assert_array_equal(plain.strength, twice.strength)
