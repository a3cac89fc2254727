"""A user's own functions are told apart by what they do, whatever they are called."""

import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import crfl
from crfl import aggregation
from crfl.attack import malicious, triggers
from crfl.fingerprint import digest, exact_digest
from crfl.runs.own import own_functions, register


def stamp(value, size=2):
    def factory(attack, data, generator):
        def trigger(x):
            x[:, :size] = value
            return x

        return trigger

    return factory


class Rule:
    def __init__(self, share):
        self.share = share

    def __call__(self, updates, sizes, server):
        return aggregation.mean(updates, sizes)


class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.factor = nn.Linear(64, 10), factor

    def forward(self, x):
        return self.factor * self.linear(x)


def uses_modules():
    import math

    def trigger(x):
        return x * math.pi

    return trigger


class OtherRule(Rule):
    def __call__(self, updates, sizes, server):
        return aggregation.median(updates, sizes)


class Slots:
    __slots__ = ("value",)

    def __init__(self, value):
        self.value = value


FACTOR = 1


def uses_a_global(x):
    return (lambda: FACTOR * x)()


class UsesAGlobal(Rule):
    def __call__(self, updates, sizes, server):
        return uses_a_global(updates)


def twice(x):
    return 2 * x


def thrice(x):
    return 3 * x


def networks():
    torch.manual_seed(0)
    one = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    other_activation = nn.Sequential(one[0], nn.Tanh(), one[2])
    other_weights = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), one[2])
    return one, other_activation, other_weights


DIFFERENT = [
    lambda: (twice, thrice),
    lambda: (stamp(0.5), stamp(0.6), stamp(torch.ones(2)), stamp(torch.zeros(2)), stamp(0.5, size=3)),
    lambda: (triggers.edge_cases(np.zeros((3, 64))), triggers.edge_cases(np.ones((3, 64)))),
    lambda: (functools.partial(stamp, 1), functools.partial(stamp, 2), functools.partial(stamp, value=1)),
    lambda: (Rule(0.1), Rule(0.2), OtherRule(0.1), Rule(0.1).__call__, Rule({"a": [1, (2.0,)]}), Rule({"a": [1, {2}]})),
    networks,
    lambda: (Scaled(1.0), Scaled(0.5), Scaled(1.0).bfloat16()),
    lambda: (["a", ["b"]], ["a", [], "b"], ("a", ["b"]), "ab"),
    lambda: tuple([a, b, c] for a, b, c in [([1], [2], [1])] for c in (a, b)),
    lambda: (Slots(1), Slots(2), np.random.default_rng(0), np.random.default_rng(1)),
    lambda: (uses_modules(), np.array(["2020-01-01"], dtype="M8[D]"), np.array([1, "a"], dtype=object)),
    lambda: tuple(eval(text) for text in ("lambda x: x in {'a', 'b', 'c'}", "lambda x: x in {'a', 'b', 'd'}")),
    lambda: tuple(eval(text) for text in ("lambda x: x + 1", "lambda x: x + 2", "lambda x: (lambda y: y + 1)(x)")),
]


@pytest.mark.parametrize("make", DIFFERENT)
def test_what_differs_has_another_digest_and_what_does_not_the_same(make):
    digests = [digest(value) for value in make()]
    assert len(set(digests)) == len(digests)
    assert digests == [digest(value) for value in make()]


def test_another_process_finds_the_same_digest():
    code = "import tests.test_fingerprint as t; print([t.digest(v) for make in t.DIFFERENT for v in make()])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str([digest(value) for make in DIFFERENT for value in make()])


@pytest.mark.parametrize("function", [uses_a_global, UsesAGlobal(0.1)])
def test_globals_count(function, monkeypatch):
    before = digest(function)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 2)
    assert digest(function) != before


def test_what_cannot_be_seen():
    assert all(exact_digest(value) == digest(value) for make in DIFFERENT for value in make())
    for value in ([1, torch.jit.script(nn.ReLU())], nn.Sequential(torch.jit.script(nn.ReLU())), (x for x in (1, 2))):
        assert exact_digest(value) is None


def test_what_prints_its_place_in_memory():
    def uses(thing):
        return lambda x: thing

    for make in (
        object,
        lambda: np.random.default_rng(0),
        torch.Generator,
        lambda: len,
        lambda: np.sin,
        lambda: slice(3),
    ):
        assert digest(uses(make())) == digest(uses(make()))


def test_what_is_shared_and_what_is_missing():
    def empty(fill):
        def inner():
            return unset

        if fill:
            unset = 1
        return inner

    assert digest(empty(False)) == digest(empty(False)) != digest(empty(True))
    shared = Rule(0.1)
    for _ in range(40):
        above = Rule(0.1)
        above.one = above.two = shared
        shared = above
    assert digest(shared)


def test_what_encloses_itself():
    rule = Rule(0.1)
    rule.me = rule
    assert digest(rule) != digest(Rule(0.1))


def test_those_of_the_settings_are_found(monkeypatch):
    """Also those that one attacker alone uses; crfl's own only under another name, which may come to mean another."""
    monkeypatch.setitem(triggers.TRIGGERS, "mine", stamp(0.5))
    monkeypatch.setitem(triggers.TRIGGERS, "edge", triggers.edge_cases(np.ones((3, 64))))
    monkeypatch.setitem(triggers.TRIGGERS, "unused", stamp(0.5))
    monkeypatch.setitem(malicious.MALICIOUS, "mine", twice)
    monkeypatch.setitem(aggregation.AGGREGATORS, "mean too", aggregation.Rule(aggregation.mean))
    exp = crfl.Experiment().override(
        {
            "attack.clients": 2,
            "attack.trigger": "full_image",
            "attack.per_attacker": [{"trigger": "mine"}, {"trigger": "edge", "update": "mine"}],
            "server.aggregation": "mean too",
        }
    )
    found = own_functions(exp)
    assert sorted(found) == [
        ("attack.trigger", "edge"),
        ("attack.trigger", "mine"),
        ("attack.update", "mine"),
        ("server.aggregation", "mean too"),
    ]
    first = digest(found["server.aggregation", "mean too"])
    assert first != digest(aggregation.Rule(aggregation.median))
    assert first != digest(aggregation.Rule(aggregation.mean, data_independent=True))
    monkeypatch.delitem(malicious.MALICIOUS, "mine")
    assert ("attack.update", "mine") not in own_functions(exp)
    register(found)
    assert malicious.MALICIOUS["mine"] is twice
    assert not own_functions(crfl.Experiment())
