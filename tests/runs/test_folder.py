"""Run folders: they give back what was saved, and say what is wrong with them."""

import dataclasses
import math
import pickle
import shutil
import threading

import pandas as pd
import pytest
import torch

import crfl
from crfl.errors import DamagedFileError, StoreError
from crfl.files import pack_tensors, read_json
from crfl.runs import manifest
from crfl.runs.certificates import load_certificate_votes, load_certificates, load_votes, save_certificate, save_votes
from crfl.runs.claim import training_key
from crfl.runs.verify import verify
from tests.interrupted import interrupting
from tests.runs.alike import EXP, assert_same


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    crfl.train(EXP, data, checkpoints=[2], resume_dir=folder)
    return folder


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_survives_its_folder(data, tmp_path):
    run = crfl.train(EXP, data, checkpoints=[2, 5])
    crfl.save_run(tmp_path / "run", run)
    assert_same(run, crfl.load_run(tmp_path / "run"))
    assert verify(tmp_path / "run") == []
    assert read_json(tmp_path / "run" / "versions.json")["crfl"] == crfl.__version__
    assert not list(tmp_path.rglob(".*"))


def test_the_history_is_a_frame_made_on_demand(data, tmp_path):
    """pandas writes and reads the same file, and copies of a run have the same history."""
    nobody = EXP.override({"attack.clients": 0, "attack.poisoned_per_batch": 0, "server.clip.start": math.inf})
    for number, run in enumerate([*crfl.train_pair(EXP, data), crfl.train(nobody, data)]):
        crfl.save_run(tmp_path / str(number), run)
        assert "history" not in vars(run)
        file = tmp_path / str(number) / "history.csv"
        assert file.read_text() == run.history.to_csv(index=False, na_rep="nan")
        read = pd.read_csv(file, dtype=str).astype(float).astype({"round": int})
        for copy in (crfl.load_run(tmp_path / str(number)), pickle.loads(pickle.dumps(run)), dataclasses.replace(run)):
            pd.testing.assert_frame_equal(copy.history, read, check_exact=True)


def test_equal_runs_have_equal_files(data, tmp_path):
    for name in "abcd":
        crfl.train(EXP, data, checkpoints=[2], resume_dir=tmp_path / name)
    names = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*")}
    assert len(names) >= 7
    for path in names:
        assert len({(tmp_path / name / path).read_bytes() for name in "abcd"}) == 1


