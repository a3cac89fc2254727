"""A few damages of every kind to every file of a run, and a few kills.

`python -m benchmarks.integrity` and `python -m benchmarks.kills` try many.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.integrity import CASES, attack


@pytest.mark.parametrize(("case", "files"), zip(CASES, (13, 4, 11, 4), strict=True))
def test_no_damage_is_silent_and_no_error_foreign(case, files):
    outcomes, wrong = attack(*case, tries=3)
    assert not wrong
    assert outcomes.total() > 3 * 3 * files
    assert outcomes["refused"] > 0.8 * outcomes.total()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_kills_lose_nothing_and_leave_nothing():
    """In a process of its own, which forks while it has no threads. Of 15 kills 5 are of a run, an ensemble, a sweep."""
    command = [sys.executable, "-m", "benchmarks.kills", "15", "1"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "15 kills, seed 1: 0 losses and leftovers" in found.stdout
