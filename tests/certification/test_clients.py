"""Malicious client-rounds and clients: counted exactly, and attacked."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from crfl.certification.coupling.clients import ClientScenario
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_clients, check_coupled
from crfl.errors import CertificateError
from tests.certification.client_rounds import client_rounds, random_world
from tests.certification.records import make_record, make_round
from tests.certification.simulation import distances, simulate, steepest


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
