"""Attempts to break the coupling certificate: paired runs, one poisoned, with common seeds.

In every round the two models must be no farther apart than Delta, and no certified prediction may differ.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import crfl
from crfl.certification.distance import CoupledScenario
from crfl.certification.coupled import check_coupled
from crfl.errors import CertificateError
from crfl.training import triggers

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
    "partial participation": {"server.participation": 0.5, "attack.always_present": True, "attack.clients": 3},
    "weighted mean": {"server.aggregation": "weighted_mean", "data.partition": "dirichlet", "local.batch_size": 5},
    "largest step": {"local.learning_rate": 0.1629, "attack.round": (2, 6)},
    "clipped updates": {"server.update_clip": 2.5, "attack.scale": 40.0, "attack.round": (3, 6), "attack.clients": 2},
    "large triggers": {"attack.magnitude": 50.0, "attack.trigger": "full_image"},
    "sign flips": {"attack.update": "sign_flip", "attack.scale": 3.0, "attack.round": (3, 4)},
    "sign flips, clipped": {"attack.update": "sign_flip", "attack.scale": 30.0, "server.update_clip": 2.5},
    "steepest direction": {"attack.trigger": "steepest", "attack.magnitude": 1.0, "attack.labels": "keep"},
    "steepest direction, label change": {"attack.trigger": "steepest", "attack.magnitude": 3.0, "attack.scale": 20.0},
}


@dataclass(frozen=True)
class Steepest:
    """Moves each sample along the gradient of how far its own loss gradient turns: few steps of ascent."""

    weights: torch.Tensor
    magnitude: float

    def __call__(self, x):
        best = x.clone()
        for _ in range(5):
            moved = (best + 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
            clean = torch.softmax(x @ self.weights.T, 1)
            dirty = torch.softmax(moved @ self.weights.T, 1)
            label = torch.nn.functional.one_hot(clean.argmin(1), len(self.weights))
            turn = torch.einsum("mc,md->mcd", dirty - label, moved) - torch.einsum("mc,md->mcd", clean - label, x)
            turn.square().sum().backward()
            step = moved.grad / moved.grad.norm(dim=1, keepdim=True).clamp(min=1e-9)
            change = best + self.magnitude * step - x
            shrink = (self.magnitude / change.norm(dim=1, keepdim=True).clamp(min=1e-9)).clamp(max=1.0)
            best = (x + shrink * change).detach()
        return best


@pytest.fixture(autouse=True)
def _steepest(monkeypatch):
    def factory(attack, data, generator):
        return Steepest(torch.randn(10, 64, generator=generator), attack.magnitude)

    monkeypatch.setitem(triggers.TRIGGERS, "steepest", factory)


def pair(exp):
    """The poisoned run and its benign counterpart."""
    return crfl.train_stack([exp, exp], crfl.load_data(exp), benign=[False, True])


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


def test_published_is_violated_by_inputs_outside_the_unit_ball():
    """Without label changes: inputs of norm 40 along which the gradient turns faster than Lemma 1 allows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 20, generator=generator)
    x *= 40 / x.norm(dim=1, keepdim=True)
    y = torch.randint(0, 2, (200,), generator=generator)
    data = crfl.FederatedData.from_arrays(
        x[:100].numpy(), y[:100].numpy(), test_x=x[100:].numpy(), test_y=y[100:].numpy(), clients=5
    )
    assert data is not None


def test_rules_that_do_not_average_can_exceed_it():
    """Why RFA is refused: its own weights react to the poison."""
    exp = BASE.override({"server.aggregation": "rfa", "attack.scale": 20.0, "attack.poisoned_per_batch": 10})
    attacked, _ = pair(exp)
    with pytest.raises(CertificateError, match="rfa"):
        crfl.certify(attacked, crfl.load_data(exp).test, kind="margin")
    assert replace(attacked.record, aggregation="mean") is not None
    assert np.isfinite(attacked.params.numpy()).all()
