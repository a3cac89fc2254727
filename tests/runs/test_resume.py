"""Training in a folder: killed runs end in the same bits, other runs' folders are left alone, failures leave nothing."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

import crfl
from crfl.attack.triggers import TRIGGERS
from crfl.errors import CrflError, DamagedFileError, FolderBusyError, SettingsError, StoreError, TrainingError
from crfl.run_batch import RunBatch
from crfl.runs import manifest
from crfl.runs.lock import folder_lock
from crfl.runs.resume import train_in
from crfl.runs.verify import verify
from tests.interrupted import interrupted, interrupting
from tests.runs.alike import EXP, assert_same


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


def test_training_in_a_folder_is_training(data, tmp_path):
    run = crfl.train(EXP, data, checkpoints=[2, 5], resume_dir=tmp_path)
    assert_same(run, crfl.train(EXP, data, checkpoints=[2, 5]))
    assert_same(run, crfl.load_run(tmp_path))
    assert not (tmp_path / "resume").exists()


def test_a_finished_run_is_not_trained_again(data, tmp_path):
    run = crfl.train(EXP, data, resume_dir=tmp_path)
    other_smoothing = EXP.override({"smoothing.noise": 0.5})
    with interrupting(0):
        again = crfl.train(other_smoothing, data, resume_dir=tmp_path)
    assert torch.equal(again.params, run.params)
    assert again.experiment == crfl.load_run(tmp_path).experiment == other_smoothing
    assert verify(tmp_path) == []


@pytest.mark.parametrize("done", [1, 2, 4])
def test_an_interrupted_run_goes_on_in_the_same_bits(data, tmp_path, done):
    """Also if it stops right after a checkpoint."""
    whole = crfl.train(EXP, data, checkpoints=[2, 5])
    with interrupted(done):
        crfl.train(EXP, data, checkpoints=[2, 5], resume_dir=tmp_path)
    with pytest.raises(StoreError, match="no finished run"):
        crfl.load_run(tmp_path)
    with interrupted(done + 2):
        crfl.train(EXP, data, checkpoints=[2, 5], resume_dir=tmp_path)
    assert_same(crfl.train(EXP, data, checkpoints=[2, 5], resume_dir=tmp_path), whole)


def test_a_killed_run_goes_on_in_the_same_bits(data, tmp_path):
    """SIGKILL in the middle, at moments of the machine's choosing, several times."""
    exp = EXP.override({"server.rounds": 1500})
    script = textwrap.dedent(f"""
        import crfl
        from crfl.run_batch import RunBatch
        from crfl.runs.resume import train_in
        exp = crfl.Experiment().override({{"server.rounds": 1500, "attack.round": 3}})
        batch = RunBatch.of([exp], crfl.load_data(exp), checkpoints=(2, 500))
        train_in({str(tmp_path)!r}, batch, save_seconds=0.0)
    """)
    command = [sys.executable, "-c", script]
    done = [0]
    for _ in range(3):
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())})
        deadline = time.monotonic() + 60
        while rounds_kept(tmp_path) == done[-1] and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done.append(rounds_kept(tmp_path))
    (tmp_path / "resume" / ".rounds.npz.0123456789abcdef.partial").write_bytes(b"half")
    assert 0 < done[1] < done[2] < done[3] < 1500
    whole = crfl.train(exp, data, checkpoints=[2, 500])
    assert_same(crfl.train(exp, data, checkpoints=[2, 500], resume_dir=tmp_path), whole)
    assert not list(tmp_path.rglob("*.partial"))


def rounds_kept(folder):
    saved = folder / "resume"
    return manifest.load(saved).about["round"] if (saved / "manifest.json").exists() else 0


def test_a_state_of_many_rounds_is_small_and_appended(tmp_path):
    """What was written once is not written again, and what is alike for all clients takes no room."""
    x, y = torch.rand(3000, 4), torch.arange(3000) % 3
    data = crfl.FederatedData.from_arrays(x, y, x[:30], y[:30], shards=torch.arange(3000).split(2))
    exp = EXP.override({"data.name": "custom", "data.clients": 1500, "local.batch_size": 2, "server.rounds": 40})
    exp = exp.override({"attack.trigger": "full_image"})
    for done in (20, 40):
        with interrupted(done):
            train_in(tmp_path, RunBatch.of([exp], data), save_seconds=0.0)
        if done == 20:
            first = {p.name: p.read_bytes() for p in (tmp_path / "resume").glob("rounds-*")}
    assert all((tmp_path / "resume" / name).read_bytes() == content for name, content in first.items())
    size = sum(p.stat().st_size for p in (tmp_path / "resume").iterdir())
    assert size < 40 * 1500 * 8 / 5  # one number for every client and round, in float64, would be five times as much


