"""How far an attack moves the model: by hand, over several rounds, and as a radius."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfl.certification import sharp_lipschitz
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.poison import poison
from crfl.certification.coupling.rounding import Rounding
from crfl.errors import CertificateError
from tests.certification.records import attacker, make_record, make_round
from tests.certification.rounds import by_hand, expansion, expansion_factor

TINY = 1e-10
"""More than rounding in float64 adds to these records."""


def added(record, round_, attackers, magnitude, before=0.0, num_attackers=None):
    rounding = Rounding(LocalTraining(record))
    of_round = poison(rounding, [round_], [tuple(attackers)], num_attackers)
    return of_round(slice(None), np.array([magnitude]), np.array([[before]]))[0, 0]


@pytest.mark.parametrize("magnitude", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("ratios", [(0.2, 0.2, 0.2), (0.2, 0.0, 1.0), (1 / 3,)])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("decay", [0.0, 2.0])
def test_attack_round_by_hand(magnitude, ratios, flip, decay):
    record = make_record([make_round(1, [attacker(poison_ratios=ratios, label_flip=flip)])], weight_decay=decay)
    expected = by_hand(magnitude, ratios=ratios, flip=flip, decay=decay)
    found = CoupledScenario(record, before_clip=True).cost(magnitude)
    assert expected < found < expected + TINY


def test_many_steps_are_bounded_tightly():
    """Between the steps at which the gradient bound is computed, chords lie above it, by little."""
    for steps, decay in ((30, 0.0), (300, 0.0), (30, 2.0)):
        ratios = (0.2,) * steps
        record = make_record([make_round(1, [attacker(poison_ratios=ratios)])], weight_decay=decay)
        for magnitude in (0.0, 0.1, 3.0, 50.0):
            expected = by_hand(magnitude, ratios=ratios, decay=decay)
            found = added(record, record.rounds[0], record.rounds[0].attackers, magnitude)
            assert expected <= found <= 1.003 * expected


def test_attackers_add_up():
    attackers = [attacker(0), attacker(1, scale=2.0, poison_ratios=(1.0,)), attacker(2, weight=0.1)]
    rates = (0.02, 0.02, 0.05, 0.02)
    record = make_record([make_round(1, attackers, weights=(0.25, 0.25, 0.1, 0.4))], learning_rates=rates)
    expected = by_hand(0.3) + by_hand(0.3, scale=2.0, ratios=(1.0,)) + by_hand(0.3, weight=0.1, rate=0.05)
    assert added(record, record.rounds[0], attackers, 0.3) == pytest.approx(expected, rel=1e-9)


def test_domain_bounds_the_poisoned_samples():
    """Clamped to [0, 1], six features: no sample beyond sqrt(7), no trigger moves one further than sqrt(6)."""
    record = make_record([make_round(1, [attacker()])], max_feature_norm=2.0, domain=(0.0, 1.0))
    scenario = CoupledScenario(record, before_clip=True)
    far = scenario.cost(math.sqrt(6))
    assert scenario.cost(100.0) == far
    assert scenario.cost(math.inf) == far
    kappa = 1.5 + 0.02 * math.sqrt(2) * np.array([0, 1, 2]) * (0.8 * math.sqrt(5) + 0.2 * math.sqrt(7))
    change = sharp_lipschitz(kappa, math.sqrt(7)) * math.sqrt(6) + math.sqrt(2) * math.sqrt(5)
    change = np.minimum(change, math.sqrt(2) * (math.sqrt(5) + math.sqrt(7)))
    assert far == pytest.approx(0.25 * 5 * 0.02 * 0.2 * change.sum(), rel=1e-12)


def test_without_domain_nothing_bounds_them():
    scenario = CoupledScenario(make_record([make_round(1, [attacker()])]), before_clip=True)
    assert scenario.cost(math.inf) == math.inf
    assert scenario.cost(1e200) > 1e195


@pytest.mark.parametrize(
    "harmless", [{"scale": 0.0}, {"weight": 0.0}, {"poison_ratios": (0.0, 0.0)}, {"poison_ratios": ()}]
)
def test_what_cannot_change_anything_costs_nothing(harmless):
    scenario = CoupledScenario(make_record([make_round(1, [attacker(**harmless)])]), before_clip=True)
    assert scenario.cost(math.inf) == (0 if "weight" not in harmless else pytest.approx(0, abs=TINY))
    assert scenario.radius(np.array([1e-9, 0.0])).tolist() == [math.inf, 0.0]


def test_several_attack_rounds():
    record = make_record([make_round(1, [attacker()]), make_round(2, [attacker(scale=10.0)])])
    first = by_hand(0.1)
    expands = expansion_factor(record, record.rounds[1], record.rounds[1].attackers)
    second = expands * first + by_hand(0.1, start=1.5 + first, scale=10.0)
    found = CoupledScenario(record, before_clip=True).distances(0.1)
    np.testing.assert_allclose(found[:, 0], [first, second], rtol=1e-9)


def test_any_round_is_the_worst_of_all_rounds():
    quiet = [make_round(t, pre_clip_norm=2.0 + t % 3, start_spectral_norm=1.0 + t / 7) for t in range(1, 9)]

    def attacked(t):
        rounds = list(quiet)
        rounds[t - 1] = replace(quiet[t - 1], attackers=(attacker(),))
        return make_record(rounds)

    known = [CoupledScenario(attacked(t), before_clip=False).cost(0.2) for t in range(1, 9)]
    found = CoupledScenario(attacked(8), before_clip=False, any_round=True).cost(0.2)
    assert max(known) <= found <= max(known) + TINY
    assert len({round(k, 6) for k in known}) > 3


def test_any_round_heeds_who_takes_part():
    rounds = [
        make_round(1, [attacker()]),
        make_round(2, weights=(0.0, 0.5, 0.5, 0.0)),
        make_round(3, weights=(1.0, 0, 0, 0)),
    ]
    found = CoupledScenario(make_record(rounds), before_clip=True, any_round=True).distances(0.1)[:, 0]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert found[2] == pytest.approx(4 * found[0], rel=1e-3)


def test_clipped_updates_bound_the_attackers():
    attackers = (attacker(scale=1000.0),)
    rounds = [make_round(t, attackers, update_clip=0.5) for t in (1, 2)]
    record = make_record(rounds)
    assert added(record, rounds[0], attackers, 10.0) == pytest.approx(2 * 0.25 * 0.5)
    assert added(record, rounds[0], attackers, math.inf) == pytest.approx(0.25)
    small = (attacker(scale=1.0),)  # never reaches S
    assert added(record, rounds[0], small, 0.1) == pytest.approx(by_hand(0.1, scale=1.0))
    a = 0.02 * 25 / 4
    alpha = 3 * a / (1 + 2 * a)
    own = expansion(Rounding(LocalTraining(record)), rounds[1], attackers)
    assert own(np.array([1e-4]))[0] == pytest.approx(1e-4 * (1 + 2 * 0.25 * 1000 * alpha))
    assert own(np.array([100.0]))[0] == pytest.approx(100 + 2 * 0.25 * 0.5)  # but by at most 2 p S
    assert expansion_factor(record, rounds[1], small) == pytest.approx(1)


def test_malicious_updates_count_by_their_norm():
    bad = attacker(update="sign_flip", update_norm=0.7, scale=3.0)
    record = make_record([make_round(1, [bad])])
    found = CoupledScenario(record, before_clip=True).cost(0.0)
    assert found == pytest.approx(0.25 * 0.7, rel=1e-9)
    clipped = CoupledScenario(
        replace(record, benign=True, rounds=(replace(record.rounds[0], update_clip=0.6),)), before_clip=True
    )
    assert clipped.cost(0.0) == pytest.approx(0.25 * 0.6, rel=1e-9)
    with pytest.raises(CertificateError, match="max_malicious counts"):
        clipped.cost(0.1, attackers=2)


def test_levels_restate_the_attack():
    record = make_record([make_round(1, [attacker()])])
    scenario = CoupledScenario(record, before_clip=True)
    assert scenario.cost(0.1, poisoned=1) == scenario.cost(0.1)  # 1 of 5 is what is on record
    assert scenario.cost(0.1, poisoned=0) == 0
    assert scenario.cost(0.1, poisoned=3) == pytest.approx(by_hand(0.1, ratios=(0.6,) * 3), rel=1e-9)
    assert scenario.cost(0.1, attackers=3) == pytest.approx(3 * by_hand(0.1), rel=1e-4)
    nobody = CoupledScenario(make_record([make_round(1)]), before_clip=True)
    assert nobody.cost(5.0) == 0
    with pytest.raises(CertificateError, match="nobody attacked"):
        nobody.cost(0.1, attackers=1)


@pytest.mark.parametrize("seed", range(40))
def test_so_many_attackers_cost_no_less_than_those_on_record(seed):
    """Whoever is the strongest of mixed attackers: by label, scale or poison, with unequal weights, in several rounds."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(4))
    attackers = tuple(
        attacker(
            client,
            weight=float(weights[client]),
            scale=float(rng.choice([0.5, 1.0, 5.0, 40.0])),
            poison_ratios=(float(rng.choice([0.0, 0.2, 1.0])),) * 3,
            label_flip=bool(rng.integers(2)),
        )
        for client in range(int(rng.integers(1, 4)))
    )
    clip = {} if rng.integers(2) else {"update_clip": float(rng.uniform(0.5, 3))}
    rounds = [make_round(t, attackers if t % 2 else (), weights=tuple(weights), **clip) for t in range(1, 6)]
    scenario = CoupledScenario(make_record(rounds), before_clip=True)
    for magnitude in (0.0, 0.01, 1.0):
        costs = [scenario.cost(magnitude, attackers=n) for n in range(len(attackers) + 2)]
        assert scenario.cost(magnitude) <= costs[len(attackers)] * (1 + 1e-12)
        assert costs == sorted(costs)
        assert costs[0] == 0


