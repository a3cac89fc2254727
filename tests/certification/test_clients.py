"""Clients that send anything: exact worst cases, attacks, and who was there."""

import itertools
import math
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
from tests.certification.records import attacker, make_record, make_round
from tests.certification.simulation import World, distances, simulate, steepest


def client_rounds(record, budgets, silent=False, before_clip=True):
    return CoupledScenario(record, before_clip).max_malicious(np.array(budgets), silent).tolist()


def decaying(seed, rounds=4, clip_norm=100.0):
    """Four clients of unequal weights, server decay, tight clips: 1 - kappa is what a round multiplies."""
    rng = np.random.default_rng(seed)
    return make_record(
        [
            make_round(
                t,
                weights=tuple(rng.dirichlet(np.ones(4)).tolist()),
                decay=float(rng.uniform(0.05, 0.3)),
                update_clip=float(rng.uniform(0.1, 1.0)),
                update_norms=(0.0,) * 4,
                pre_clip_norm=float(rng.uniform(2, 4)),
                clip_norm=clip_norm,
            )
            for t in range(1, rounds + 1)
        ],
        learning_rates=(1e-3,) * 4,
        max_feature_norm=1.0,
    )


@pytest.mark.parametrize("seed", range(5))
def test_client_rounds_against_all_choices(seed):
    """Greedy is exact where no clip bites: the k dearest of all client-rounds, each shrunk by the later decays."""
    record = decaying(seed)
    later = np.cumprod([1.0, *[1 - r.decay for r in record.rounds[:0:-1]]])[::-1]
    effects = [2 * p * r.update_clip * f for r, f in zip(record.rounds, later, strict=True) for p in r.weights]
    for k in range(1, 4):
        worst = max(sum(c) for c in itertools.combinations(effects, k))
        assert client_rounds(record, [worst * (1 - 1e-9), worst * (1 + 1e-9)]) == [k - 1, k]


@pytest.mark.parametrize("seed", range(5))
def test_clients_throughout_against_all_choices(seed):
    record = decaying(seed)
    for m in range(4):
        worst = 0.0
        for some in itertools.combinations(range(4), m):
            distance = 0.0
            for r in record.rounds:
                distance = (1 - r.decay) * distance + 2 * r.update_clip * sum(r.weights[i] for i in some)
            worst = max(worst, distance)
        assert ClientScenario(record).cost(m) == pytest.approx(worst, rel=1e-9, abs=1e-9)
    costs = [ClientScenario(record).cost(m) for m in range(5)]
    found = ClientScenario(record).max_clients(np.array([0.0, costs[1], costs[2], costs[2] * 1.01, 1e9]))
    assert found.tolist() == [0, 0, 1, 2, 4]


def test_silence_allows_twice_as_many():
    record = make_record([make_round(1, update_clip=0.1)], learning_rates=(1e-4,) * 4)
    assert client_rounds(record, [0.051, 0.101, 0.151, 9.0]) == [1, 2, 3, 4]
    assert client_rounds(record, [0.026, 0.051, 0.076, 9.0], silent=True) == [1, 2, 3, 4]
    assert client_rounds(record, [0.0, 1e-13]) == [0, 0]


def test_many_client_rounds_are_counted_in_blocks():
    record = make_record([make_round(t, update_clip=0.1) for t in range(1, 101)], learning_rates=(1e-4,) * 4)
    assert client_rounds(record, [0.05 * 200.5, 1e9]) == [200, 400]


def test_clipping_helps():
    """A clip that bites shrinks what was done before it."""
    loose, tight = decaying(0), decaying(0, clip_norm=1.0)
    budgets = np.linspace(0.01, 1, 40)
    more, fewer = client_rounds(tight, budgets, before_clip=False), client_rounds(loose, budgets, before_clip=False)
    assert all(a >= b for a, b in zip(more, fewer, strict=True))
    assert sum(more) > sum(fewer)
    assert ClientScenario(tight).cost(2) < ClientScenario(loose).cost(2)


def test_no_clip_no_count():
    with pytest.raises(CertificateError, match=r"set server\.update_clip"):
        client_rounds(make_record([make_round(1)]), [1.0])


