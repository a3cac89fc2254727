"""The numbers that the project promises on real MNIST at the paper's defaults, label change included."""

import os
from pathlib import Path

import numpy as np
import pytest

import crfl

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="needs the real data sets under CRFL_DATA_DIR"),
]


published = pytest.mark.filterwarnings("ignore::crfl.errors.CertificateWarning")


@pytest.fixture(scope="module")
def runs():
    """The attacked run, its benign counterpart, and the test set."""
    exp = crfl.Experiment.from_yaml(Path(__file__).parents[2] / "configs" / "mnist.yaml")
    exp = exp.override({"local.precision": "float64"})  # where rounding is proved
    data = crfl.load_data(exp)
    return *crfl.train_many([exp, exp], data, benign=[False, True]), data.test


@published
def test_published_by_sampling(runs):
    run, _, test = runs
    cert = crfl.certify(run, test, kind="published")
    assert cert.critical_radius == pytest.approx(1.9858334424610353, rel=1e-9)
    expected = {0.5: 0.70, 1.0: 0.69, 1.9: 0.63, 1.99: 0.0}
    np.testing.assert_allclose(cert.certified_accuracy(test.y, list(expected)), list(expected.values()), atol=0.02)


@published
def test_published_with_exact_probabilities(runs):
    run, _, test = runs
    cert = crfl.certify(run, test, kind="published", bounds="exact")
    np.testing.assert_allclose(cert.certified_accuracy(test.y, [1.9, 4.0, 8.0]), [0.67, 0.60, 0.44], atol=0.02)


def test_margin(runs):
    """80 % and more certified at magnitude 0.1; and those are indeed the benign counterpart's predictions."""
    run, benign, test = runs
    cert = crfl.certify(run, test)
    assert cert.guarantee.rounding == "proved"
    assert cert.certified_rate(0.1) >= 0.82
    assert crfl.certify(run, test, attack_round="any").certified_rate(0.1) >= 0.80
    distance = benign.history["distance"].to_numpy()
    assert (distance <= cert.scenario.distances(0.1)[:, 1]).all()
    held = ~cert.abstained & (cert.radius >= 0.1)
    assert (benign.predict(test.x) == cert.prediction)[held].all()
