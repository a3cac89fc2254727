"""Every wrong value of a setting is named, and nothing wrong gets in."""

import math
import pickle
import random
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml

import crfl
from crfl.config.reference import all_settings
from crfl.errors import SettingsError


def problems(settings):
    with pytest.raises(SettingsError) as caught:
        crfl.Experiment.from_dict(settings)
    return caught.value.problems


@pytest.mark.parametrize(
    ("settings", "key", "found", "allowed"),
    [
        ({"server": {"noise": -0.1}}, "server.noise", "-0.1", "a number, 0 or more"),
        ({"server": {"noise": math.nan}}, "server.noise", "nan", "a number"),
        ({"server": {"noise": "nan"}}, "server.noise", "nan", "a number"),
        ({"server": {"noise": math.inf}}, "server.noise", "inf", "at most 3.4e+38"),
        ({"server": {"clip": {"start": math.nan}}}, "server.clip.start", "nan", "a number"),
        ({"server": {"clip": {"start": 0}}}, "server.clip.start", "0", "a number above 0, or .inf"),
        ({"server": {"nois": 1}}, "server.nois", "unknown", "noise"),
        ({"serve": {}}, "serve", "unknown", "server"),
        ({"server": 3}, "server", "3", "a group of settings"),
        ({"attack": {"round": 61}}, "attack.round", "61", "server.rounds = 60"),
        (
            {"attack": {"round": 0}},
            "attack.round",
            "0",
            "a whole number from 1 to 10^6, a list of such numbers, or null",
        ),
        ({"attack": {"clients": 11}}, "attack.clients", "11", "data.clients = 10"),
        ({"attack": {"poisoned_per_batch": 21}}, "attack.poisoned_per_batch", "21", "local.batch_size = 20"),
        (
            {"attack": {"clients": True}},
            "attack.clients",
            "True",
            "a whole number from 0 to 10^9, or a list of numbers and names",
        ),
        ({"attack": {"round": [3, 61]}}, "attack.round", "61", "server.rounds = 60"),
        ({"attack": {"round": [3, 3]}}, "attack.round", "[3, 3]", "different rounds"),
        ({"attack": {"round": []}}, "attack.round", "[]", "a list of such numbers"),
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
        (
            {"attack": {"per_attacker": [{"scale": -1}]}},
            "attack.per_attacker.0.scale",
            "-1",
            "a number above 0, 'replace', or null",
        ),
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
        ({"local": {"learning_rate": [0.1, -0.2]}}, "local.learning_rate", "-0.2", "a number above 0, or a list"),
        ({"server": {"participation": 0}}, "server.participation", "0", "a number above 0, at most 1"),
        ({"server": {"participation": 1.01}}, "server.participation", "1.01", "a number above 0, at most 1"),
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
        ({"smoothing": {"alpha": 1}}, "smoothing.alpha", "1", "a number between 0 and 1"),
        ({"data": {"name": "cifar"}}, "data.name", "cifar", "mnist"),
        ({"data": {"clients": {"CT"}}}, "data.clients", "{'CT'}", "a list of names (a set has no order)"),
        ({"data": {"clients": []}}, "data.clients", "[]", "a list of names"),
        ({"seed": np.True_}, "seed", "True", "a whole number"),
        ({"seed": b"5"}, "seed", "b'5'", "a whole number"),
        ({"server": {"noise": np.ones(2)}}, "server.noise", "[1.0, 1.0]", "a number"),
        ({"attack": {"per_attacker": np.ones(1)}}, "attack.per_attacker.0", "1.0", "a group of settings"),
        ({"attack": {"trigger": [1, 2]}}, "attack.trigger", "1", "a name, or a list of pixels"),
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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"." * 50_000: 1}, "unknown setting"),
        ({"attack." * 20_000: 1}, "unknown setting"),
        ({"attack.magnitude": 1e39}, r"at most 3.4e\+38"),
        ({"server.clip.cap": 1e39}, r"at most 3.4e\+38"),
        ({"local.epochs": 1e30}, "from 1 to"),
        (
            {"server.rounds": 10**12, "attack.every": 1},
            "server.rounds: got 1000000000000, expected a whole number from 1",
        ),
        ({"data.clients": 10**400}, "a number of more than 40 digits"),
        ({"seed": "9" * 5000}, "at most 100 digits"),
        ({"data.root": "~nobody-of-this-name/x"}, "a user that this system knows"),
        ({"data.root": "x/" * 2500}, "at most 4096 bytes"),
        ({"data.root": "x" * 300}, "255 from one / to the next"),
        ({"data.root": "a\0b"}, "NUL"),
        ({"server.aggregation": "x" * 10_000}, "at most 200 characters"),
        ({"attack.trigger": [["x" * 10_000, 1]] * 10_000}, "a list of pixels"),
        ({"attack.clients": ["x"] * 100_000}, "expected"),
        ({"attack.per_attacker": [{"scale": -1}] * 5000}, "settings are wrong"),
        ({"attack.magnitude": [[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]}, "16 deep"),
    ],
    ids=range(17),
)
def test_hostile_values_are_refused_in_a_short_sentence(changes, message):
    with pytest.raises(SettingsError, match=message) as caught:
        crfl.Experiment().override(changes)
    assert len(str(caught.value)) < 10_000
    assert "pydantic" not in str(caught.value)


def test_settings_that_contain_themselves():
    group: dict = {}
    group["server"] = group
    entries: list = []
    entries.append(entries)
    for settings in (group, {"attack": {"trigger": entries}}):
        with pytest.raises(SettingsError, match="16 deep"):
            crfl.Experiment.from_dict(settings)


class Hostile:
    """An object that fails whatever is asked of it."""

    def __getattr__(self, name):
        raise RuntimeError("no")

    def __repr__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


ODD = [
    *(None, True, -1, 0, 1, 3, 10**9, 10**30, 10**5000, -0.0, 1e-320, 0.3, 1e39, math.inf, -math.inf, math.nan, 2.0),
    *(
        "",
        "mean",
        "krum",
        "trimmed_mean",
        "replace",
        "inverse",
        "nan",
        "inf",
        "sign_flip",
        "x" * 5000,
        "\ud800",
        "a\0b",
    ),
    *([], [1], [1, 1], [0.1] * 10, [[1, 2]], [[1]], ["CT"], {}, {"start": 2}, {"start": 2, "end": 1}, {"": 1}, {1: 2}),
    *([{"scale": 3}], [{"trigger": [[0, 0]], "x": 1}], {1, 2}, b"1", 1j, Hostile(), np.float32(0.5), np.ones((2, 2))),
    *(Decimal("sNaN"), Fraction(1, 3), range(3), object, Path("~nobody-of-this-name"), (i for i in range(3))),
]


@pytest.mark.parametrize("seed", range(300))
def test_random_settings_end_in_an_experiment_or_a_settings_error(seed):
    draw = random.Random(seed)
    keys = [setting.key for setting in all_settings()] + [
        "",
        "attack",
        "server.clip",
        "x.y",
        "seed.x",
        "server.update_clip",
    ]
    changes = {draw.choice(keys): draw.choice(ODD) for _ in range(draw.choice([1, 2, 5]))}
    start, message = time.monotonic(), ""
    try:
        exp = crfl.Experiment().override(changes)
    except SettingsError as error:
        exp, message = crfl.Experiment(), str(error)
    assert time.monotonic() - start < 2
    assert max(len(message), len(repr(exp))) < 10_000
    assert crfl.Experiment.from_dict(yaml.safe_load(exp.to_yaml())) == exp
