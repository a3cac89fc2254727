"""Attackers that were absent or dropped in the round on record."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfl.certification.coupling.clients import ClientScenario, most_client_rounds
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.refusals import check_clients, check_coupled, failed_clients
from crfl.certification.coupling.rounding import Rounding
from crfl.errors import CertificateError
from crfl.record import DroppedRecord
from tests.certification.client_rounds import client_rounds, random_world
from tests.certification.records import attacker, make_record, make_round
from tests.certification.simulation import World, distances, simulate, steepest


def test_v4_attackers_absent_in_the_round_on_record_count_elsewhere():
    """In an unknown round attackers have the weights that they have whenever they take part."""
    absent = attacker(weight=0.0, potential_weight=1 / 3)
    away = {"weights": (0.0, 0.5, 0.5, 0.0), "potential_weights": (1 / 3,) * 4}
    rounds = [make_round(1, [absent], **away), make_round(2, weights=(0.5, 0.5, 0, 0), potential_weights=(0.5,) * 4)]
    known = CoupledScenario(make_record(rounds), before_clip=True)
    unknown = CoupledScenario(make_record(rounds), before_clip=True, any_round=True)
    present = [make_round(1), replace(rounds[1], attackers=(attacker(weight=0.5),))]
    assert 0 < known.cost(0.1) < 1e-10 < unknown.cost(0.1)
    assert unknown.cost(0.1) >= CoupledScenario(make_record(present), before_clip=True).cost(0.1)
    assert unknown.radius(np.array([1e-3])).tolist() == [0.0]
    check_coupled(make_record(rounds), any_round=True)


def test_v4_in_runs_of_which_attackers_may_be_absent():
    """Attacked in any round, the attackers drawn or not: the record of one run bounds them all."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        world = replace(random_world(seed), update_clip=None, attackers=(0, 1), poisoned=1, magnitude=0.5, scale=2.0)
        for t in range(world.rounds):
            attacked = replace(world, attack_rounds=(t,))
            found = distances(simulate(attacked, poison=steepest(world, rng)), simulate(attacked))
            for on_record in range(world.rounds):
                record = simulate(replace(world, attack_rounds=(on_record,), scale=1.0, poisoned=0)).record
                attackers = simulate(replace(world, attack_rounds=(on_record,))).record.rounds[on_record].attackers
                rounds = list(simulate(replace(attacked, poisoned=0)).record.rounds)
                rounds[t] = replace(rounds[t], attackers=())
                rounds[on_record] = replace(rounds[on_record], attackers=attackers)
                scenario = CoupledScenario(replace(record, rounds=tuple(rounds)), True, True)
                assert found[-1, 0] <= scenario.cost(0.5)


def taking_turns(attack_round, attackers):
    """Four clients alike, the first two in the rounds 0, 2, ..., the others in 1, 3, ...; clips that let models forget."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 6, 2)), rng.integers(0, 3, (4, 6))
    weights = np.tile([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]], (2, 1))
    rate = 1 / (1 + np.linalg.norm(x, axis=2).max() ** 2)
    attack = {"attackers": attackers, "attack_rounds": (attack_round,), "poisoned": 2, "magnitude": 1.0}
    return World(list(x), list(y), 3, 4, np.full(4, rate), 2, clip=0.05, weights=weights, **attack)


def attacked(world):
    """Distances of a run whose poison is chosen step by step, from its counterpart."""
    return distances(simulate(world, poison=steepest(world, np.random.default_rng(0))), simulate(world))


@pytest.mark.parametrize("meant", [1, 3])
def test_v4_an_attacker_that_was_absent_comes_in_another_round(meant):
    """The record of a run in which the attack failed, none of the attackers having been drawn."""
    found = attacked(taking_turns(meant, attackers=(2,)))
    record = simulate(taking_turns(0, attackers=(2,))).record
    assert (found <= CoupledScenario(record, True, True).distances(1.0)).all()
    assert CoupledScenario(record, True).cost(1.0) < 1e-12 < found[-1, 0]


@pytest.mark.parametrize("number", [1, 2])
def test_v5_others_like_the_attacker_are_there_where_it_is_absent(number):
    """In the last round, and the attack on record, in the first, is forgotten by then."""
    found = attacked(taking_turns(3, attackers=(2, 3)[:number]))
    scenario = CoupledScenario(simulate(taking_turns(0, attackers=(0,))).record, True, True)
    assert found[-1, 0] <= scenario.cost(1.0, attackers=number)
    assert found[-1, 0] > CoupledScenario(scenario.record, True).cost(1.0, attackers=number)


def test_v5_more_attackers_like_one_that_was_absent():
    absent = attacker(weight=0.0, potential_weight=0.25)
    record = make_record([make_round(1, [absent], weights=(0.0, 1 / 3, 1 / 3, 1 / 3), potential_weights=(0.25,) * 4)])
    there = make_record([make_round(1, [attacker(weight=0.25)])])
    one, other = (CoupledScenario(r, before_clip=True) for r in (record, there))
    for number in (1, 2, 3):
        assert one.cost(0.1, attackers=number) == pytest.approx(other.cost(0.1, attackers=number), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_dropped_updates_cost_no_more_than_clipped_ones(seed, silent):
    """The others' weights grow when an update is dropped: by no more than p S, or 2 p S, in the model (Theorem 10)."""
    rng = np.random.default_rng(seed)
    clients, clip = int(rng.integers(2, 6)), float(rng.uniform(0.1, 2))
    weights, gone = rng.dirichlet(np.ones(clients)), int(rng.integers(clients))
    updates = rng.normal(size=(clients, 3)) * 10 ** rng.uniform(-2, 1)
    updates *= np.minimum(1, clip / np.linalg.norm(updates, axis=1, keepdims=True))
    others = np.arange(clients) != gone
    dropped = weights[others] @ updates[others] / (1 - weights[gone])
    kept = weights @ np.where(others[:, None] | (not silent), updates, 0.0)
    assert np.linalg.norm(dropped - kept) <= (1 if silent else 2) * weights[gone] * clip * (1 + 1e-12)