@pytest.mark.parametrize("damage", [None, b"", b"half a file", "cut", "other"])
def test_damaged_files_are_named(copy, damage):
    for path in [p for p in copy.rglob("*") if p.is_file() and p.name != "versions.json"]:
        content = path.read_bytes()
        other = {".safetensors": pack_tensors({"x": torch.ones(3)}), ".json": b'{"model": "another"}'}
        path.unlink()
        if damage is not None:
            replaced = {"cut": content[: len(content) // 2], "other": other.get(path.suffix, b"a,b\n1,2\n")}
            path.write_bytes(replaced.get(damage, damage))
        with pytest.raises(StoreError, match=path.name):
            crfl.load_run(copy)
        assert path.name in verify(copy)[0]
        path.write_bytes(content)
    assert verify(copy) == []


def test_settings_changed_by_hand_are_refused(copy):
    path = copy / "settings.yaml"
    path.write_text(path.read_text()[: path.read_text().index("smoothing")])  # the defaults are others
    with pytest.raises(DamagedFileError, match=r"settings\.yaml: is damaged"):
        crfl.load_run(copy)


def test_a_model_of_another_round_is_refused_though_the_manifest_lists_it(copy):
    """As by a script that mixed files up, and then wrote the manifest anew."""
    other = (copy / "checkpoints" / "round-00002.safetensors").read_bytes()
    tensors = pack_tensors(
        {"params": 5 * crfl.load_run(copy).params},
        model="softmax regression",
        num_features=64,
        num_classes=10,
        bias=True,
    )
    for content in (other, tensors):
        manifest.load(copy).restore({"params.safetensors": content})
        with pytest.raises(DamagedFileError, match=r"got parameters of norm .* that after round 8 on record"):
            crfl.load_run(copy)


def test_a_folder_without_a_manifest_is_refused_with_the_way_to_redo_it(copy, data):
    whole = crfl.load_run(copy)
    (copy / "manifest.json").unlink()
    with pytest.raises(StoreError, match=r"has no manifest\.json.* Train it again: `crfl run`"):
        crfl.load_run(copy)
    assert_same(crfl.train(EXP, data, checkpoints=[2], resume_dir=copy), whole)
    assert_same(crfl.load_run(copy), whole)


@pytest.mark.parametrize("name", ["record.json", "params.safetensors", "training.json", "settings.yaml"])
@pytest.mark.filterwarnings("ignore:.*trained again")
def test_a_run_that_lost_a_file_is_made_whole(copy, data, name):
    whole, content = crfl.load_run(copy), (copy / name).read_bytes()
    (copy / name).unlink()
    assert_same(crfl.train(EXP, data, checkpoints=[2], resume_dir=copy), whole)
    assert (copy / name).read_bytes() == content
    assert verify(copy) == []


def test_what_cannot_be_read_may_be_good(copy):
    (copy / "record.json").unlink()
    (copy / "record.json").mkdir()
    with pytest.raises(StoreError, match=r"record\.json: cannot be read now .*may be good"):
        crfl.load_run(copy)


def test_another_run_is_not_overwritten(data, tmp_path):
    run, other = crfl.train(EXP, data), crfl.train(EXP.override({"attack.scale": 50.0}), data)
    crfl.save_run(tmp_path, run)
    crfl.save_run(tmp_path, run)
    with pytest.raises(StoreError, match="holds a run that was trained elsewhere"):
        crfl.train(EXP, data, resume_dir=tmp_path)
    with pytest.raises(StoreError, match=r"holds another run: record\.json differs"):
        crfl.save_run(tmp_path, other)
    assert_same(crfl.load_run(tmp_path), run)


def test_what_an_unfinished_training_left_is_not_overwritten(data, tmp_path):
    run = crfl.train(EXP, data)
    with interrupting(3), pytest.raises(KeyboardInterrupt):
        crfl.train(EXP, data, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="training that is not complete"):
        crfl.save_run(tmp_path, run)
    assert "3 rounds are kept" in verify(tmp_path)[0]


def test_the_names_of_the_data_matter_to_training(data):
    names = tuple(map(str, range(64)))
    keys = [
        training_key(EXP, dataclasses.replace(data, **changes))
        for changes in ({}, {"feature_names": names}, {"feature_names": names[::-1]}, {"input_shape": (4, 16)})
    ]
    assert len({key["names"] for key in keys}) == 4


def test_a_module_is_told_apart(data, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10))
    run = crfl.train(EXP, data, model=model)
    crfl.save_run(tmp_path, run)
    assert torch.equal(crfl.load_run(tmp_path, model=model).params, run.params)
    with pytest.raises(StoreError, match="give load_run the model that was trained"):
        crfl.load_run(tmp_path)


@pytest.fixture
def certified(copy, data):
    run = crfl.load_run(copy)
    exp = run.experiment.override({"smoothing.samples": 50, "smoothing.test_samples": 30})
    certificate = crfl.certify(
        dataclasses.replace(run, experiment=exp), data.test, kind="smoothing", bounds="hoeffding"
    )
    save_certificate(copy, "smoothed", certificate, data.test.y, exp)
    return copy, certificate


def test_certificates_and_votes_survive(certified, data):
    folder, certificate = certified
    frame, about = load_certificates(folder)["smoothed"]
    assert frame["label"].tolist() == data.test.y[certificate.indices].tolist()
    assert frame["radius"].tolist() == pytest.approx(certificate.radius.tolist(), rel=1e-12)
    assert (about["kind"], about["seed"], about["smoothing"]["samples"]) == ("smoothing", 0, 50)
    assert tuple(about["assumptions"]) == certificate.assumptions
    votes = load_certificate_votes(folder, "smoothed")
    assert (votes.counts == certificate.votes.counts).all()
    assert (votes.samples, votes.noise) == (50, 0.01)
    assert verify(folder) == []


def test_a_damaged_certificate_leaves_the_run_alone(certified, data):
    folder, certificate = certified
    path = folder / "certificates" / "smoothed.csv"
    path.write_text(path.read_text().replace("0", "9"))
    (folder / "certificates" / "added.csv").write_text("radius\ninf\n")
    assert crfl.load_run(folder).params.any()
    with pytest.raises(DamagedFileError, match=r"smoothed\.csv: is damaged"):
        load_certificates(folder)
    problems = verify(folder)
    assert "smoothed.csv: is damaged" in problems[0]
    assert "added.csv: is not listed" in problems[1]
    assert "crfl certify" in problems[2]
    save_certificate(folder, "smoothed", certificate, data.test.y)
    assert load_certificates(folder).keys() == {"smoothed"}


def test_certificates_saved_side_by_side_are_all_listed(certified, data):
    folder, certificate = certified
    names = [f"margin-{i}" for i in range(8)]
    threads = [threading.Thread(target=save_certificate, args=[folder, n, certificate, data.test.y]) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert load_certificates(folder).keys() == {"smoothed", *names}
    assert verify(folder) == []


def test_certificates_need_a_run_and_a_name(certified, data, tmp_path):
    folder, certificate = certified
    with pytest.raises(StoreError, match="no finished run here"):
        save_certificate(tmp_path / "empty", "smoothed", certificate, data.test.y)
    for name in ("../out", "", "a/b", ".hidden", "x" * 200):
        with pytest.raises(StoreError, match="certificate: got the name"):
            save_certificate(folder, name, certificate, data.test.y)


def test_votes_in_a_file_of_their_own(certified, tmp_path):
    votes, path = certified[1].votes, tmp_path / "votes.safetensors"
    save_votes(path, votes)
    assert (load_votes(path).counts == votes.counts).all()
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(DamagedFileError, match=r"votes\.safetensors"):
        load_votes(path)
