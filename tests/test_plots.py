"""Plots show the numbers that the certificates hold."""

import matplotlib
import numpy as np
import pytest

import crfl

matplotlib.use("Agg")
from matplotlib import pyplot

EXP = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "smoothing.samples": 100})


@pytest.fixture(scope="module")
def run_and_data():
    data = crfl.load_data(EXP)
    return crfl.train(EXP, data), data


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def test_curves_are_the_certificates(run_and_data):
    run, data = run_and_data
    certificate = crfl.certify(run, data.test)
    accuracy = crfl.plots.certified_accuracy({"one": (certificate, data.test.y)})
    rate = crfl.plots.certified_rate({"one": certificate})
    for ax, values in (
        (accuracy, lambda r: certificate.certified_accuracy(data.test.y, r)),
        (rate, certificate.certified_rate),
    ):
        (line,) = ax.get_lines()
        x, y = line.get_data()
        assert np.array_equal(y, values(np.asarray(x)))
        assert x[0] == 0
        assert x[-1] > certificate.critical_radius
        assert y[-1] == 0
        assert ax.get_xlabel()
        assert ax.get_ylabel()


def test_axes_are_reused(run_and_data):
    run, data = run_and_data
    _, ax = pyplot.subplots()
    assert crfl.plots.certified_rate({"a": crfl.certify(run, data.test)}, ax=ax) is ax
    assert crfl.plots.training(run.history, 2, ax=pyplot.subplots()[1]).get_lines()


@pytest.mark.parametrize(("largest", "top"), [(0.9, 1.02), (0.14, 0.161), (0.0, 1.02), (3.0, 3.45)])
def test_axes_fit_the_data(largest, top):
    x = np.array([0.0, 1.0])
    ax = crfl.plots.curves({"a": (x, np.array([[largest, 0.0]]), "-")}, "x", "y")
    assert ax.get_ylim() == pytest.approx((-0.02 * top, top))
    beside = crfl.plots.curves({"a": (x, np.array([[largest / 10, 0.0]]), "-")}, "x", "y", top=largest)
    assert beside.get_ylim() == ax.get_ylim()


def test_bands_span_the_seeds():
    x, ys = np.array([0.0, 1.0]), np.array([[1.0, 0.2], [0.6, 0.4]])
    ax = crfl.plots.curves({"a": (x, ys, "-")}, "x", "y")
    assert ax.get_lines()[0].get_ydata().tolist() == pytest.approx([0.8, 0.3])
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.2)
    assert corners[:, 1].max() == pytest.approx(1.0)
