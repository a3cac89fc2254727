"""The run-off election on partitions of the union. Its certificate: tests/certification/test_ensemble_run_off.py."""

import numpy as np

from crfl.benchmark.methods import dpa, run_off_election
from tests.benchmark.tasks import assert_votes_stand, small_task


def test_what_is_certified_stands():
    assert_votes_stand(run_off_election.ENTRIES)


def test_two_classes_are_dpa():
    """The run-off of two classes is the vote."""
    task = small_task(classes=2)
    plain, twice = (module.CHOICE.func(task, 50) for module in (dpa, run_off_election))
    np.testing.assert_array_equal(plain.prediction, twice.prediction)
    np.testing.assert_array_equal(plain.strength, twice.strength)
