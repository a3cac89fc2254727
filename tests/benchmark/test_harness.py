"""The comparison: what it keeps, what it refuses, and that a wrong certificate is found out."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy import stats

import crfl
from crfl.benchmark.entry import THREATS, Entry, Outcome
from crfl.benchmark.federations import DATA_SETS, federation
from crfl.benchmark.harness import compare, gather
from crfl.benchmark.methods import load_entries
from crfl.benchmark.page import comparison_page
from crfl.benchmark.table import student_interval, threat_table
from crfl.cli import main
from crfl.errors import CrflError, DataError, SettingsError

CLASS = "CRFL_TEST_CLASS"
"""The class that a method answers stands in the environment, which is no part of a result's key."""


def answer(task):
    """The same for every sample."""
    size = len(task.data.test)
    return Outcome(np.full(size, int(os.environ.get(CLASS, 0))), np.full(size, 3.0), 1)


def unchanged(task, strength):
    return np.zeros(len(task.data.test), dtype=np.int64)


def changed_beyond(limit):
    def attack(task, strength):
        return np.full(len(task.data.test), int(strength > limit))

    return attack


def entry(name="constant", guarantee="sound", attack=None, threat="clients", run=answer):
    return Entry(name, "nobody", threat, guarantee, ("Nothing.",), run, attack)


def test_what_is_there_is_not_made_again(tmp_path, monkeypatch):
    first = compare([entry()], ["digits"], [0], tmp_path)
    monkeypatch.setenv(CLASS, "1")
    again = compare([entry()], ["digits"], [0, 1], tmp_path)
    assert [r.prediction[0] for r in again.results] == [0, 1]
    assert again.results[0].cpu_seconds == first.results[0].cpu_seconds


def test_what_is_there_is_gathered(tmp_path):
    entries = [entry(), entry("another")]
    assert gather(entries, ["digits"], range(3), tmp_path).results == ()
    compare(entries, ["digits"], [0], tmp_path)
    compare(entries[:1], ["digits"], [1], tmp_path)
    found = gather(entries, ["digits"], range(3), tmp_path)
    assert [(r.method, r.seed) for r in found.results] == [("constant", 0), ("another", 0), ("constant", 1)]
    assert gather([entry(attack=unchanged)], ["digits"], range(3), tmp_path).results == ()  # another method


def test_a_method_that_changed_is_tried_again(tmp_path, monkeypatch):
    compare([entry()], ["digits"], [0], tmp_path)
    monkeypatch.setenv(CLASS, "1")
    assert compare([entry(attack=unchanged)], ["digits"], [0], tmp_path).results[0].prediction[0] == 1


def test_a_damaged_result_is_made_again(tmp_path):
    compare([entry()], ["digits"], [0], tmp_path)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert compare([entry()], ["digits"], [0], tmp_path).results[0].accuracy < 0.2


@pytest.mark.parametrize(("limit", "wrong"), [(1, True), (4.9, False)])
def test_an_attack_below_the_certified_strength_contradicts(tmp_path, limit, wrong):
    """Certified up to 3, attacked at 1, 5, 20, 50: a change at 1 is a contradiction, one from 5 on is none."""
    found = compare([entry(attack=changed_beyond(0 if wrong else limit))], ["digits"], [0], tmp_path)
    assert bool(found.contradicted) == wrong
    assert threat_table(found, "clients")["contradicted"][0].startswith("yes" if wrong else "no")


@pytest.mark.parametrize("guarantee", ["as printed", "statistical"])
def test_what_does_not_call_itself_sound_is_marked_alone(tmp_path, guarantee):
    found = compare([entry(guarantee=guarantee, attack=changed_beyond(0))], ["digits"], [0], tmp_path)
    assert not found.contradicted
    assert threat_table(found, "clients")["contradicted"][0].startswith("yes")


def test_a_method_that_fails_stops_no_other(tmp_path):
    def fails(task):
        raise DataError("not this one")

    found = compare([entry("fails", run=fails), entry()], ["digits"], [0], tmp_path)
    assert [r.method for r in found.results] == ["constant"]
    assert "not this one" in found.failures[0]


