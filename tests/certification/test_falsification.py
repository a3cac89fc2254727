"""Attempts to break the coupling certificate: paired runs, one poisoned, with common seeds.

In every round the two models must be no farther apart than Delta, and no certified prediction may differ.
"""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import crfl
from benchmarks import falsify
from benchmarks.adversary import poison
from crfl.attack import triggers
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_coupled
from crfl.errors import CertificateError

BASE = crfl.Experiment().override({"server.rounds": 8, "attack.round": 3, "attack.magnitude": 0.3})
SETTINGS = {
    "plain": {},
    "no label change": {"attack.labels": "keep", "attack.magnitude": 2.0},
    "labels only": {"attack.magnitude": 0.0, "attack.poisoned_per_batch": 20},
    "three strong attackers": {"attack.clients": 3, "attack.scale": 30.0, "attack.poisoned_per_batch": 8},
    "all clients": {"attack.clients": 10, "attack.scale": 1.0, "attack.poisoned_per_batch": 20},
    "a clip that bites": {"server.clip.start": 0.4, "server.clip.slope": 0.0},
    "a clip that bites now and then": {"server.clip.start": 1.6, "server.clip.slope": 0.05},
    "no clip, much noise": {"server.clip.start": float("inf"), "server.noise": 0.2},
    "first round": {"attack.round": 1},
    "last round": {"attack.round": 8},
    "several rounds": {"attack.round": (2, 4, 5, 8), "attack.scale": 8.0},
    "every round": {"attack.round": 1, "attack.every": 1, "attack.clients": 2},
    "weight decay": {"local.weight_decay": 0.3},
    "weight decay, several rounds": {"local.weight_decay": 0.5, "attack.round": (1, 5), "attack.scale": 20.0},
    "two epochs, last batch kept": {"local.epochs": 2, "local.keep_last_batch": True, "local.batch_size": 37},
    "partial participation": {"server.participation": 0.5, "attack.force_participation": True, "attack.clients": 3},
    "weighted mean": {"server.aggregation": "weighted_mean", "data.partition": "dirichlet", "local.batch_size": 5},
    "largest step": {"local.learning_rate": 0.1629, "attack.round": (2, 6)},
    "clipped updates": {"server.update_clip": 2.5, "attack.scale": 40.0, "attack.round": (3, 6), "attack.clients": 2},
    "large triggers": {"attack.magnitude": 50.0, "attack.trigger": "full_image"},
    "sign flips": {"attack.update": "sign_flip", "attack.scale": 3.0, "attack.round": (3, 4)},
    "sign flips, clipped": {"attack.update": "sign_flip", "attack.scale": 30.0, "server.update_clip": 2.5},
    "a tight update clip": {"server.update_clip": 0.4, "attack.scale": 10.0, "attack.round": (3, 6)},
    "server decay, inverse schedule": {"server.decay": 0.2, "local.schedule": "inverse", "attack.round": 4},
    "weight decay, inverse schedule": {"local.weight_decay": 0.2, "local.schedule": "inverse", "model.bias": False},
    "float32": {"local.precision": "float32", "attack.round": (2, 5)},
    "steepest direction": {"attack.trigger": "steepest", "attack.magnitude": 1.0, "attack.labels": "keep"},
    "steepest direction, label change": {"attack.trigger": "steepest", "attack.magnitude": 3.0, "attack.scale": 20.0},
}


@pytest.fixture(autouse=True)
def _names():
    with poison.registered():
        yield


def pair(exp):
    """The poisoned run and its benign counterpart."""
    return crfl.train_many([exp, exp], crfl.load_data(exp), benign=[False, True])


def same_prediction(run, other, x):
    a, b = (r.model.logits(r.params.double(), x.double()).argmax(dim=1) for r in (run, other))
    return (a == b).numpy()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", SETTINGS)
def test_never_farther_apart_than_claimed(name, seed):
    exp = BASE.override({**SETTINGS[name], "seed": seed})
    attacked, benign = pair(exp)
    actual = benign.history["distance"].to_numpy()
    magnitude = max(a.magnitude for r in attacked.record.attack_rounds for a in r.attackers)
    test = crfl.load_data(exp).test
    for run in (attacked, benign):  # the certificate is symmetric
        if run is benign and exp.attack.update and not exp.server.update_clip:
            with pytest.raises(CertificateError, match="unknown norm"):
                check_coupled(run.record)
            continue
        check_coupled(run.record)
        claimed = CoupledScenario(run.record, before_clip=False).distances(magnitude)[:, 1]
        assert (actual <= claimed).all()
        cert = crfl.certify(run, test, kind="margin")
        certified = ~cert.abstained & (cert.radius >= magnitude)
        assert same_prediction(attacked, benign, test.x)[certified].all()
    assert actual[-1] > 0


