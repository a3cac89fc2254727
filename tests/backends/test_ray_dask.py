"""Sweeps on Ray and on Dask: local clusters of two workers give the same bits as one process, killed workers or not.

Each needs its package, and CI gives each an environment of its own: `pip install ray`, `pip install distributed`.
"""

import contextlib
import os
import signal
import threading
import warnings
from pathlib import Path

import joblib
import pytest
import torch

import crfl
from crfl.sweeps import Cache, sweep
from tests.runs.alike import assert_same

EXP = crfl.Experiment().override({"server.rounds": 60, "attack.round": 2, "smoothing.test_samples": 40})
SCALES = [2.0 + i / 2 for i in range(8)]


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    """Sixteen runs, one after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield sweep(Cache(tmp_path_factory.mktemp("serial")), EXP, "attack.scale", SCALES, seeds=2, kind="margin")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    from ray.util.joblib import register_ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    register_ray()
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def dask():
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def workers_of(client):
    return list(client.run(os.getpid).values())


def ray_workers(_):
    """The processes of Ray's pool of actors."""
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdecimal() and b"ray::PoolActor" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


@contextlib.contextmanager
def killing(find, folder):
    """Meanwhile kill a worker, as soon as three runs are done."""
    over, killed = threading.Event(), []

    def kill():
        while not over.wait(0.02):
            if len(list(folder.glob("runs/*/manifest.json"))) >= 3 and (found := find()):
                os.kill(found[0], signal.SIGKILL)
                killed.append(found[0])
                return

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def check(found, serial):
    for ours, theirs in zip(found.runs, serial.runs, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other)
    assert found.critical.tolist() == serial.critical.tolist()


@pytest.mark.parametrize("kill", [False, True], ids=["", "a worker is killed"])
@pytest.mark.parametrize("name", ["ray", "dask"])
def test_a_sweep_gives_the_same_bits_as_one_process(name, kill, serial, tmp_path, request):
    cluster = request.getfixturevalue(name)
    find = {"ray": ray_workers, "dask": workers_of}[name]
    with warnings.catch_warnings(), joblib.parallel_config(backend=name):
        warnings.simplefilter("ignore")  # of the clusters about their own
        with killing(lambda: find(cluster), tmp_path) if kill else contextlib.nullcontext() as killed:
            found = sweep(Cache(tmp_path, jobs=2), EXP, "attack.scale", SCALES, seeds=2, kind="margin")
    check(found, serial)
    assert not kill or killed


def test_functions_of_ones_own_travel(dask, tmp_path, monkeypatch):
    from crfl.attack.triggers import TRIGGERS

    monkeypatch.setitem(TRIGGERS, "mine", lambda attack, data, generator: lambda x: x + 0.25)
    grid = [EXP.override({"attack.trigger": "mine", "attack.scale": scale}) for scale in (2.0, 3.0)]
    with joblib.parallel_config(backend="dask"):
        runs = Cache(tmp_path, jobs=2).train(grid)
    assert [run.record.attack_rounds[0].attackers[0].scale for run in runs] == [2.0, 3.0]
