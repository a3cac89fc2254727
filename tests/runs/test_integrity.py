"""A few damages of every kind to every file of a run; `python -m benchmarks.integrity` tries many."""

import pytest

from benchmarks.integrity import attack, complete_run, read_complete, read_unfinished, unfinished_run


@pytest.mark.parametrize(
    ("make", "read", "files"), [(complete_run, read_complete, 13), (unfinished_run, read_unfinished, 4)]
)
def test_no_damage_is_silent_and_no_error_foreign(make, read, files):
    outcomes, wrong = attack(make, read, tries=3)
    assert not wrong
    assert outcomes.total() > 3 * 3 * files
    assert outcomes["refused"] > 0.8 * outcomes.total()