def test_a_damaged_state_is_named(data, tmp_path):
    with interrupted(4):
        crfl.train(EXP, data, resume_dir=tmp_path)
    for path in list((tmp_path / "resume").iterdir()):
        whole = path.read_bytes()
        for content in (b"", whole[:-9], whole.replace(whole[40:50], whole[40:50][::-1])):
            path.write_bytes(content)
            with pytest.raises(DamagedFileError, match=rf"{path.name}: .*To start from the first round"):
                crfl.train(EXP, data, resume_dir=tmp_path)
        path.write_bytes(whole)
    shutil.rmtree(tmp_path / "resume")
    assert_same(crfl.train(EXP, data, resume_dir=tmp_path), crfl.train(EXP, data))


def test_other_threads_are_told_of(data, tmp_path):
    with interrupted(4):
        crfl.train(EXP, data, resume_dir=tmp_path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.warns(UserWarning, match=r"the bits will differ"):
            crfl.train(EXP, data, resume_dir=tmp_path)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("change", "named"),
    [({"attack.scale": 7.0}, "attack"), ({"seed": 1}, "seed"), ({"local.learning_rate": 0.01}, "local")],
)
def test_another_runs_folder_is_left_alone(data, tmp_path, change, named):
    run = crfl.train(EXP, data, resume_dir=tmp_path)
    with pytest.raises(StoreError, match=f"differs in .*{named}"):
        crfl.train(EXP.override(change), data, resume_dir=tmp_path)
    assert_same(run, crfl.load_run(tmp_path))


def test_a_module_of_ones_own_is_resumed_and_told_apart(data, tmp_path):
    torch.manual_seed(0)
    model, other = (torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10)) for _ in "ab")
    whole = crfl.train(EXP, data, model=model, checkpoints=[2, 5])
    with interrupted(4):
        crfl.train(EXP, data, model=model, checkpoints=[2, 5], resume_dir=tmp_path)
    for wrong in (other, None):
        with pytest.raises(StoreError, match="differs in own model"):
            crfl.train(EXP, data, model=wrong, checkpoints=[2, 5], resume_dir=tmp_path)
    for _ in ("resumed", "loaded"):
        run = crfl.train(EXP, data, model=model, checkpoints=[2, 5], resume_dir=tmp_path)
        assert torch.equal(run.params, whole.params)
        assert run.record == whole.record
        assert all(torch.equal(run.checkpoints[t], whole.checkpoints[t]) for t in (2, 5))


def test_a_trigger_of_ones_own_that_was_edited_is_another_training(data, tmp_path, monkeypatch):
    def bright(amount):
        return lambda attack, data, generator: lambda x: x + amount

    monkeypatch.setitem(TRIGGERS, "bright", bright(0.1))
    exp = EXP.override({"attack.trigger": "bright"})
    crfl.train(exp, data, resume_dir=tmp_path)
    crfl.train(exp, data, resume_dir=tmp_path)
    monkeypatch.setitem(TRIGGERS, "bright", bright(0.2))
    with pytest.raises(StoreError, match=r"differs in attack\.trigger: bright"):
        crfl.train(exp, data, resume_dir=tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}"])
def test_a_damaged_claim_is_no_invitation(data, tmp_path, content):
    with interrupted(4):
        crfl.train(EXP, data, resume_dir=tmp_path)
    (tmp_path / "training.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"training\.json|differs in"):
        crfl.train(EXP, data, resume_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"attack.trigger": [[99, 99]]}, SettingsError),
        ({"attack.trigger": "unknown"}, CrflError),
        ({"attack.clients": 10, "attack.round": 1, "attack.update": "nan"}, TrainingError),
    ],
)
def test_a_run_that_fails_leaves_no_folder(data, tmp_path, change, error):
    with pytest.raises(error):
        crfl.train(EXP.override(change), data, resume_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_read_now_is_not_replaced(data, tmp_path):
    """A folder in place of the file, which no rights help to read, though what it holds may be good."""
    crfl.train(EXP, data, resume_dir=tmp_path)
    path = tmp_path / "record.json"
    path.rename(tmp_path / "kept")
    path.mkdir()
    with pytest.raises(StoreError, match=r"record\.json: cannot be read now .*may be good") as found:
        crfl.train(EXP, data, resume_dir=tmp_path)
    assert not isinstance(found.value, DamagedFileError)
    (tmp_path / "kept").rename(path / "kept")
    assert verify(tmp_path) == [str(found.value), f"{path / 'kept'}: is not listed in manifest.json"]


def test_two_writers_are_told(data, tmp_path):
    with folder_lock(tmp_path), pytest.raises(FolderBusyError, match=rf"process {os.getpid()} on .* is writing here"):
        crfl.train(EXP, data, resume_dir=tmp_path)
    crfl.train(EXP, data, resume_dir=tmp_path)
    with folder_lock(tmp_path), interrupting(0):  # to load takes no lock
        crfl.train(EXP, data, resume_dir=tmp_path)
