"""Settings: every problem is named, and nothing wrong gets in."""

import copy
import dataclasses
import inspect
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
from hypothesis import given
from hypothesis import strategies as st

import crfl
from crfl.config.reference import all_settings, settings_page
from crfl.errors import SettingsError

CONFIGS = Path(__file__).parents[1] / "configs"


def problems(settings):
    with pytest.raises(SettingsError) as caught:
        crfl.Experiment.from_dict(settings)
    return caught.value.problems


def test_defaults_are_the_digits_config():
    assert crfl.Experiment.from_yaml(CONFIGS / "digits.yaml") == crfl.Experiment()


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_round_trip(path, tmp_path):
    exp = crfl.Experiment.from_yaml(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(exp.to_yaml())
    assert crfl.Experiment.from_yaml(copy) == exp


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
    exp = crfl.Experiment()
    for group in (exp, exp.server.clip):
        with pytest.raises(SettingsError, match="start: settings are frozen; use override"):
            group.start = 1  # type: ignore[misc]
        with pytest.raises(SettingsError, match="frozen"):
            del group.start


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


@given(st.integers(1, 10**6), st.floats(1e-320, 1e30), st.floats(1e-320, 3e38), st.floats(0, 1))
def test_update_clip_falls_from_start_to_end(round_, decay_rounds, start, share):
    settings = {"start": start, "end": max(start * share, 1e-323), "decay_rounds": decay_rounds}
    clip = crfl.Experiment().override({"server.update_clip": settings}).server.update_clip
    factor = clip.factor(round_)
    assert clip.end <= factor <= clip.start * (1 + 1e-15)
    assert clip.factor(round_ + 1) <= factor


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
    ("text", "message"),
    [
        ("a: &a [1, 1]\nb: &b [*a, *a]\nc: [*b, *b]", "repeats another value"),
        ("attack: &a {per_attacker: [*a]}", "repeats another value"),
        ("seed: " + "1" * 3_000_000, "longer than 1,048,576 characters"),
        ("seed: " + "1" * 5000, "more than 100 digits"),
        ("seed: " + "1:" * 5000 + "1", "more than 100 digits"),
        ("{" + "".join(f"k{i}: 1, " for i in range(2000)) + "}", "more than 1000 keys"),
        ("seed: !!bool maybe", "does not fit its tag"),
        ("seed: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("seed: " + "[" * 100_000, "nested too deeply"),
        ("seed: 2020-13-45", "seed: got '2020-13-45', expected a whole number"),
        ("seed: " + "[" * 100 + "]" * 100, "16 deep"),
        ("seed: \udcff", "codec"),
        ("{" + "x" * 1000 + ": 1}", r"xxx\.\.\.: unknown setting"),
        ("[" + "x, " * 20_000 + "]", "groups of settings"),
    ],
    ids=range(14),
)
def test_hostile_files_are_refused_in_a_short_sentence(tmp_path, text, message):
    path = tmp_path / "hostile.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=message) as caught:
        crfl.Experiment.from_yaml(path)
    assert len(str(caught.value)) < 1000


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


def test_settings_show_what_differs_from_the_defaults_and_how_to_make_them():
    exp = crfl.Experiment().override({"server.clip.cap": 7, "attack.round": [2, 3]})
    assert repr(exp) == "Experiment(server=Server(clip=Clip(cap=7.0)), attack=Attack(round=(2, 3)))"
    assert eval(repr(exp), vars(crfl.config)) == exp
    signature = inspect.signature(crfl.Experiment)
    assert list(signature.parameters) == [f.name for f in dataclasses.fields(crfl.Experiment)]
    assert "pydantic" not in str(signature)
    names = [name for name in dir(exp) if not name.startswith("_")]
    own = ["from_dict", "from_yaml", "named", "override", "to_dict", "to_yaml"]
    assert names == sorted([*signature.parameters, *own])


def test_a_group_made_alone_is_validated_too():
    with pytest.raises(SettingsError, match=r"^batch_size: got 0, expected a whole number from 1 to"):
        crfl.config.Local(batch_size=0)
    with pytest.raises(SettingsError, match="start: missing, expected a number above 0"):
        crfl.config.UpdateClip(end=1)
    with pytest.raises(SettingsError, match="got 'mnist' without a name"):
        crfl.Experiment("mnist")
    changed = dataclasses.replace(crfl.Experiment(), seed=3)
    assert changed == crfl.Experiment(seed=3)
    assert len({changed, crfl.Experiment(seed=3), crfl.Experiment()}) == 2
    assert pickle.loads(pickle.dumps(changed)) == copy.deepcopy(changed) == changed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"server.aggregation": "meen"}, "server.aggregation: got 'meen', expected mean, weighted_mean"),
        ({"attack.update": "flip"}, "attack.update: got 'flip', expected sign_flip"),
        ({"attack.per_attacker": [{"update": "flip"}]}, "attack.per_attacker.0.update: got 'flip'"),
        (
            {"local.schedule": "inverse"},
            "local.schedule: got 'inverse', expected 'constant' unless local.weight_decay or",
        ),
        (
            {"local.weight_decay": 0.1, "server.decay": 0.1},
            "server.decay: got 0.1, expected 0 where local.weight_decay",
        ),
        ({"server.update_clip": {"start": 1, "end": 2}}, "server.update_clip.start: got 1, expected at least"),
        (
            {"server.aggregation": "krum", "server.num_byzantine": 0, "server.participation": 0.2},
            "server.aggregation: got krum, which needs 3 clients a round, expected a rule for 2",
        ),
        ({"features.whiten": 50}, "features.whiten: got 50, expected null, or fewer than features.public = 0"),
        ({"features.whiten": 50, "features.public": 50}, "features.whiten: got 50"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(SettingsError) as caught:
        crfl.Experiment().override(changes)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "changes",
    [
        {"local.schedule": "inverse", "local.weight_decay": 0.1},
        {"local.schedule": "inverse", "server.decay": 0.1},
        {"server.update_clip": {"start": 2, "end": 2}},
        {"server.update_clip.start": 2, "server.update_clip.end": 1},
        {"features.whiten": 49, "features.public": 50},
        {"attack.per_attacker": [{"update": "nan"}], "attack.update": "sign_flip", "server.aggregation": "rfa"},
    ],
)
def test_settings_that_go_together(changes):
    assert crfl.Experiment().override(changes) != crfl.Experiment()


