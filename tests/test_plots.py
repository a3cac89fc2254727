"""Plots show the numbers that the certificates hold, and curves can be told apart."""

import itertools

import matplotlib
import numpy as np
import pandas as pd
import pytest

import crfl
from crfl.report import SavedCertificate

matplotlib.use("Agg")
from matplotlib import pyplot


def certificate(strength, name="radius", axis="radius $r$"):
    strength = np.asarray(strength, dtype=float)
    m = len(strength)
    columns = {"index": range(m), "label": 0, "prediction": np.arange(m) % 2, "abstained": strength < 0.1}
    return SavedCertificate("one", pd.DataFrame({**columns, name: strength}), "margin", axis)


@pytest.fixture(autouse=True)
def _close():
    yield
    pyplot.close("all")


def drawn(ax):
    ax.figure.draw_without_rendering()
    return {line.get_label(): line for line in ax.get_lines()}


def test_curves_are_the_certificates():
    found = certificate([0.0, 0.5, 1.5, 2.0])
    accuracy = crfl.plots.certified_accuracy({"one": (found, found.labels)})
    rate = crfl.plots.certified_rate({"one": found})
    for ax, values in (
        (accuracy, lambda r: found.certified_accuracy(found.labels, r)),
        (rate, found.certified_rate),
    ):
        (line,) = ax.get_lines()
        x, y = line.get_data()
        assert np.array_equal(y, values(np.asarray(x)))
        assert x[0] == 0
        assert x[-1] > 2.0
        assert y[-1] == 0
        assert ax.get_xlabel() == "radius $r$"
        assert ax.get_ylabel()


def test_what_stands_for_any_radius_is_marked():
    endless, finite = certificate([np.inf, 1.0]), certificate([0.5, 1.0])
    for found, marks in ((endless, 1), (finite, 0)):
        ax = crfl.plots.certified_rate({"one": found})
        assert len(ax.collections) == marks
        assert bool([text for text in ax.texts if "any" in text.get_text()]) == bool(marks)
    (mark,) = crfl.plots.certified_rate({"one": endless}).collections
    assert mark.get_offsets()[0].tolist() == [1.0, 0.5]


def test_numbers_of_clients_have_an_axis_of_integers():
    found = certificate([0, 1, 3], "malicious_clients", "malicious clients")
    ax = crfl.plots.certified_rate({"one": found})
    (line,) = ax.get_lines()
    assert line.get_xdata().tolist() == [0, 1, 2, 3, 4]
    assert line.get_ydata() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 0])
    assert line.get_drawstyle() == "steps-post"
    assert ax.get_xlabel() == "malicious clients"


def test_radii_and_clients_do_not_share_an_axis():
    with pytest.raises(ValueError, match="draw them apart"):
        crfl.plots.certified_rate({"a": certificate([1.0]), "b": certificate([1], "malicious_clients")})
    with pytest.raises(ValueError, match="expected one or more"):
        crfl.plots.certified_rate({})


def test_axes_are_reused():
    _, ax = pyplot.subplots()
    assert crfl.plots.certified_rate({"a": certificate([1.0])}, ax=ax) is ax
    history = pd.DataFrame({"round": [1, 2], "accuracy": [0.5, 0.6], "attack_success_rate": [0.0, 0.1]})
    assert crfl.plots.training(history, 2, ax=pyplot.subplots()[1]).get_lines()


@pytest.mark.parametrize("count", [2, 7, 14, 20])
def test_curves_are_told_apart_without_colour(count):
    x = np.array([0.0, 1.0])
    lines = drawn(crfl.plots.curves({str(i): (x, np.array([[1.0, i / count]])) for i in range(count)}, "x", "y"))
    looks = [(str(line._unscaled_dash_pattern), line.get_marker()) for line in lines.values()]
    assert len(set(looks)) == count
    for one, two in itertools.pairwise(lines.values()):
        assert one.get_marker() != two.get_marker()
        assert one.get_color() != two.get_color()


@pytest.mark.parametrize("count", [1, 3, 6, 9])
def test_no_legend_covers_a_curve(count):
    x = np.linspace(0, 1, 50)
    ax = crfl.plots.curves({f"a curve, number {i}": (x, np.full((1, 50), i / 9)) for i in range(count)}, "x", "y")
    drawn(ax)
    legend, figure = ax.get_legend().get_window_extent(), ax.figure.bbox
    assert not legend.overlaps(ax.get_window_extent())
    assert not legend.overlaps(ax.xaxis.label.get_window_extent())
    assert figure.x0 <= legend.x0
    assert figure.y0 <= legend.y0
    assert legend.x1 <= figure.x1


@pytest.mark.parametrize(("largest", "top"), [(0.9, 1.02), (0.14, 0.161), (0.0, 1.02), (3.0, 3.45)])
def test_axes_fit_the_data(largest, top):
    x = np.array([0.0, 1.0])
    ax = crfl.plots.curves({"a": (x, np.array([[largest, 0.0]]))}, "x", "y")
    assert ax.get_ylim() == pytest.approx((-0.02 * top, top))
    beside = crfl.plots.curves({"a": (x, np.array([[largest / 10, 0.0]]))}, "x", "y", top=largest)
    assert beside.get_ylim() == ax.get_ylim()


def test_bands_span_the_seeds():
    x, ys = np.array([0.0, 1.0]), np.array([[1.0, 0.2], [0.6, 0.4]])
    ax = crfl.plots.curves({"a": (x, ys)}, "x", "y")
    assert ax.get_lines()[0].get_ydata().tolist() == pytest.approx([0.8, 0.3])
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(0.2)
    assert corners[:, 1].max() == pytest.approx(1.0)


def test_levels_have_the_colour_of_their_curve():
    x, y = np.array([0.0, 1.0]), np.array([[1.0, 0.0]])
    ax = crfl.plots.curves({"a": (x, y), "b": (x, y)}, "x", "y", levels={"b": 0.7, "else": 0.9})
    _, b, level, other = ax.get_lines()
    assert level.get_color() == b.get_color()
    assert list(level.get_ydata()) == [0.7, 0.7]
    assert other.get_label() == "else"


@pytest.mark.parametrize("name", ["$\\frac", "a$b$c", "$", "x_{1", "\\", "café <b>"])
def test_names_of_classes_are_shown_as_they_are(name):
    ax = crfl.plots.label_counts(pd.DataFrame({name: [1, 2], "other": [3, 4]}, index=[name + "!", "two"]))
    ax.figure.draw_without_rendering()
    shown = ax.get_legend().get_texts()[0]
    assert shown._preprocess_math(shown.get_text()) == (name, False)
