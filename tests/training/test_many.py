"""Runs that train together: each equals the run trained alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.triggers import TRIGGERS
from crfl.errors import SettingsError
from tests.federations import images, small_settings

SIZES = [9, 20, 31, 16, 12]
BASE = small_settings(
    SIZES,
    {
        "local.learning_rate": 0.3,
        "server.rounds": 5,
        "attack.round": 3,
        "attack.magnitude": 1.0,
        "attack.trigger": [[0, 0], [5, 5]],
    },
)
PARTLY = {"server.participation": 0.4, "attack.force_participation": True}


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


@pytest.mark.parametrize(
    "changes",
    [
        [{}, {"server.noise": 0.05}, {"attack.scale": 30.0, "attack.clients": 4}, {"attack.round": None}],
        [PARTLY, PARTLY | {"attack.clients": [4]}, PARTLY | {"server.participation": 0.7}],
        [{}, {"server.aggregation": "weighted_mean"}, {"server.aggregation": "rfa"}, {"server.update_clip": 0.1}],
        [{"attack.update": "nan"}, {"attack.update": "sign_flip"}, {}],
        [{"server.decay": 0.3, "local.schedule": "inverse"}] * 2,
    ],
    ids=["server and attack", "participation", "rules", "malicious updates", "schedule"],
)
@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
def test_runs_that_train_together_equal_their_runs_alone(data, changes):
    experiments = [BASE.override(c) for c in changes] + [BASE.override(changes[0])]
    benign = [False] * len(changes) + [True]
    together = crfl.train_many(experiments, data, benign=benign)
    for found, exp, is_benign in zip(together, experiments, benign, strict=True):
        alone = crfl.train(exp, data, benign=is_benign)
        torch.testing.assert_close(found.params, alone.params, rtol=0, atol=1e-13)
        assert found.record.benign == is_benign
        assert [r.weights for r in found.record.rounds] == [pytest.approx(r.weights) for r in alone.record.rounds]
        assert found.columns["loss"] == pytest.approx(alone.columns["loss"], rel=1e-12)
        assert found.columns["attack_success_rate"] == pytest.approx(alone.columns["attack_success_rate"], nan_ok=True)
        distances = found.columns["distance"]
        assert distances[-1] == pytest.approx(float((found.params - together[0].params).norm()), abs=1e-13)


def test_a_pair_is_a_run_and_its_counterpart(data):
    run, benign = crfl.train_pair(BASE, data)
    torch.testing.assert_close(run.params, crfl.train(BASE, data).params, rtol=0, atol=1e-13)
    torch.testing.assert_close(benign.params, crfl.train(BASE, data, benign=True).params, rtol=0, atol=1e-13)
    assert benign.record.benign
    assert not run.record.benign
    distance = run.columns["distance"]
    assert (distance[:2] < 1e-13).all()  # before the attack of round 3
    assert (distance[2:] > 1e-4).all()
    assert distance[-1] == pytest.approx(float((run.params - benign.params).norm()))
    assert "distance" not in crfl.train(BASE, data).columns


def test_a_counterpart_scales_as_the_attackers_do(data):
    """Without poison it is the run itself; and its record says who attacked it, and how."""
    exp = BASE.override({"attack.poisoned_per_batch": 0, "attack.scale": 7.0})
    run, benign = crfl.train_pair(exp, data)
    torch.testing.assert_close(run.params, benign.params, rtol=0, atol=1e-13)
    for ours, theirs in zip(
        run.record.attack_rounds[0].attackers, benign.record.attack_rounds[0].attackers, strict=True
    ):
        assert replace(ours, update_norm=None) == replace(theirs, update_norm=None)
        assert ours.update_norm == pytest.approx(theirs.update_norm)


def test_a_malicious_client_sends_nothing_in_the_counterpart(data):
    exp = BASE.override({"attack.update": "gaussian"})
    (attack_round,) = crfl.train(exp, data, benign=True).record.attack_rounds
    assert attack_round.attackers[0].update_norm == 0
    assert attack_round.weights == (0.2,) * 5


def test_every_run_is_measured_under_its_own_backdoor(data, monkeypatch):
    """A trigger may read any setting of the attack."""
    monkeypatch.setitem(
        TRIGGERS, "target", lambda attack, data, g: lambda x: x.index_fill(1, torch.tensor([attack.target]), 1.0)
    )
    runs = [BASE.override({"attack.trigger": "target", "attack.target": t, "attack.scale": 30.0}) for t in range(3)]
    for found, exp in zip(crfl.train_many(runs, data), runs, strict=True):
        alone = crfl.train(exp, data).columns["attack_success_rate"]
        np.testing.assert_array_equal(found.columns["attack_success_rate"], alone)


@pytest.mark.parametrize(
    "key",
    ["seed", "local.learning_rate", "local.precision", "model.bias", "server.rounds", "server.decay"],
)
def test_runs_that_train_together_must_share_their_batches(data, key):
    value = {"local.precision": "float32", "model.bias": False, "local.learning_rate": 0.2, "server.decay": 0.1}
    with pytest.raises(SettingsError, match=r".*".join(key.split(".")[:1])):
        crfl.train_many([BASE, BASE.override({key: value.get(key, 4)})], data)


def test_what_are_no_runs(data):
    with pytest.raises(SettingsError, match="experiments: got none"):
        crfl.train_many([], data)
    with pytest.raises(SettingsError, match="benign: got 1 values, expected one for each of the 2 experiments"):
        crfl.train_many([BASE, BASE], data, benign=[True])
