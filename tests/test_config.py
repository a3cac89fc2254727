"""Settings: every problem is named, and nothing wrong gets in."""

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import crfl
from crfl.errors import SettingsError

CONFIGS = Path(__file__).parents[1] / "configs"


def problems(settings):
    with pytest.raises(SettingsError) as caught:
        crfl.Experiment.from_dict(settings)
    return caught.value.problems


def test_defaults_are_the_digits_config():
    assert crfl.Experiment.from_yaml(CONFIGS / "digits.yaml") == crfl.Experiment()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_round_trip(path, tmp_path):
    exp = crfl.Experiment.from_yaml(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(exp.to_yaml())
    assert crfl.Experiment.from_yaml(copy) == exp


@pytest.mark.parametrize(
    ("settings", "key", "found", "allowed"),
    [
        ({"server": {"noise": -0.1}}, "server.noise", "-0.1", "greater than or equal to 0"),
        ({"server": {"noise": math.nan}}, "server.noise", "nan", "a number"),
        ({"server": {"noise": "nan"}}, "server.noise", "nan", "a number"),
        ({"server": {"noise": math.inf}}, "server.noise", "inf", "finite"),
        ({"server": {"clip": {"start": math.nan}}}, "server.clip.start", "nan", "a number"),
        ({"server": {"clip": {"start": 0}}}, "server.clip.start", "0", "greater than 0"),
        ({"server": {"nois": 1}}, "server.nois", "unknown", "noise"),
        ({"serve": {}}, "serve", "unknown", "server"),
        ({"server": 3}, "server", "3", "a group of settings"),
        ({"attack": {"round": 61}}, "attack.round", "61", "server.rounds = 60"),
        ({"attack": {"round": 0}}, "attack.round", "0", "greater than or equal to 1"),
        ({"attack": {"clients": 11}}, "attack.clients", "11", "data.clients = 10"),
        ({"attack": {"poisoned_per_batch": 21}}, "attack.poisoned_per_batch", "21", "local.batch_size = 20"),
        ({"attack": {"clients": True}}, "attack.clients", "True", "a number"),
        ({"attack": {"round": [3, 61]}}, "attack.round", "61", "server.rounds = 60"),
        ({"attack": {"round": [3, 3]}}, "attack.round", "[3, 3]", "different rounds"),
        ({"attack": {"round": []}}, "attack.round", "[]", "a list of at least one"),
        ({"attack": {"round": [1, 2], "every": 3}}, "attack.every", "3", "null unless attack.round is one round"),
        ({"attack": {"clients": [10]}}, "attack.clients", "10", "numbers 0 to 9"),
        ({"attack": {"clients": [1, 1]}}, "attack.clients", "[1, 1]", "different clients"),
        (
            {"attack": {"clients": [1], "random_clients": True}},
            "attack.random_clients",
            "true",
            "false where attack.clients lists",
        ),
        ({"attack": {"scale": "replac"}}, "attack.scale", "replac", "'replace'"),
        ({"attack": {"labels": "flip"}}, "attack.labels", "flip", "'target' or 'keep'"),
        ({"attack": {"trigger": [[1, 1], [1, 1]]}}, "attack.trigger", "a place twice", "different places"),
        (
            {"attack": {"per_attacker": [{}, {}]}},
            "attack.per_attacker",
            "2 entries",
            "one for each of the 1 attack.clients",
        ),
        ({"attack": {"per_attacker": [{"scal": 1}]}}, "attack.per_attacker.0.scal", "did you mean scale", "magnitude"),
        ({"attack": {"per_attacker": [{"scale": -1}]}}, "attack.per_attacker.0.scale", "-1", "greater than 0"),
        ({"attack": {"per_attacker": [3]}}, "attack.per_attacker.0", "3", "a group of settings"),
        (
            {"attack": {"per_attacker": [{"poisoned_per_batch": 21}]}},
            "attack.per_attacker.0.poisoned_per_batch",
            "21",
            "local.batch_size = 20",
        ),
        (
            {"attack": {"clients": 5, "distributed": True}},
            "attack.distributed",
            "5 attackers and 4 places",
            "one place",
        ),
        (
            {"attack": {"distributed": True, "trigger": "x"}},
            "attack.distributed",
            "true",
            "false for a trigger by name",
        ),
        ({"local": {"learning_rate": [0.1, 0.2]}}, "local.learning_rate", "2 numbers", "each of the 10 data.clients"),
        ({"local": {"learning_rate": [0.1, -0.2]}}, "local.learning_rate", "-0.2", "greater than 0"),
        ({"server": {"participation": 0}}, "server.participation", "0", "greater than 0"),
        ({"server": {"participation": 1.01}}, "server.participation", "1.01", "less than or equal to 1"),
        (
            {"server": {"aggregation": "krum", "num_byzantine": 4}},
            "server.num_byzantine",
            "4",
            "0 to 3 with krum and 10",
        ),
        (
            {"server": {"aggregation": "trimmed_mean", "participation": 0.2}},
            "server.num_byzantine",
            "1",
            "0 to 0 with trimmed_mean and 2 clients",
        ),
        ({"local": {"batch_size": 2.5}}, "local.batch_size", "2.5", "a whole number"),
        ({"smoothing": {"alpha": 1}}, "smoothing.alpha", "1", "less than 1"),
        ({"data": {"name": "cifar"}}, "data.name", "cifar", "mnist"),
        ({"data": {"clients": {"CT"}}}, "data.clients", "{'CT'}", "a list: a set has no order"),
        ({"data": {"clients": []}}, "data.clients", "[]", "a list of at least one"),
        ({"seed": np.True_}, "seed", "True", "a number"),
        ({"seed": b"5"}, "seed", "5", "a number"),
        ({"server": {"noise": np.ones(2)}}, "server.noise", "array", "a number"),
        ({"attack": {"per_attacker": np.ones(1)}}, "attack.per_attacker.0", "1.0", "a group of settings"),
        ({"attack": {"trigger": [1, 2]}}, "attack.trigger", "[1, 2]", "a word or a list"),
    ],
)
def test_each_problem_names_key_found_and_allowed(settings, key, found, allowed):
    (problem,) = problems(settings)
    assert problem.startswith(f"{key}: ")
    assert found in problem
    assert allowed in problem


def test_all_problems_in_one_go():
    wrong = {
        "server": {"noise": -1, "rounds": 5},
        "attack": {"round": 9, "clients": 99, "poisoned_per_batch": 0.5},
        "typo": 1,
    }
    keys = [p.split(":")[0] for p in problems(wrong)]
    assert keys == ["server.noise", "attack.poisoned_per_batch", "typo", "attack.round", "attack.clients"]


def test_no_conflict_is_reported_for_a_value_that_is_wrong_itself():
    assert [p.split(":")[0] for p in problems({"attack": {"clients": -1}})] == ["attack.clients"]


def test_wrong_entries_of_a_list_leave_the_other_problems_visible():
    wrong = {"attack": {"round": 99, "clients": 2, "per_attacker": [{"scale": 0, "magnitude": -1}, {"target": -1}]}}
    keys = [
        "attack.per_attacker.0.scale",
        "attack.per_attacker.0.magnitude",
        "attack.per_attacker.1.target",
        "attack.round",
    ]
    assert [p.split(":")[0] for p in problems(wrong)] == keys


def test_each_attacker_takes_what_it_leaves_out_from_all():
    each = [{"scale": "replace"}, {"magnitude": 3, "labels": "keep"}]
    attack = crfl.Experiment().override({"attack.clients": [4, 1], "attack.per_attacker": each}).attack
    first, second = attack.individuals
    assert (first.scale, first.magnitude, first.labels) == ("replace", 0.1, "target")
    assert (second.scale, second.magnitude, second.labels) == (5.0, 3.0, "keep")


@pytest.mark.parametrize(
    ("changes", "rounds"),
    [
        ({}, (10,)),
        ({"round": None}, ()),
        ({"clients": 0}, ()),
        ({"round": [7, 2]}, (2, 7)),
        ({"round": 2, "every": 25}, (2, 27, 52)),
        ({"round": 60, "every": 1}, (60,)),
    ],
)
def test_attack_rounds(changes, rounds):
    assert crfl.Experiment.from_dict({"attack": changes}).attack.rounds(60) == rounds


def test_new_settings_survive_yaml(tmp_path):
    changes = {
        "attack.round": [3, 9],
        "attack.clients": ["client 3", 4],
        "attack.scale": "replace",
        "attack.per_attacker": [{"trigger": [[0, 1]], "update": "sign_flip"}, {"scale": 3.0}],
        "local.learning_rate": [0.1] * 10,
        "server.participation": 0.5,
    }
    exp = crfl.Experiment().override(changes)
    path = tmp_path / "copy.yaml"
    path.write_text(exp.to_yaml())
    assert crfl.Experiment.from_yaml(path) == exp


def test_frozen():
    with pytest.raises(ValueError, match="frozen"):
        crfl.Experiment().seed = 1  # type: ignore[misc]


def test_override_returns_a_changed_copy():
    exp = crfl.Experiment()
    changed = exp.override({"attack.scale": 50.0, "server.clip.cap": 7, "attack.round": None})
    assert (changed.attack.scale, changed.server.clip.cap, changed.attack.round) == (50.0, 7.0, None)
    assert exp == crfl.Experiment()
    assert changed.override({"attack": exp.attack, "server.clip": exp.server.clip}) == exp


def test_a_group_overrides_what_it_names():
    exp = crfl.Experiment().override({"attack.scale": 9.0, "attack": {"target": 3}, "server": {"clip": {"slope": 0.5}}})
    by_key = crfl.Experiment().override({"attack.scale": 9.0, "attack.target": 3, "server.clip.slope": 0.5})
    assert exp == by_key
    assert exp.attack.trigger == crfl.Experiment().attack.trigger


@pytest.mark.parametrize(
    "key",
    [
        *("attack.scal", "seed.x", "seed.x.y", "nothing.at.all", "server.noise.std", "server.noise.a.b"),
        *("attack.per_attacker.0.scale", "attack.trigger.0.1", "data.clients.CT.size"),
    ],
)
def test_override_refuses_unknown_keys(key):
    with pytest.raises(SettingsError, match=key.split(".")[0]):
        crfl.Experiment().override({key: 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server: [", "not valid YAML"),
        ("[" * 2000, "not valid YAML"),
        (f"seed: {'9' * 5000}", "not valid YAML"),
        *((text, "groups of settings") for text in ("- 1", "[]", "0", "false")),
        ("seed: 1\nseed: 2", "seed given twice"),
        ("server: {yes: 2}", "server.True: unknown setting"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message) as caught:
        crfl.Experiment.from_yaml(path)
    assert str(path) in str(caught.value)


def test_merged_and_empty_files(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("local: &rate {learning_rate: 0.5}\n")
    half = crfl.Experiment.from_yaml(path)
    path.write_text("local: {<<: {learning_rate: 0.25, epochs: 2}, learning_rate: 0.5}\n")
    assert crfl.Experiment.from_yaml(path) == half.override({"local.epochs": 2})
    path.write_text("# nothing yet\n")
    assert crfl.Experiment.from_yaml(path) == crfl.Experiment()


def test_missing_file():
    with pytest.raises(SettingsError, match="cannot be read"):
        crfl.Experiment.from_yaml("nowhere.yaml")


def test_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "e.yaml"
    path.write_text("local: {learning_rate: 1e-3}")  # a string to YAML 1.1
    assert crfl.Experiment.from_yaml(path).local.learning_rate == 1e-3


@given(st.integers(1, 10**6), st.floats(0.01, 100), st.floats(0, 10), st.floats(0.01, 1e3))
def test_clip_schedule(round_, start, slope, cap):
    clip = crfl.Experiment().override({"server.clip": {"start": start, "slope": slope, "cap": cap}}).server.clip
    assert clip.norm(round_) == min(start + slope * round_, cap)


@pytest.mark.parametrize("settings", [None, 3, [("seed", 1)]])
def test_what_is_no_group_of_settings(settings):
    with pytest.raises(SettingsError, match="expected groups of settings"):
        crfl.Experiment.from_dict(settings)
    with pytest.raises(SettingsError, match="expected values by dotted key"):
        crfl.Experiment().override(settings)
    with pytest.raises(SettingsError, match="1: unknown setting"):
        crfl.Experiment().override({1: 2})


def test_problems_survive_the_way_between_processes():
    error = SettingsError(["seed: got x, expected y", "another"], "a.yaml")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.problems, copy.source) == (str(error), error.problems, "a.yaml")