def test_own_rules_and_updates_are_known_once_they_are_added(monkeypatch):
    from crfl.aggregation import AGGREGATORS, Rule, mean
    from crfl.attack.malicious import MALICIOUS

    monkeypatch.setitem(AGGREGATORS, "my rule", Rule(mean, min_clients=lambda server: 3))
    monkeypatch.setitem(MALICIOUS, "my update", lambda update, model, generator: update)
    exp = crfl.Experiment().override({"server.aggregation": "my rule", "attack.update": "my update"})
    assert exp.server.aggregation == "my rule"


def test_settings_that_ship_with_crfl_have_names():
    assert crfl.Experiment.named("digits") == crfl.Experiment()
    assert crfl.Experiment.named("mnist") == crfl.Experiment.from_yaml(CONFIGS / "mnist.yaml")
    for name in ("mnits", "../configs/mnist", "/etc/passwd", ""):
        with pytest.raises(SettingsError, match=r"name: got .*, expected .*digits, .*mnist"):
            crfl.Experiment.named(name)


def test_every_setting_has_its_kind_default_and_meaning():
    settings = {setting.key: setting for setting in all_settings()}
    nested = crfl.Experiment().to_dict()

    def leaves(values, prefix=""):
        for key, value in values.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    for key, value in leaves(nested):
        assert yaml.safe_load(settings[key].default) == value
    assert settings["server.rounds"].kind == "a whole number from 1 to 10^6"
    assert settings["attack.scale"].meaning.startswith("gamma: factor on the attackers' updates")
    assert {"server.update_clip.decay_rounds", "attack.per_attacker.N.scale"} <= settings.keys()
    assert all(setting.meaning for setting in settings.values())


def test_the_page_of_settings_is_up_to_date():
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == settings_page(), "crfl settings --markdown > docs/settings.md"