def test_a_dropped_malicious_update_has_the_cost_of_a_clipped_one():
    bad = attacker(weight=0.0, potential_weight=0.25, update="nan", scale=1.0)
    gone = {
        "weights": (0.0, 1 / 3, 1 / 3, 1 / 3),
        "dropped": (DroppedRecord(0, "not finite", 0.25),),
        "update_clip": 2.0,
    }
    record = make_record([make_round(1, [bad], **gone)])
    check_coupled(record)
    assert CoupledScenario(record, before_clip=True).cost(0.0) == pytest.approx(0.25 * 2.0, rel=1e-9)
    assert client_rounds(record, [1.3, 1.4]) == [0, 1]  # another client, of weight 1/3, could have done 4 / 3
    assert most_client_rounds(Rounding(LocalTraining(record)), record, np.array([1.4]), True, True).tolist() == [2]


def without(weights, gone):
    """The weights of a round in which these clients were dropped."""
    left = np.where(np.isin(np.arange(len(weights)), gone), 0.0, weights)
    return left / left.sum()


@pytest.mark.parametrize("block", range(4))
def test_dropped_clients_count_as_malicious(block):
    """Some clients fail in some rounds of the run on record. In others they answer, lie, or fail elsewhere; others lie too."""
    for seed in range(40 * block, 40 * (block + 1)):
        world, rng = random_world(seed), np.random.default_rng(seed)
        if world.clients < 3:
            continue
        weights = rng.dirichlet(np.ones(world.clients), size=world.rounds)
        world = replace(world, weights=weights)
        order = rng.permutation(world.clients)
        failing, liars = order[: int(rng.integers(1, 3))], order[2 : 2 + int(rng.integers(2))]
        fails = rng.random((world.rounds, len(failing))) < 0.5
        fails[int(rng.integers(world.rounds)), 0] = True
        gone = [failing[f] for f in fails]
        on_record = simulate(
            replace(world, weights=np.array([without(*pair) for pair in zip(weights, gone, strict=True)]))
        )
        rounds = tuple(
            replace(r, dropped=tuple(DroppedRecord(int(c), "late", float(p[c])) for c in np.sort(some)))
            for r, p, some in zip(on_record.record.rounds, weights, gone, strict=True)
        )
        record = replace(on_record.record, rounds=rounds)
        check_clients(record)
        assert set(failed_clients(record)) == set(np.concatenate(gone).tolist())
        with pytest.raises(CertificateError, match="dropped updates"):
            check_coupled(record)
        direction = rng.normal(size=(3, 2 + world.bias)) * 1e3
        for push in (direction, -direction, None):
            anybody = [*liars, *failing] if push is not None else [*liars]
            send = {
                (t, int(i)): lambda z, u, d=push: -10 * u if d is None else d
                for t in range(world.rounds)
                for i in anybody
            }
            elsewhere = [without(p, failing[rng.random(len(failing)) < 0.5]) for p in weights]
            for other in (world, replace(world, weights=np.array(elsewhere))):
                found = distances(on_record, simulate(other, malicious=send))[-1, 0]
                assert found <= ClientScenario(record).cost(len(failed_clients(record)) + len(liars))


def test_the_bound_for_a_dropped_client_is_reached():
    """All others push one way, so that without the heavy one the mean is all of S; it would have pushed the other way."""
    x, push = [np.zeros((2, 2))] * 4, np.ones((3, 3))
    weights = np.tile([0.7, 0.1, 0.1, 0.1], (4, 1))
    world = World(
        x, [np.zeros(2, int)] * 4, 3, 4, np.full(4, 1e-9), 2, decay=np.full(4, 0.2), update_clip=np.full(4, 0.3)
    )
    others = {(t, i): lambda z, u: -push for t in range(4) for i in (1, 2, 3)}
    late = simulate(replace(world, weights=np.array([without(p, [0]) for p in weights])), malicious=others)
    rounds = tuple(replace(r, dropped=(DroppedRecord(0, "late", 0.7),)) for r in late.record.rounds)
    record = replace(late.record, rounds=rounds)
    answering = simulate(
        replace(world, weights=weights), malicious={**others, **{(t, 0): lambda z, u: push for t in range(4)}}
    )
    assert distances(late, answering)[-1, 0] == pytest.approx(ClientScenario(record).cost(1), rel=1e-6)
