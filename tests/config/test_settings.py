"""Settings are frozen values: what they mean, and how a changed copy is made."""

import copy
import dataclasses
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crfl
from crfl.errors import SettingsError


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
