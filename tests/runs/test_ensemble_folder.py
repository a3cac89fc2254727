"""Folders of ensembles: what was trained is what is read, and what does not match is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import crfl
from crfl.errors import DamagedFileError, StoreError
from crfl.files import pack_tensors
from crfl.runs import manifest
from crfl.runs.certificates import load_certificates, save_certificate
from crfl.runs.verify import verify
from tests.interrupted import interrupting
from tests.runs.alike import assert_same

EXP = crfl.Experiment().override(
    {"data.clients": 12, "server.rounds": 4, "attack.round": 2, "attack.clients": [3, 8], "server.update_clip": 0.5}
)
GROUPS = 4


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    return crfl.train_ensemble(EXP, data, groups=GROUPS, resume_dir=folder), folder


@pytest.fixture
def copy(trained, tmp_path):
    return shutil.copytree(trained[1], tmp_path / "copy")


def assert_same_ensemble(a, b):
    assert (a.experiment, a.model, a.client_names) == (b.experiment, b.model, b.client_names)
    assert torch.equal(a.params, b.params)
    assert [clients.tolist() for clients in a.groups] == [clients.tolist() for clients in b.groups]
    for group in range(len(a.groups)):
        assert_same(a.group_run(group), b.group_run(group))


def test_what_was_trained_is_read(trained, data):
    ensemble, folder = trained
    fresh, read = crfl.train_ensemble(EXP, data, groups=GROUPS), crfl.load_run(folder)
    for other in (ensemble, read):
        assert_same_ensemble(fresh, other)
    np.testing.assert_array_equal(read.votes(data.test), fresh.votes(data.test))
    for prices in (None, "clients"):
        assert crfl.certify(read, data, prices=prices) == crfl.certify(fresh, data, prices=prices)
    assert verify(folder) == []
    assert not (folder / "resume").exists()
    with interrupting(0):
        assert_same_ensemble(crfl.train_ensemble(EXP, data, groups=GROUPS, resume_dir=folder), fresh)


@pytest.mark.parametrize("how", [{"groups": 3}, {"groups": 5, "disjoint": False, "clients_per_group": 4}])
def test_an_ensemble_is_saved_and_read(how, data, tmp_path):
    ensemble = crfl.train_ensemble(EXP, data, **how)
    crfl.save_run(tmp_path, ensemble)
    crfl.save_run(tmp_path, ensemble)
    assert_same_ensemble(crfl.load_run(tmp_path), ensemble)
    assert verify(tmp_path) == []
    with pytest.raises(StoreError, match=r"holds another run: ensemble\.json differs"):
        crfl.save_run(tmp_path, crfl.train_ensemble(EXP, data, groups=2))
    with pytest.raises(StoreError, match="holds another run"):
        crfl.save_run(tmp_path, crfl.train(EXP, data))


def test_a_module_is_told_apart(data, tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 5), torch.nn.ReLU(), torch.nn.Linear(5, 10))
    ensemble = crfl.train_ensemble(EXP, data, groups=2, model=model)
    crfl.save_run(tmp_path, ensemble)
    read = crfl.load_run(tmp_path, model=model)
    assert torch.equal(read.params, ensemble.params)
    np.testing.assert_array_equal(read.votes(data.test), ensemble.votes(data.test))
    with pytest.raises(StoreError, match="give load_run the model that was trained"):
        crfl.load_run(tmp_path)


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_groups_that_failed_are_written_too(data, tmp_path):
    """Every client of a group sends NaN: no aggregate, so it keeps its model."""
    dealt = crfl.train_ensemble(EXP, data, groups=GROUPS).groups[1].tolist()
    exp = EXP.override({"attack.clients": dealt, "attack.update": "nan", "attack.trigger": []})
    ensemble = crfl.train_ensemble(exp, data, groups=GROUPS, resume_dir=tmp_path)
    assert not any(ensemble.record(1).rounds[1].weights)
    assert_same_ensemble(crfl.load_run(tmp_path), ensemble)
    assert verify(tmp_path) == []


@pytest.mark.parametrize("damage", [None, b"", "cut", "other"])
def test_damaged_files_are_named(copy, damage):
    for path in [p for p in copy.rglob("*") if p.is_file() and p.name != "versions.json"]:
        content = path.read_bytes()
        path.unlink()
        if damage is not None:
            replaced = {"cut": content[: len(content) // 2], "other": b'{"another": 1}\n'}
            path.write_bytes(replaced.get(damage, damage))
        with pytest.raises(StoreError, match=path.name):
            crfl.load_run(copy)
        assert path.name in verify(copy)[0]
        path.write_bytes(content)
    assert verify(copy) == []


def changed(copy, name, change):
    """The manifest lists what another hand wrote."""
    manifest.load(copy).restore({name: change((copy / name).read_text())})


def swapped(text):
    found = json.loads(text)
    found["groups"][0], found["groups"][1] = found["groups"][1], found["groups"][0]
    return json.dumps(found)


def renamed(text):
    found = json.loads(text)
    found["client_names"][0] = "somebody else"
    return json.dumps(found)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("ensemble.json", swapped, "groups are not those"),
        ("ensemble.json", renamed, "groups are not those"),
        ("ensemble.json", lambda text: text.replace("groups", "teams"), "is not the groups of an ensemble"),
        ("records.jsonl", lambda text: "".join(text.splitlines(keepends=True)[1:]), "and 3 records, expected 4 groups"),
    ],
)
def test_other_groups_are_refused_though_the_manifest_lists_them(copy, name, change, message):
    changed(copy, name, change)
    with pytest.raises(StoreError, match=message):
        crfl.load_run(copy)
    assert message.split()[0] in verify(copy)[0]


def test_records_of_other_groups_and_other_models_are_refused(copy):
    whole = crfl.load_run(copy)
    changed(copy, "records.jsonl", lambda text: "".join(text.splitlines(keepends=True)[::-1]))
    with pytest.raises(DamagedFileError, match="group 0: its record is of other clients"):
        crfl.load_run(copy).record(0)
    assert "its record is of other clients" in verify(copy)[0]
    about = {"model": "softmax regression", "num_features": 64, "num_classes": 10, "bias": True}
    content = pack_tensors({"params": 2 * whole.params}, **about)
    changed(copy, "records.jsonl", lambda text: "".join(text.splitlines(keepends=True)[::-1]))
    manifest.load(copy).restore({"params.safetensors": content})
    with pytest.raises(DamagedFileError, match="got parameters of norm"):
        crfl.load_run(copy).record(0)
    nan = pack_tensors({"params": whole.params * float("nan")}, **about)
    manifest.load(copy).restore({"params.safetensors": nan})
    with pytest.raises(DamagedFileError, match="not finite"):
        crfl.load_run(copy)


@pytest.mark.filterwarnings("ignore:.*trained again")
@pytest.mark.parametrize("name", ["records.jsonl", "ensemble.json", "training.json"])
def test_an_ensemble_that_lost_a_file_is_made_whole(copy, data, name):
    whole, content = crfl.load_run(copy), (copy / name).read_bytes()
    (copy / name).unlink()
    assert_same_ensemble(crfl.train_ensemble(EXP, data, groups=GROUPS, resume_dir=copy), whole)
    assert (copy / name).read_bytes() == content
    assert verify(copy) == []


def test_certificates_are_kept(copy, data):
    ensemble = crfl.load_run(copy)
    certificate = crfl.certify(ensemble, data)
    save_certificate(copy, "ensemble-clean", certificate, data.test.y, ensemble.experiment)
    frame, about = load_certificates(copy)["ensemble-clean"]
    assert isinstance(frame, pd.DataFrame)
    assert frame["malicious_clients"].tolist() == certificate.malicious_clients.tolist()
    assert (about["kind"], tuple(about["assumptions"])) == ("ensemble", certificate.assumptions)
    assert verify(copy) == []
