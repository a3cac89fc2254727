"""Ensembles that train in a folder."""

import pytest
import torch

import crfl
from crfl.config import Ensemble
from crfl.ensemble_run import choose_groups
from crfl.errors import StoreError
from tests.ensemble.federations import MODELS, federation, settings
from tests.interrupted import interrupted, interrupting


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
@pytest.mark.parametrize("model", MODELS)
def test_an_interrupted_ensemble_goes_on_in_the_same_bits(model, tmp_path):
    """With clients that are dropped, and groups that fail: votes and records are those of one training."""
    data = federation()
    groups = choose_groups(data.client_names, Ensemble(groups=4), 0)
    hostile = {"attack__round": 1, "attack__every": 2, "attack__update": "nan", "attack__trigger": []}
    attackers = [*groups[0].tolist(), int(groups[1][0])]
    exp = settings(data, **hostile, attack__clients=attackers, server__update_clip=0.5)
    how = {"groups": 4, "model": MODELS[model]()}
    whole = crfl.train_ensemble(exp, data, **how)
    for done in (1, 3):
        with interrupted(done):
            crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    again = crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    with interrupting(0):
        complete = crfl.train_ensemble(exp, data, **how, resume_dir=tmp_path)
    for found in (again, complete):
        assert torch.equal(found.params, whole.params)
        assert [found.record(g) for g in range(4)] == [whole.record(g) for g in range(4)]
        assert found.experiment == whole.experiment


def test_a_folder_belongs_to_one_ensemble(tmp_path):
    data = federation()
    exp = settings(data)
    crfl.train_ensemble(exp, data, groups=3, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in ensemble"):
        crfl.train_ensemble(exp, data, groups=4, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in server"):
        crfl.train_ensemble(exp.override({"server.rounds": 9}), data, groups=3, resume_dir=tmp_path)
    with pytest.raises(StoreError, match="differs in ensemble"):
        crfl.train(exp, data, resume_dir=tmp_path)


def test_an_interruption_in_the_first_round_leaves_no_folder(tmp_path):
    data = federation()
    with interrupted(0):
        crfl.train_ensemble(settings(data), data, groups=3, resume_dir=tmp_path / "new")
    assert not (tmp_path / "new").exists()
