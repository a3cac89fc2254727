"""Sweeps whose processes are killed, or share a cache."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crfl.runs.verify import verify

WORKER = """
import sys, crfl
from crfl.sweeps import Cache, prefix
base = crfl.Experiment().override({"server.rounds": %d, "attack.round": 2})
grid = [base.override({"attack.scale": 5.0 + i}) for i in range(%d)]
print(len(Cache(sys.argv[1], jobs=int(sys.argv[2])).train(grid)), flush=True)
"""


def start(script, *arguments):
    return subprocess.Popen([sys.executable, "-c", script, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def children(process):
    """Of a process and theirs."""
    try:
        found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except FileNotFoundError:
        return []
    return [pid for child in found for pid in (int(child), *children(child))]


def workers(process):
    """Those of joblib among its children."""
    found = []
    for pid in children(process.pid):
        with contextlib.suppress(OSError):
            if b"loky.backend" in (line := Path(f"/proc/{pid}/cmdline").read_bytes()) and b"tracker" not in line:
                found.append(pid)
    return found


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert what()


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")


@needs_proc
def test_a_killed_sweep_leaves_no_workers(tmp_path):
    with start(WORKER % (100_000, 2), tmp_path, 2) as sweep:
        wait_for(lambda: len(list(tmp_path.glob("runs/*/training.json"))) >= 2)
        pids = workers(sweep)
        sweep.kill()
    assert len(pids) == 2
    wait_for(lambda: not any(map(alive, pids)), seconds=10)


@needs_proc
def test_a_sweep_that_is_killed_while_its_workers_start_leaves_none(tmp_path):
    """They are orphans before their first job reaches them."""
    with start(WORKER % (100_000, 2), tmp_path, 2) as sweep:
        wait_for(lambda: len(workers(sweep)) == 2)
        pids = workers(sweep)
        sweep.kill()
    wait_for(lambda: not any(map(alive, pids)))


@needs_proc
def test_a_killed_worker_does_not_end_the_sweep(tmp_path):
    with start(WORKER % (1000, 4), tmp_path, 2) as sweep:
        wait_for(lambda: len(workers(sweep)) == 2 and len(list(tmp_path.glob("runs/*/training.json"))) >= 2)
        os.kill(workers(sweep)[0], signal.SIGKILL)
        assert sweep.communicate(timeout=120)[0] == "4\n"
    assert len(list(tmp_path.glob("runs/*/manifest.json"))) == 4


def test_two_processes_share_a_cache(tmp_path):
    both = [start(WORKER % (100, 4), tmp_path, 1) for _ in "ab"]
    for process in both:
        assert process.communicate(timeout=120)[0] == "4\n"
        assert process.returncode == 0
    assert len(list(tmp_path.glob("runs/*/manifest.json"))) == 4
    assert not list(tmp_path.rglob(".*"))
    assert all(verify(folder) == [] for folder in tmp_path.glob("runs/*"))
