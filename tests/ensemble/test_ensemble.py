"""Votes, groups of the settings, and questions that an ensemble has no answer to."""

import numpy as np
import pytest
import torch

import crfl
from crfl.errors import CertificateError, DataError, SettingsError
from tests.ensemble.federations import CLASSES, FEATURES, federation, module, settings


@pytest.fixture(scope="module")
def small():
    data = federation(seed=2)
    return data, crfl.train_ensemble(settings(data), data, groups=4)


def test_votes_prediction_and_score(small):
    data, ensemble = small
    votes = ensemble.votes(data.test)
    assert votes.shape == (60, 4)
    np.testing.assert_array_equal(votes, ensemble.votes(data.test.x))
    for g in range(4):
        np.testing.assert_array_equal(votes[:, g], ensemble.group_run(g).predict(data.test.x))
    counts = np.stack([(votes == c).sum(axis=1) for c in range(CLASSES)], axis=1)
    np.testing.assert_array_equal(ensemble.predict(data.test), counts.argmax(axis=1))
    assert ensemble.score(data.test) == (counts.argmax(axis=1) == data.test.y.numpy()).mean() > 0.5
    assert repr(ensemble) == ("EnsembleRun(custom: 4 disjoint groups of 3 of 12 clients, softmax regression, 4 rounds)")


def test_votes_of_many_samples_and_models_are_those_of_few():
    """More of both than are judged at a time."""
    data = federation(seed=1)
    how = {"groups": 40, "disjoint": False, "clients_per_group": 2, "model": module()}
    ensemble = crfl.train_ensemble(settings(data, server__rounds=1), data, **how)
    x = torch.randn(2500, FEATURES)
    votes = ensemble.votes(x)
    for g in (0, 15, 16, 39):
        logits = ensemble.group_run(g).logits(x)
        top = logits.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1] > 1e-9).numpy()
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(votes[clear, g], logits.argmax(1).numpy()[clear])


def test_attackers_of_the_settings_attack_where_they_are():
    data = federation()
    exp = settings(data, attack__round=2, attack__clients=[1, 7], attack__scale="replace", attack__trigger="full_image")
    ensemble = crfl.train_ensemble(exp, data, groups=4)
    for number, clients in enumerate(ensemble.groups):
        record = ensemble.record(number)
        mine = [c for c in (1, 7) if c in clients]
        assert [record.client_names[a] for a in record.attackers] == [f"client {c}" for c in mine]
        scales = [a.scale for r in record.attack_rounds for a in r.attackers]
        assert scales == [len(clients) / len(mine) for _ in mine]


def test_test_samples_are_chosen_by_the_settings(small):
    data, ensemble = small
    exp = ensemble.experiment.override({"smoothing.test_samples": 20})
    some = crfl.certify(crfl.train_ensemble(exp, data, groups=4), data)
    every = crfl.certify(ensemble, data)
    assert some.test_size == 60
    np.testing.assert_array_equal(some.prediction, every.prediction[some.indices])
    y = data.test.y[torch.from_numpy(some.indices)]
    assert some.certified_accuracy(data.test.y, 1) == some.certified_accuracy(y, 1)


def test_plain_certificates_say_what_they_assume_and_what_not(small):
    data, ensemble = small
    certificate = crfl.certify(ensemble, data)
    assert "whatever the model and its training" in certificate.guarantee.statement
    assert not any(word in text for text in certificate.assumptions for word in ("convex", "SGD", "norm"))
    assert any("poses as several" in text for text in certificate.assumptions)
    assert certificate.guarantee.rounding == "proved"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "ensemble.groups: got null, expected the number"),
        ({"groups": 0}, "ensemble.groups: got 0, expected a whole number from 1"),
        ({"groups": 13}, "ensemble.groups: got 13, expected 1 to the number of data.clients = 12"),
        ({"groups": 3, "clients_per_group": 2}, "clients_per_group: got 2, expected None"),
        ({"groups": 3, "disjoint": False}, "clients_per_group: got None"),
        (
            {"groups": 3, "disjoint": False, "clients_per_group": 13},
            "clients_per_group: got 13, expected 1 to the number",
        ),
        ({"groups": 3, "engine": "warp"}, "engine: got 'warp'"),
    ],
)
def test_wrong_groups_are_errors(how, message):
    data = federation()
    with pytest.raises(SettingsError, match=message):
        crfl.train_ensemble(settings(data), data, **how)


def test_groups_of_the_settings():
    """What the settings ask for is what arguments ask for; one model of all clients cannot have them."""
    data = federation()
    exp = settings(data, ensemble__groups=5, ensemble__clients_per_group=3)
    found, asked = (
        crfl.train_ensemble(exp, data),
        crfl.train_ensemble(settings(data), data, groups=5, disjoint=False, clients_per_group=3),
    )
    assert found.experiment == asked.experiment == exp
    assert torch.equal(found.params, asked.params)
    assert crfl.train_ensemble(exp, data, groups=2).clients_per_group is None
    with pytest.raises(SettingsError, match=r"ensemble.groups: got 5, expected null, or train_ensemble"):
        crfl.train(exp, data)
    with pytest.raises(SettingsError, match=r"ensemble.clients_per_group: got 3, expected null unless ensemble.groups"):
        settings(data, ensemble__clients_per_group=3)


def test_a_rule_needs_enough_clients_in_every_group():
    data = federation()
    exp = settings(data, server__aggregation="krum", server__num_byzantine=1)
    crfl.train_ensemble(exp, data, groups=2)
    with pytest.raises(
        SettingsError, match="groups: got 3, of which the smallest has 4 clients in a round, expected 5"
    ):
        crfl.train_ensemble(exp, data, groups=3)
    with pytest.raises(SettingsError, match="has 3 clients in a round"):
        crfl.train_ensemble(exp.override({"server.participation": 0.5}), data, groups=2)


def test_wrong_questions_are_errors(small):
    data, ensemble = small
    with pytest.raises(CertificateError, match="kind 'margin': got EnsembleRun, expected a TrainingRun"):
        crfl.certify(ensemble, data, kind="margin")
    with pytest.raises(CertificateError, match="kind 'ensemble': got TrainingRun, expected an EnsembleRun"):
        crfl.certify(ensemble.group_run(0), data, kind="ensemble")
    with pytest.raises(CertificateError, match="attack_round"):
        crfl.certify(ensemble, data, attack_round="any")
    with pytest.raises(CertificateError, match="prices: got 'votes'"):
        crfl.certify(ensemble, data, prices="votes")
    with pytest.raises(CertificateError, match="prices: got 'clients', expected None; of every group"):
        crfl.certify(ensemble, data, prices="clients")
    with pytest.raises(CertificateError, match="simultaneous"):
        crfl.certify(ensemble, data, simultaneous=True)
    with pytest.raises(DataError, match="x: got shape"):
        ensemble.votes(data.test.x[:, :2])
    with pytest.raises(DataError, match="group: got 4, expected 0 to 3"):
        ensemble.record(4)
    drawn = crfl.train_ensemble(ensemble.experiment, data, groups=4, disjoint=False, clients_per_group=3)
    with pytest.raises(CertificateError, match="share clients"):
        crfl.certify(drawn, data, prices="clients")
    network = crfl.train_ensemble(ensemble.experiment, data, groups=4, model=module())
    with pytest.raises(CertificateError, match="softmax regression"):
        crfl.certify(network, data, prices="poison")