def random_world(seed):
    """Arbitrary weights, schedules, decays, clips; tight and loose."""
    rng = np.random.default_rng(seed)
    clients, rounds, batch = int(rng.integers(2, 6)), int(rng.integers(1, 8)), int(rng.integers(1, 3))
    steps, size = int(rng.integers(1, 4)), float(rng.choice([0.3, 1.0, 3.0]))
    x = [rng.normal(size=(batch * steps, 2)) * size for _ in range(clients)]
    bias, decay = bool(rng.integers(2)), float(rng.choice([0.0, 0.0, 0.3]))
    bound = np.hypot(float(bias), max(np.linalg.norm(v, axis=1).max() for v in x))
    limit = 2 / (bound**2 / 2 + 2 * decay)
    rates = (
        np.full(rounds, limit * rng.uniform(0.05, 0.99))
        if rng.random() < 0.5
        else 0.99 * limit / np.arange(1, rounds + 1)
    )
    weights = rng.dirichlet(np.ones(clients), size=rounds)
    if rng.random() < 0.5:
        weights *= rng.random(weights.shape) < 0.7
        weights[weights.sum(1) == 0] = 1
        weights /= weights.sum(1, keepdims=True)
    return World(
        x,
        [rng.integers(0, 3, len(v)) for v in x],
        3,
        rounds,
        rates,
        batch,
        bias,
        weight_decay=decay,
        decay=None if rng.random() < 0.5 else rng.uniform(0, 0.3, rounds),
        clip=float(rng.choice([np.inf, 0.3, 1.0])),
        noise=float(rng.choice([0, 0.1])),
        weights=weights,
        update_clip=rates * steps * bound * rng.uniform(0.02, 1.5, rounds) * rng.choice([0.01, 0.1, 1.0]),
        seed=seed,
    )


@pytest.mark.parametrize("block", range(8))
def test_arbitrary_updates_never_reach_further(block):
    """Replacement, sign flips times 100, noise; by some clients in some rounds, or in all."""
    for seed in range(25 * block, 25 * (block + 1)):
        world, rng = random_world(seed), np.random.default_rng(seed)
        everywhere = [(t, i) for t in range(world.rounds) for i in range(world.clients)]
        if seed % 2:
            some = rng.choice(world.clients, int(rng.integers(1, world.clients + 1)), replace=False)
            malicious = [(t, i) for t, i in everywhere if i in some]
        else:
            malicious = [everywhere[j] for j in rng.permutation(len(everywhere))[: int(rng.integers(1, 6))]]
        direction = rng.normal(size=(3, 2 + world.bias)) * 1e3

        def sent(z, u, kind=seed % 3, direction=direction):
            return [direction, -100 * u, direction * z][kind]

        honest = simulate(world)
        bad = simulate(world, malicious=dict.fromkeys(malicious, sent), layout=rng)
        worse = simulate(world, malicious=dict.fromkeys(malicious, lambda z, u, d=direction: -d))
        for run, other in ((honest, bad), (bad, honest), (bad, worse)):
            found = distances(run, other)[-1]
            check_clients(run.record)
            assert client_rounds(run.record, [found[0]])[0] < len(malicious)
            assert client_rounds(run.record, [found[1]], before_clip=False)[0] < len(malicious)
            if seed % 2:
                cost = ClientScenario(run.record).cost(len(some))
                assert found[0] <= cost


def test_the_bounds_are_reached():
    """Opposite updates in every round, local steps that hardly move: the distance is all of Delta."""
    world = replace(random_world(0), rates=np.full(4, 1e-9), rounds=4, clip=math.inf, decay=np.full(4, 0.2))
    world = replace(world, weights=np.full((4, world.clients), 1 / world.clients), update_clip=np.full(4, 0.3))
    places, push = [(t, 1) for t in range(4)], np.ones((3, 2 + world.bias))
    one = simulate(world, malicious=dict.fromkeys(places, lambda z, u: push))
    other = simulate(world, malicious=dict.fromkeys(places, lambda z, u: -push))
    found = distances(one, other)[-1, 0]
    assert found == pytest.approx(ClientScenario(one.record).cost(1), rel=1e-6)


@pytest.mark.parametrize("block", range(8))
def test_adaptive_poison_never_reaches_further(block):
    """Schedules, decays of both kinds, tight clips, any content in a ball: poison chosen step by step against them."""
    for seed in range(20 * block, 20 * (block + 1)):
        rng = np.random.default_rng(seed)
        world = replace(
            random_world(seed),
            attackers=tuple(range(int(rng.integers(1, 3)))),
            scale=float(rng.choice([1.0, 1.0, 4.0])),
            attack_rounds=(int(rng.integers(random_world(seed).rounds)),),
            poisoned=1,
            magnitude=float(rng.choice([0.0, 0.1, 1.0])),
            flips=bool(rng.integers(2)),
        )
        if seed % 3 == 0:
            largest = max(float(np.linalg.norm(x, axis=1).max()) for x in world.x)
            world = replace(world, norm_bound=largest, magnitude=math.inf)
        if seed % 2:
            world = replace(world, update_clip=None)
        bad, honest = simulate(world, poison=steepest(world, rng), layout=rng), simulate(world)
        found = distances(bad, honest)
        for run in (bad, honest):
            check_coupled(run.record)
            for any_round in (False, True):
                claimed = CoupledScenario(run.record, True, any_round).distances(world.magnitude)
                assert (found <= claimed).all()
                assert np.isfinite(claimed).all()


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