def test_rounding_counts_from_the_first_round_of_a_run_that_is_attacked():
    """Two runs of one stack may differ in the last bits before anybody attacks."""
    record = make_record([make_round(t, [attacker()] if t == 3 else ()) for t in range(1, 5)])
    found = CoupledScenario(record, before_clip=True).distances(0.1)[:, 0]
    assert 0 < found[0] < found[1] < TINY
    unknown = CoupledScenario(record, before_clip=True, any_round=True).distances(0.1)[:, 0]
    assert (unknown >= found).all()


def test_an_unknown_round_is_no_better_than_any_known_one():
    """Also if hardly anything but rounding and the attackers' scaling happens."""
    attackers = [attacker(scale=100.0, label_flip=False)]
    benign = CoupledScenario(
        make_record([make_round(t, attackers if t == 1 else ()) for t in range(1, 13)]),
        before_clip=True,
        any_round=True,
    )
    for known in range(1, 13):
        rounds = [make_round(t, attackers if t == known else ()) for t in range(1, 13)]
        scenario = CoupledScenario(make_record(rounds), before_clip=True)
        for magnitude in (0.0, 1e-9, 1e-3):
            assert benign.cost(magnitude) >= scenario.cost(magnitude) * (1 - 1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_radius_is_the_edge(seed):
    rng = np.random.default_rng(seed)
    domain = (0.0, 1.0) if seed % 2 else None
    rounds = [make_round(t, pre_clip_norm=float(rng.uniform(1, 6))) for t in range(1, 5)]
    rounds[1] = replace(rounds[1], attackers=(attacker(label_flip=bool(rng.integers(2))),))
    record = make_record(rounds, domain=domain, max_feature_norm=2.0)
    scenario = CoupledScenario(record, before_clip=bool(rng.integers(2)), any_round=bool(rng.integers(2)))
    budgets = 10 ** rng.uniform(-7, 2, size=20)
    for budget, radius in zip(budgets, scenario.radius(budgets), strict=True):
        if radius > 0:
            assert scenario.cost(float(radius)) < budget
        if radius < math.inf:
            assert scenario.cost(float(radius) * (1 + 1e-6) + 1e-15) >= budget
    ordered = scenario.radius(np.sort(budgets))
    assert (np.diff(ordered[np.isfinite(ordered)]) >= 0).all()
