"""Run folders: whole files, killed runs that end in the same bits, other runs' folders left alone."""

import dataclasses
import json
import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest
import torch
from safetensors.torch import save

import crfl
from crfl import files
from crfl.attack.triggers import TRIGGERS
from crfl.errors import StoreError
from crfl.runs import store
from tests.interrupted import interrupted

EXP = crfl.Experiment().override({"server.rounds": 8, "attack.round": 3})


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


def assert_same(a, b):
    assert torch.equal(a.params, b.params)
    assert a.record == b.record
    assert a.experiment == b.experiment
    assert a.model == b.model
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    assert a.checkpoints.keys() == b.checkpoints.keys()
    assert all(torch.equal(a.checkpoints[t], b.checkpoints[t]) for t in a.checkpoints)


def test_a_run_survives_its_folder(data, tmp_path):
    run = store.train(tmp_path, EXP, data, checkpoints=[2, 5])
    assert_same(run, crfl.load_run(tmp_path))
    assert_same(run, crfl.train(EXP, data, checkpoints=[2, 5]))
    assert not (tmp_path / "resume.safetensors").exists()
    assert not list(tmp_path.rglob("*.partial"))
    assert json.loads((tmp_path / "versions.json").read_text())["crfl"] == crfl.__version__


def test_the_history_is_a_frame_made_on_demand(data, tmp_path):
    """pandas writes and reads the same file, and copies of a run have the same history."""
    nobody = EXP.override({"attack.clients": 0, "attack.poisoned_per_batch": 0, "server.clip.start": math.inf})
    for number, run in enumerate([*crfl.train_pair(EXP, data), crfl.train(nobody, data)]):
        store.save_run(tmp_path / str(number), run)
        assert "history" not in vars(run)
        file = tmp_path / str(number) / "history.csv"
        assert file.read_text() == run.history.to_csv(index=False, na_rep="nan")
        read = pd.read_csv(file, dtype=str).astype(float).astype({"round": int})
        for copy in (crfl.load_run(tmp_path / str(number)), pickle.loads(pickle.dumps(run)), dataclasses.replace(run)):
            pd.testing.assert_frame_equal(copy.history, read, check_exact=True)


def test_a_finished_run_is_not_trained_again(data, tmp_path, monkeypatch):
    run = store.train(tmp_path, EXP, data)
    monkeypatch.setattr(store, "RunBatch", None)
    other_smoothing = EXP.override({"smoothing.samples": 7})
    again = store.train(tmp_path, other_smoothing, data)
    assert torch.equal(again.params, run.params)
    assert again.experiment == other_smoothing


@pytest.mark.parametrize("done", [1, 2, 4])
def test_an_interrupted_run_goes_on_in_the_same_bits(data, tmp_path, done):
    """Also if it stops right after a checkpoint."""
    whole = crfl.train(EXP, data, checkpoints=[2, 5])
    with interrupted(done):
        store.train(tmp_path, EXP, data, checkpoints=[2, 5])
    with pytest.raises(StoreError, match="no finished run"):
        crfl.load_run(tmp_path)
    assert_same(store.train(tmp_path, EXP, data, checkpoints=[2, 5]), whole)


def test_a_killed_run_goes_on_in_the_same_bits(data, tmp_path):
    """SIGKILL in the middle, at a moment of the machine's choosing."""
    exp = EXP.override({"server.rounds": 400})
    script = textwrap.dedent(f"""
        import crfl
        from crfl.runs import store
        store.SAVE_SECONDS = 0.0
        exp = crfl.Experiment.from_dict({exp.to_dict()!r})
        store.train({str(tmp_path)!r}, exp, crfl.load_data(exp))
    """).replace("inf", "float('inf')")
    process = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "resume.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(store.read_tensors(tmp_path / "resume.safetensors")[0]["measures"])
    assert 0 < done < 400
    assert_same(store.train(tmp_path, exp, data), crfl.train(exp, data))


@pytest.mark.parametrize(
    ("change", "named"),
    [({"attack.scale": 7.0}, "attack"), ({"seed": 1}, "seed"), ({"local.learning_rate": 0.01}, "local")],
)
def test_another_runs_folder_is_left_alone(data, tmp_path, change, named):
    run = store.train(tmp_path, EXP, data)
    with pytest.raises(StoreError, match=f"differs in .*{named}"):
        store.train(tmp_path, EXP.override(change), data)
    assert_same(run, crfl.load_run(tmp_path))


def test_a_module_of_ones_own_is_resumed_and_told_apart(data, tmp_path):
    torch.manual_seed(0)
    model, other = (torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10)) for _ in "ab")
    whole = crfl.train(EXP, data, model=model, checkpoints=[2, 5])
    with interrupted(4):
        store.train(tmp_path, EXP, data, model=model, checkpoints=[2, 5])
    for wrong in (other, None):
        with pytest.raises(StoreError, match="differs in model"):
            store.train(tmp_path, EXP, data, model=wrong, checkpoints=[2, 5])
    for _ in ("resumed", "loaded"):
        run = store.train(tmp_path, EXP, data, model=model, checkpoints=[2, 5])
        assert torch.equal(run.params, whole.params)
        assert run.record == whole.record
        assert all(torch.equal(run.checkpoints[t], whole.checkpoints[t]) for t in (2, 5))