@pytest.mark.parametrize(
    "outcome",
    [
        lambda m: Outcome(np.zeros(m - 1, dtype=int), np.zeros(m - 1), 1),
        lambda m: Outcome(np.full(m, 10), np.zeros(m), 1),
        lambda m: Outcome(np.full(m, -1), np.zeros(m), 1),
    ],
)
def test_predictions_that_are_none_are_refused(tmp_path, outcome):
    found = compare([entry(run=lambda task: outcome(len(task.data.test)))], ["digits"], [0], tmp_path)
    assert found.failures
    assert "prediction" in found.failures[0]


def test_an_outcome_knows_what_it_holds():
    with pytest.raises(CrflError, match="NaN"):
        Outcome(np.zeros(2, dtype=int), np.array([0.0, np.nan]), 1)
    with pytest.raises(CrflError, match="shape"):
        Outcome(np.zeros(2, dtype=int), np.zeros(3), 1)


def test_two_entries_of_one_name_are_refused(tmp_path):
    with pytest.raises(SettingsError, match="twice"):
        compare([entry(), entry()], ["digits"], [0], tmp_path)
    with pytest.raises(SettingsError, match="threat"):
        compare([entry(threat="rain")], ["digits"], [0], tmp_path)
    with pytest.raises(SettingsError, match="data"):
        compare([entry()], ["rain"], [0], tmp_path)


def test_the_interval_is_students():
    values = np.random.default_rng(0).random(5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert student_interval(values) == pytest.approx((values.mean(), low, high))


def test_a_cell_without_a_measurement_is_empty(tmp_path):
    found = compare([entry()], ["digits"], [0], tmp_path)
    table = threat_table(found, "clients")
    assert table["attacked@1"].isna().all()
    assert table["accuracy_low"].isna().all()  # one seed has no interval
    assert table["contradicted"].tolist() == [""]


def test_the_page_stands_alone_and_shows_text_as_text(tmp_path):
    html = comparison_page(compare([entry("<b>&")], ["digits"], [0], tmp_path))
    assert "&lt;b&gt;&amp;" in html
    assert "http-equiv" in html
    assert html.count("data:image/png") == 1


def test_every_federation_is_that_of_all_methods():
    for name in DATA_SETS:
        few, many = federation(name, "trigger", 0), federation(name, "clients", 0)
        assert few.data.num_clients < many.data.num_clients
        assert few.features == many.features
        assert federation(name, "clients", 1).seed == 1


def test_every_threat_has_a_method_of_our_own():
    assert {e.threat for e in load_entries()} == set(THREATS)


PLUGIN = """
import numpy as np
from crfl.benchmark.entry import Entry, Outcome

def run(task):
    size = len(task.data.test)
    return Outcome(np.zeros(size, dtype=int), np.full(size, {claimed}), 1)

def attack(task, strength):
    return np.full(len(task.data.test), 1)

ENTRIES = [Entry("{name}", "nobody", "clients", "sound", (), run, attack)]
"""


@pytest.mark.parametrize(("name", "claimed", "code"), [("honest_method", 0.0, 0), ("lying_method", 1.0, 3)])
def test_the_command_finds_out_a_wrong_certificate(tmp_path, name, claimed, code):
    path = tmp_path / f"{name}.py"
    path.write_text(PLUGIN.format(name=name, claimed=claimed))
    out = tmp_path / "out"
    arguments = ["compare", "--plugin", path, "--method", name, "--data", "digits", "--out", out]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    row = pd.read_csv(out / "clients.csv").iloc[0]
    assert (row["method"], row["version"]) == (name, crfl.__version__)
    assert row["attacked@5"] < row["accuracy"]
    assert pd.read_json(out / "clients.json").iloc[0]["method"] == name
    assert "Content-Security-Policy" in (out / "comparison.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--threat", "rain"], "client-rounds"),
        (["--method", "rain"], "CRFL margin"),
        (["--data", "rain"], "digits"),
        (["--plugin", str(Path(__file__))], "ENTRIES"),
    ],
)
def test_the_command_says_what_there_is(tmp_path, arguments, told):
    result = CliRunner().invoke(main, ["compare", "--out", str(tmp_path), *arguments])
    assert result.exit_code != 0
    assert told in result.output