@pytest.mark.parametrize("family", falsify.FAMILIES)
def test_a_short_random_search(family):
    """An attempt of each family of benchmarks/falsify.py, which goes on for as long as one likes."""
    search, number, outcome = falsify.Search(), 0, None
    while outcome is None:
        outcome = search.attempt(family, (3, number))
        number += 1
    assert outcome.violations == 0
    assert search.table().pairs[family] == 1


def test_the_bound_is_not_idle():
    """Labels changed on all samples of all clients: the models end up most of the way to the bound."""
    exp = BASE.override(
        {"attack.magnitude": 0.0, "attack.poisoned_per_batch": 20, "attack.clients": 10, "attack.round": 1}
    )
    exp = exp.override({"server.rounds": 1, "attack.scale": 1.0, "local.batch_size": 140})
    attacked, benign = pair(exp)
    ratio = benign.history["distance"].iloc[-1] / CoupledScenario(attacked.record, before_clip=False).cost(0.0)
    assert 0.3 < ratio <= 1


def test_unknown_round_covers_every_round():
    """The record of one run bounds what an attack in any single round would have done to it."""
    for t in range(1, 9):
        exp = BASE.override({"attack.round": t, "server.clip.start": 1.4, "server.clip.slope": 0.02})
        attacked, benign = pair(exp)
        for run in (attacked, benign):
            claimed = CoupledScenario(run.record, before_clip=False, any_round=True).cost(0.3)
            assert benign.history["distance"].iloc[-1] <= claimed


def test_published_is_violated_where_the_coupled_certificate_is_not():
    """Label changes, scaled 200 times: predictions with a published radius above the magnitude turn over."""
    exp = BASE.override({"attack.magnitude": 1e-4, "attack.scale": 200.0, "attack.poisoned_per_batch": 20})
    attacked, benign = pair(exp)
    test = crfl.load_data(exp).test
    same = same_prediction(attacked, benign, test.x)
    published = crfl.certify(attacked, test, kind="published", bounds="exact")
    assert (~published.abstained & (published.radius >= 1e-4) & ~same).sum() > 10
    assert any("labels" in text for text in published.warnings)
    margin = crfl.certify(attacked, test, kind="margin")
    assert same[~margin.abstained & (margin.radius >= 1e-4)].all()


def far_from_the_origin():
    """One feature tells two classes apart, the other is 30 for every sample; the attacker owns close calls."""
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    first = [rng.normal(size=40) * 0.05, *(np.where(y == 1, 3.0, -3.0) + rng.normal(size=(4, 40)) * 0.3)]
    shards = [np.stack([a, np.full(40, 30.0)], axis=1).astype(np.float32) for a in first]
    grid = np.linspace(-1, 1, 2001)
    test = np.stack([grid, np.full(2001, 30.0)], axis=1).astype(np.float32)
    return crfl.FederatedData.from_arrays(shards, [y] * 5, test, (grid > 0).astype(int))


def test_published_is_violated_by_inputs_outside_the_unit_ball(monkeypatch):
    """Labels kept: at norm 30 the gradient turns faster with the input than Lemma 1 allows."""

    @dataclass(frozen=True)
    class Shift:
        magnitude: float = 0.05

        def __call__(self, x):
            return x - torch.tensor([self.magnitude, 0.0])

    monkeypatch.setitem(triggers.TRIGGERS, "shift", lambda attack, data, generator: Shift())
    settings = {
        "data": {"name": "custom", "clients": 5},
        "local": {"batch_size": 40, "learning_rate": 0.004},
        "server": {"rounds": 300, "clip": {"start": 1.0, "slope": 0.0}, "noise": 0.001},
        "attack": {"round": 300, "scale": 20.0, "labels": "keep", "poisoned_per_batch": 40, "trigger": "shift"},
    }
    exp, data = crfl.Experiment(**settings), far_from_the_origin()
    attacked, benign = crfl.train_many([exp, exp], data, benign=[False, True])
    same = same_prediction(attacked, benign, data.test.x)
    published = crfl.certify(attacked, data.test, kind="published", bounds="exact")
    assert (~published.abstained & (published.radius >= 0.05) & ~same).sum() > 10
    assert any("norm 30" in text for text in published.warnings)
    margin = crfl.certify(attacked, data.test, kind="margin")
    certified = ~margin.abstained & (margin.radius >= 0.05)
    assert certified.mean() > 0.3
    assert same[certified].all()


def test_rules_that_do_not_average_are_refused():
    exp = BASE.override({"server.aggregation": "rfa", "attack.scale": 20.0, "attack.poisoned_per_batch": 10})
    attacked, _ = pair(exp)
    with pytest.raises(CertificateError, match="rfa"):
        crfl.certify(attacked, crfl.load_data(exp).test, kind="margin")
