"""What is said to help where nothing is certified does help, about as much as is said."""

import numpy as np
import pytest

import crfl
from crfl.certification.coupling.advice import remedies

NOTHING = {"attack.scale": 100.0, "attack.poisoned_per_batch": 4}


@pytest.fixture(scope="module")
def hopeless():
    exp = crfl.Experiment().override(NOTHING)
    data = crfl.load_data(exp)
    run = crfl.train(exp, data)
    return exp, data, run, crfl.certify(run, data)


def test_the_note_says_what_would_help(hopeless):
    *_, cert = hopeless
    assert cert.abstained.all()
    (note,) = cert.notes
    assert note.startswith("Nothing is certified: even at magnitude 0 the models may be ")
    for setting in ("attack.scale 1, a weaker attack", "server.decay", "crfl tune"):
        assert setting in note


def test_the_remedies_hold_when_they_are_tried(hopeless):
    exp, data, run, cert = hopeless
    found = {r.setting: r for r in remedies(run.record, cert.budget, before_clip=True, any_round=False)}
    for setting in ("attack.scale", "attack.poisoned_per_batch", "server.decay"):
        told = found[setting]
        tried = crfl.certify(crfl.train(exp.override({setting: float(told.value.split(",")[0])}), data), data)
        assert tried.scenario.cost(0.0) == pytest.approx(told.distance, rel=0.5)
        assert 1 - tried.abstained.mean() == pytest.approx(told.certified, abs=0.1)
        assert np.median(tried.budget) == pytest.approx(told.margins * np.median(cert.budget), rel=0.5)


def test_those_that_certify_most_come_first(hopeless):
    *_, run, cert = hopeless
    shares = [r.certified for r in remedies(run.record, cert.budget, before_clip=True, any_round=False)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5


def test_nothing_is_said_where_something_is_certified():
    exp = crfl.Experiment()
    data = crfl.load_data(exp)
    assert crfl.certify(crfl.train(exp, data), data).notes == ()


def test_not_one_malicious_client():
    exp = crfl.Experiment().override({"server.update_clip": 5.0, "attack.round": None})
    data = crfl.load_data(exp)
    cert = crfl.certify(crfl.train(exp, data), data, kind="clients")
    assert not cert.malicious_clients.any()
    assert "Not one malicious client is certified: one of 10 may move the model by" in cert.notes[0]
