"""Backdoor patterns, and what they do to samples."""

import math
from dataclasses import replace

import pytest
import torch

import crfl
from crfl.attack.plan import AttackPlan
from crfl.attack.triggers import TRIGGERS, Pattern, edge_cases, make_trigger
from crfl.errors import DataError
from tests.federations import SIDE, images, small_settings

PIXELS = SIDE * SIDE
PLACES = [[1, 1], [2, 2], [3, 3], [4, 4], [5, 5]]
SIZES = [9, 20, 31, 16, 12]
BASE = small_settings(
    SIZES,
    {
        "server.rounds": 4,
        "attack.round": 3,
        "attack.trigger": [[0, 0], [5, 5]],
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def test_a_pattern_spreads_its_magnitude_evenly(data):
    trigger = make_trigger(BASE.override({"attack.magnitude": 0.5}).attack, data, 0)
    changed = trigger(torch.zeros(2, PIXELS))
    assert changed[0].nonzero().flatten().tolist() == [0, 35]
    assert changed[:, [0, 35]].flatten().tolist() == pytest.approx([0.5 / math.sqrt(2)] * 4)
    assert trigger(torch.ones(2, PIXELS)).max() == 1  # clamped to the domain
    nothing = make_trigger(BASE.override({"attack.trigger": []}).attack, data, 0)
    assert torch.equal(nothing(data.test.x), data.test.x)


def test_poison_is_the_first_samples_of_a_batch(data):
    exp = BASE.override({"attack.poisoned_per_batch": 3, "attack.target": 2, "attack.magnitude": 0.5})
    rows = data.shards[0][:5]
    for labels, flipped in (("target", True), ("keep", False)):
        attacker = AttackPlan(exp.override({"attack.labels": labels}), data).all_attackers[0]
        x, y = data.features(rows), torch.tensor([0, 1, 0, 1, 0])
        attacker.poison(data, rows, x, y)
        assert torch.equal(x[3:], data.features(rows)[3:])
        assert torch.equal(x[:3], attacker.trigger(data.features(rows)[:3]))
        assert y.tolist() == ([2, 2, 2, 1, 0] if flipped else [0, 1, 0, 1, 0])
        short = data.features(rows[:2])
        attacker.poison(data, rows[:2], short, torch.zeros(2).long())
        assert torch.equal(short, attacker.trigger(data.features(rows[:2])))


def test_a_distributed_backdoor_shows_whole_on_the_test_set(data):
    exp = BASE.override({"attack.clients": 2, "attack.distributed": True, "attack.trigger": PLACES})
    parts = [make_trigger(a, data, 0) for a in exp.attack.individuals]
    whole = make_trigger(exp.attack, data, 0)
    x = torch.zeros(3, PIXELS)
    torch.testing.assert_close(parts[0](x) + parts[1](x), whole(x))
    assert [int((p(x)[0] > 0).sum()) for p in parts] == [3, 2]
    magnitudes = [a.magnitude for a in AttackPlan(exp, data).all_attackers]
    assert magnitudes == pytest.approx([float(p(x)[0].norm()) for p in parts])
    assert math.hypot(*magnitudes) == pytest.approx(0.1)
    assert torch.equal(crfl.backdoored(exp, data).x, whole(data.test.x))
    assert torch.equal(crfl.backdoored(exp, data).y, data.test.y)


def test_a_full_image_trigger_has_its_norm_and_comes_from_the_seed(data):
    exp = BASE.override({"attack.trigger": "full_image", "attack.magnitude": 0.5})
    free = replace(data, domain=None)
    change = make_trigger(exp.attack, free, 0)(data.test.x) - data.test.x
    torch.testing.assert_close(change.norm(dim=1), torch.full((len(change),), 0.5), rtol=1e-4, atol=0)
    torch.testing.assert_close(change[0], change[1], rtol=0, atol=1e-6)
    other = make_trigger(exp.attack, free, 1)(data.test.x) - data.test.x
    assert not torch.allclose(change, other, atol=1e-3)
    clamped = make_trigger(exp.attack, data, 0)(data.test.x)
    assert clamped.min() >= 0
    assert clamped.max() <= 1
    assert (clamped - data.test.x).norm(dim=1).max() <= 0.5


def test_edge_cases_replace_samples_by_the_nearest(data, monkeypatch):
    rare = torch.rand(5, PIXELS, generator=torch.Generator().manual_seed(1))
    monkeypatch.setitem(TRIGGERS, "rare", edge_cases(rare))
    exp = BASE.override({"attack.trigger": "rare"})
    changed = make_trigger(exp.attack, data, 0)(data.test.x)
    for x, found in zip(data.test.x, changed, strict=True):
        assert torch.equal(found, min(rare, key=lambda r: float((r - x).norm())))
    bound = AttackPlan(exp, data).all_attackers[0].magnitude
    assert (changed - data.test.x).norm(dim=1).max() <= bound <= rare.norm(dim=1).max() + data.max_feature_norm
    monkeypatch.setitem(TRIGGERS, "rare", edge_cases(rare[:, :9].numpy()))
    with pytest.raises(DataError, match=r"edge cases: got shape \(5, 9\), expected \(any, 36\)"):
        make_trigger(exp.attack, data, 0)


def test_ones_own_trigger(data, monkeypatch):
    """Clamped to the domain; its magnitude is measured on the attacker's samples; the test set itself stays."""
    monkeypatch.setitem(TRIGGERS, "brighter", lambda attack, data, g: lambda x: x.mul_(1.5))  # in place
    exp = BASE.override({"attack.trigger": "brighter", "attack.clients": [4]})
    before = data.test.x.clone()
    run = crfl.train(exp, data)
    assert torch.equal(data.test.x, before)
    x = data.clients[4].x
    expected = float(((1.5 * x).clamp(max=1) - x).norm(dim=1).max())
    assert run.record.attack_rounds[0].attackers[0].magnitude == pytest.approx(expected, rel=1e-6)
    backdoored = crfl.backdoored(exp, data).x
    assert torch.equal(backdoored, (1.5 * before).clamp(max=1))
    hit = run.predict(backdoored) == 0
    assert run.columns["attack_success_rate"][-1] == pytest.approx(hit[data.test.y.numpy() != 0].mean())


@pytest.mark.parametrize("wrong", [lambda x: x[:, :3], lambda x: x / 0, lambda x: None, lambda x: x * 1j])
def test_a_broken_trigger_is_named(data, monkeypatch, wrong):
    monkeypatch.setitem(TRIGGERS, "broken", lambda attack, data, generator: wrong)
    with pytest.raises(DataError, match=r"attack.trigger: 'broken' made .*expected a tensor of the same shape"):
        crfl.train(BASE.override({"attack.trigger": "broken"}), data)


@pytest.mark.parametrize("magnitude", [math.nan, math.inf, -1.0, "large"])
def test_a_stated_magnitude_must_be_one(data, monkeypatch, magnitude):
    monkeypatch.setitem(TRIGGERS, "mine", lambda attack, data, g: Pattern(torch.zeros(PIXELS), magnitude))
    with pytest.raises(DataError, match=r"attack.trigger: 'mine' states magnitude .* expected a finite number"):
        crfl.train(BASE.override({"attack.trigger": "mine"}), data)


def test_feature_triggers_by_name():
    x, y = torch.rand(12, 8), torch.arange(12) % 2
    names = [f"f{i}" for i in range(8)]
    data = crfl.FederatedData.from_arrays([x], [y], x, y, feature_names=names)
    changed = make_trigger(BASE.override({"attack.trigger": ["f3", "f6"]}).attack, data, 0)(torch.zeros(1, 8))[0]
    assert changed.nonzero().flatten().tolist() == [3, 6]
    assert changed.norm() == pytest.approx(0.1)
