"""Who takes part in a round, and who attacks in it."""

import pytest
import torch

import crfl
from crfl.attack.plan import AttackPlan, apply_attack
from crfl.errors import DataError, SettingsError
from tests.federations import images, small_settings

SIZES = [9, 20, 31, 16, 12, 10, 25, 8, 11, 13]
BASE = small_settings(
    SIZES,
    {
        "server.rounds": 6,
        "attack.round": 3,
        "attack.trigger": [[0, 0]],
    },
)


@pytest.fixture(scope="module")
def data():
    return images(SIZES)


def participants(exp, data, rounds=range(1, 7)):
    plan = AttackPlan(exp, data)
    return [plan.round(t).participants.tolist() for t in rounds]


def test_participation_is_drawn_anew_and_knows_no_attack(data):
    exp = BASE.override({"server.participation": 0.4, "attack.clients": 3})
    draws = participants(exp, data)
    assert all(len(set(draw)) == 4 and draw == sorted(draw) for draw in draws)
    assert len(set(map(tuple, draws))) == 6
    assert participants(exp.override({"attack.round": None}), data) == draws
    forced = participants(exp.override({"attack.force_participation": True}), data)
    assert {0, 1, 2} < set(forced[2])
    assert len(forced[2]) == 4
    assert forced[:2] + forced[3:] == draws[:2] + draws[3:]
    everybody = participants(BASE, data)
    assert everybody == [list(range(10))] * 6


def test_every_client_takes_part_equally_often(data):
    exp = BASE.override({"server.participation": 0.3, "server.rounds": 600, "attack.round": None})
    counts = torch.bincount(torch.tensor(participants(exp, data, range(1, 601))).flatten(), minlength=10)
    assert counts.sum() == 1800
    assert (counts - 180).abs().max() < 5 * (600 * 0.3 * 0.7) ** 0.5


def test_more_forced_attackers_than_places_all_take_part(data):
    exp = BASE.override({"server.participation": 0.2, "attack.clients": 5, "attack.force_participation": True})
    assert participants(exp, data)[2] == [0, 1, 2, 3, 4]


def test_one_client_at_least_takes_part(data):
    assert [len(draw) for draw in participants(BASE.override({"server.participation": 0.01}), data)] == [1] * 6


def test_absent_attackers_do_not_attack_but_are_listed(data):
    exp = BASE.override({"server.participation": 0.3, "attack.round": 1, "attack.every": 1, "attack.clients": [0, 5]})
    plan = AttackPlan(exp, data)
    for t in range(1, 7):
        present = set(plan.round(t).participants.tolist())
        assert set(plan.round(t).attackers) == present & {0, 5}
        assert [a.client for a in plan.attackers(t)] == [0, 5]
    assert AttackPlan(BASE, data).attackers(2) == ()
    assert not AttackPlan(BASE, data).round(2).attackers


@pytest.mark.parametrize(
    ("changes", "clients"),
    [
        ({"attack.clients": 3}, [0, 1, 2]),
        ({"attack.clients": [7, 2]}, [7, 2]),
        ({"attack.clients": ["client 8", 4]}, [8, 4]),
        ({"attack.clients": 0}, []),
        ({"attack.round": None}, []),
    ],
)
def test_the_attackers(data, changes, clients):
    assert [a.client for a in AttackPlan(BASE.override(changes), data).all_attackers] == clients


def test_random_attackers_come_from_the_seed(data):
    exp = BASE.override({"attack.clients": 3, "attack.random_clients": True})
    drawn = [
        tuple(a.client for a in AttackPlan(exp.override({"seed": seed}), data).all_attackers)
        for seed in (0, 0, 1, 2, 3, 4)
    ]
    assert drawn[0] == drawn[1]
    assert all(len(set(attackers)) == 3 for attackers in drawn)
    assert len(set(drawn)) > 3


def test_model_replacement_scales_by_those_who_are_there(data):
    exp = BASE.override({"attack.scale": "replace", "attack.clients": 4})
    assert {a.scale for a in AttackPlan(exp, data).round(3).attackers.values()} == {10 / 4}
    partly = exp.override({"server.participation": 0.5, "attack.round": 1, "attack.every": 1})
    plan = AttackPlan(partly, data)
    for t in range(1, 7):
        here = plan.round(t).attackers
        assert all(a.scale == 5 / len(here) for a in here.values())
        assert all(a.scale == 5.0 for a in plan.attackers(t) if a.client not in here)  # alone


def test_full_replacement_makes_the_mean_the_attackers_model(data):
    exp = BASE.override({"attack.scale": "replace", "attack.round": 1, "attack.clients": 1})
    attacker = crfl.train(exp, data).record.rounds[0].attackers[0]
    assert attacker.scale == 10
    assert attacker.weight * attacker.scale == pytest.approx(1)


def test_only_attackers_change_their_updates(data):
    exp = BASE.override(
        {"attack.clients": [4, 1], "attack.per_attacker": [{"scale": 3.0}, {"scale": 2.0, "update": "sign_flip"}]}
    )
    updates = torch.arange(12.0, dtype=torch.float64).view(4, 3) + 1
    before, clients = updates.clone(), torch.tensor([0, 1, 4, 7]).numpy()
    for benign, flipped in ((False, -2.0), (True, 0.0)):
        plan = AttackPlan(exp, data, benign).round(3)
        submitted, invalid = apply_attack(plan, clients, updates, torch.zeros(3).double(), 0, 3)
        factors = torch.tensor([1.0, flipped, 3.0, 1.0], dtype=torch.float64)[:, None]
        assert torch.equal(submitted, before * factors)
        assert torch.equal(updates, before)
        assert invalid == []
        assert plan.poisoners == {} if benign else set(plan.poisoners) == {1, 4}
    silent = exp.override({"attack.poisoned_per_batch": 0})
    assert AttackPlan(silent, data).round(3).poisoners == {}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"attack.clients": ["nobody"]}, DataError, r"attack.clients: got 'nobody', expected .*client 3"),
        ({"attack.clients": [3, "client 3"]}, DataError, "different clients"),
        ({"attack.per_attacker": [{"target": 3}]}, DataError, r"attack.per_attacker.0.target: got 3, expected 0 to 2"),
        ({"attack.target": 3}, DataError, r"attack.target: got 3, expected 0 to 2"),
        ({"attack.trigger": "nosuch"}, SettingsError, r"attack.trigger: got 'nosuch'.*full_image"),
        ({"attack.per_attacker": [{"trigger": [[6, 0]]}]}, SettingsError, r"attack.trigger: got pixel \[6, 0\]"),
    ],
)
def test_what_does_not_fit_the_data_is_named(data, changes, error, message):
    with pytest.raises(error, match=message):
        crfl.train(BASE.override(changes), data)


def test_settings_of_an_attack_that_nobody_makes_need_not_fit(data):
    crfl.train(BASE.override({"attack.round": None, "attack.target": 9, "attack.trigger": [[8, 8]]}), data)
