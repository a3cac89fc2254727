"""How many clients may send anything: kind "clients", and malicious client-rounds."""

import math

import numpy as np
import pytest
import torch

import crfl
from crfl.certification.coupling.clients import ClientScenario
from crfl.errors import CertificateError
from tests.certification.trained import EXP


def test_malicious_client_rounds(data):
    """Clipped updates: floor below budget / (2 p S), and twice that against silence."""
    limit = 7 * 0.05 * math.sqrt(2) * 4.92
    clipped = crfl.train(EXP.override({"server.update_clip": limit, "local.batch_size": 20}), data)
    cert = crfl.certify(clipped, data.test, kind="margin")
    each = 2 * limit / 10
    slack = cert.scenario.total_rounding
    for count, budget in zip(cert.max_malicious(), cert.budget, strict=True):
        assert count == 0 or count * each + slack < budget
        assert (count + 1) * each + slack >= budget
    assert (cert.max_malicious(silent=True) >= cert.max_malicious()).all()
    assert (cert.max_malicious(limit=2) == np.minimum(cert.max_malicious(), 2)).all()
    for limit in (0, -1, 1.5, float("inf"), "3", None):
        with pytest.raises(CertificateError, match=r"limit: got .*, expected whole numbers of 1 or more"):
            cert.max_malicious(limit=limit)
    with pytest.raises(CertificateError, match="update_clip"):
        crfl.certify(crfl.train(EXP, data), data.test, kind="margin").max_malicious()
    with pytest.raises(CertificateError, match="got kind 'published', expected 'margin' or 'smoothing'"):
        crfl.certify(clipped, data.test, kind="published").max_malicious()


MANY = crfl.Experiment().override(
    {
        "data.clients": 700,
        "local.batch_size": 2,
        "local.learning_rate": 0.15,
        "server.clip.start": 50.0,
        "server.noise": 1e-4,
        "server.decay": 0.3,
        "server.update_clip": 0.8,
        "attack.round": None,
    }
)
"""700 clients of two samples, whose updates of one step the clip of 0.8 never reaches."""


@pytest.fixture(scope="module")
def crowd():
    data = crfl.load_data(MANY)
    return crfl.train(MANY, data), data


def test_clients_by_hand(crowd):
    """The largest m whose Delta lies below the margin's budget."""
    run, data = crowd
    cert, scenario = crfl.certify(run, data, kind="clients"), ClientScenario(run.record)
    budget = crfl.certify(run, data).budget
    costs = np.array([scenario.cost(m) for m in range(1, 6)])
    expected = (costs < budget[:, None]).sum(axis=1)
    np.testing.assert_array_equal(cert.malicious_clients, expected)
    np.testing.assert_array_equal(cert.prediction, run.predict(data.test.x))
    assert cert.certified_accuracy(data.test.y, 1) > 0.4
    assert (cert.kind, cert.strength_name) == ("clients", "malicious_clients")
    assert "whatever so many of the 700 clients send" in cert.summary()


@pytest.mark.parametrize(("malicious", "update"), [(1, "sign_flip"), (2, "gaussian")])
def test_clients_that_send_anything_change_nothing_that_is_certified(crowd, malicious, update):
    """Huge updates in every round; the clip shortens them to 0.8. Certified from either run's record."""
    run, data = crowd
    changes = {"attack.round": 1, "attack.every": 1, "attack.clients": malicious}
    attacked = crfl.train(MANY.override({**changes, "attack.update": update, "attack.scale": 1e6}), data)
    before, after = run.predict(data.test.x), attacked.predict(data.test.x)
    assert not torch.equal(run.params, attacked.params)
    for known in (run, attacked):
        held = crfl.certify(known, data, kind="clients").malicious_clients >= malicious
        assert held.any()
        assert (before == after)[held].all()


def test_clients_need_clipped_updates(run, data):
    with pytest.raises(CertificateError, match=r"kind 'clients' does not hold .*server\.update_clip"):
        crfl.certify(run, data, kind="clients")