def test_a_trigger_of_ones_own_that_was_edited_is_another_training(data, tmp_path, monkeypatch):
    def bright(amount):
        return lambda attack, data, generator: lambda x: x + amount

    monkeypatch.setitem(TRIGGERS, "bright", bright(0.1))
    exp = EXP.override({"attack.trigger": "bright"})
    store.train(tmp_path, exp, data)
    store.train(tmp_path, exp, data)
    monkeypatch.setitem(TRIGGERS, "bright", bright(0.2))
    with pytest.raises(StoreError, match=r"differs in attack\.trigger: bright"):
        store.train(tmp_path, exp, data)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    store.train(folder, EXP, data, checkpoints=[2])
    return folder


@pytest.mark.parametrize(
    "name", ["params.safetensors", "checkpoints/round-00002.safetensors", "record.json", "history.csv"]
)
@pytest.mark.parametrize("damage", [None, b"", b"half a file", "cut", "other"])
def test_damaged_files_are_named(finished, tmp_path, name, damage):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / name
    content, optional = path.read_bytes(), name.startswith("checkpoints")
    other = {".json": b'{"model": "another"}', ".csv": b"a,b\n1,2\n", ".safetensors": save({"x": torch.ones(3)})}
    path.unlink()
    if damage is not None:
        path.write_bytes({"cut": content[: len(content) // 2], "other": other[path.suffix]}.get(damage, damage))
    elif optional:
        return
    message = "no finished run" if name == "params.safetensors" and damage is None else path.name
    with pytest.raises(StoreError, match=message):
        crfl.load_run(tmp_path / "run")


@pytest.mark.parametrize("content", [b"", b"{", b"[]"])
def test_a_damaged_claim_and_a_foreign_state_are_named(finished, data, tmp_path, content):
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "run" / "training.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"training\.json"):
        store.train(tmp_path / "run", EXP, data, checkpoints=[2])
    shutil.copytree(finished, tmp_path / "unfinished")
    (tmp_path / "unfinished" / "params.safetensors").unlink()
    (tmp_path / "unfinished" / "resume.safetensors").write_bytes(save({"x": torch.ones(3)}))
    with pytest.raises(StoreError, match=r"resume\.safetensors: is not the state of a run"):
        store.train(tmp_path / "unfinished", EXP, data, checkpoints=[2])


def test_files_that_contradict_one_another_are_refused(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    path = tmp_path / "run" / "settings.yaml"
    path.write_text(EXP.override({"attack.scale": 50.0}).to_yaml())
    with pytest.raises(StoreError, match=r"differ in attack; was settings\.yaml changed by hand"):
        crfl.load_run(tmp_path / "run")
    path.write_text(EXP.override({"smoothing.noise": 0.5}).to_yaml())
    assert crfl.load_run(tmp_path / "run").experiment.smoothing.noise == 0.5
    path.write_text("seed: 0\n")
    with pytest.raises(StoreError, match=r"numbers of rounds: settings\.yaml 60, record\.json 8, history\.csv 8"):
        crfl.load_run(tmp_path / "run")


def test_a_foreign_run_is_not_taken_for_ones_own(data, tmp_path):
    run = crfl.train(EXP, data)
    crfl.save_run(tmp_path, run)
    crfl.save_run(tmp_path, run)
    with pytest.raises(StoreError, match="holds a run that was trained elsewhere"):
        store.train(tmp_path, EXP.override({"attack.scale": 50.0}), data)
    with pytest.raises(StoreError, match="holds another run"):
        crfl.save_run(tmp_path, crfl.train(EXP.override({"attack.scale": 50.0}), data))
    assert torch.equal(crfl.load_run(tmp_path).params, run.params)


def test_equal_runs_have_equal_files(data, tmp_path):
    for name in "abcd":
        store.train(tmp_path / name, EXP, data, checkpoints=[2])
    for path in ("params.safetensors", "checkpoints/round-00002.safetensors", "record.json", "history.csv"):
        assert len({(tmp_path / name / path).read_bytes() for name in "abcd"}) == 1


def test_the_names_of_the_data_matter_to_training(data):
    names = tuple(map(str, range(64)))
    keys = [
        store.training_key(EXP, dataclasses.replace(data, **changes))
        for changes in ({}, {"feature_names": names}, {"feature_names": names[::-1]}, {"input_shape": (4, 16)})
    ]
    assert len({key["names"] for key in keys}) == 4


def test_other_smoothing_settings_are_kept(data, tmp_path):
    store.train(tmp_path, EXP, data)
    store.train(tmp_path, EXP.override({"smoothing.noise": 0.5}), data)
    assert crfl.load_run(tmp_path).experiment.smoothing.noise == 0.5


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, "old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_certificates_and_votes_survive(data, tmp_path):
    run = crfl.train(EXP.override({"smoothing.samples": 50, "smoothing.test_samples": 30}), data)
    certificate = crfl.certify(run, data.test)
    store.save_certificate(tmp_path, "published", certificate, data.test.y, run.experiment)
    place = tmp_path / "certificates"
    frame = pd.read_csv(place / "published.csv")
    assert frame["label"].tolist() == data.test.y[certificate.indices].tolist()
    assert frame["radius"].tolist() == pytest.approx(certificate.radius.tolist(), rel=1e-12)
    about = json.loads((place / "published.json").read_text())
    assert about["kind"] == "published"
    assert (about["seed"], about["smoothing"]) == (0, run.experiment.smoothing.to_dict())
    assert tuple(about["assumptions"]) == certificate.assumptions
    votes = store.load_votes(place / "published.votes.safetensors")
    assert (votes.counts == certificate.votes.counts).all()
    assert (votes.samples, votes.noise) == (50, 0.01)
