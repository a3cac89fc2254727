"""Delta from the record: against the formula written out, round by round, and solved for its unknowns."""

import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crfl.certification import sharp_lipschitz
from crfl.certification._monotone import largest_below
from crfl.certification.coupling.arithmetic import FLOAT64_UNIT
from crfl.certification.coupling.clipping import clip_factor, clipped_distance
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.expansion import expansion
from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.poison import poison
from crfl.certification.coupling.rounding import Rounding
from crfl.errors import CertificateError
from tests.certification.records import attacker, make_record, make_round

B = 5.0
TINY = 1e-10
"""More than rounding in float64 adds to these records."""


def expansion_factor(record, round_, attackers, num_attackers=None):
    """Lambda of a round: what becomes of the distance 1."""
    return float(
        expansion(Rounding(LocalTraining(record)), round_, tuple(attackers), num_attackers)(np.array([1.0]))[0]
    )


def added(record, round_, attackers, magnitude, before=0.0, num_attackers=None):
    rounding = Rounding(LocalTraining(record))
    return poison(rounding, round_, tuple(attackers), np.array([magnitude]), np.array([before]), num_attackers)[0]


def by_hand(magnitude, start=1.5, scale=5.0, weight=0.25, ratios=(0.2, 0.2, 0.2), rate=0.02, flip=True, decay=0.0):
    """Sum of p gamma eta q/n min(L_x(kappa_s B') ||delta|| + sqrt(2) B, sqrt(2) (B + B')), step by step."""
    poisoned = math.hypot(1, math.sqrt(24) + magnitude)
    kappa, apart = start, 0.0
    for q in ratios:
        change = float(sharp_lipschitz(kappa, poisoned)) * magnitude + (math.sqrt(2) * B if flip else 0)
        change = min(change, math.sqrt(2) * (B + poisoned))
        apart = (1 - rate * decay) * apart + rate * q * change
        kappa += rate * math.sqrt(2) * ((1 - q) * B + q * poisoned)
    return weight * scale * apart


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


def on_the_ball(distance, norm, rho):
    """The chord that a tangent to the ball of the distance spans on the sphere of radius rho."""
    return 2 * rho * math.sin(math.asin(distance / norm) / 2)


def test_clipping_contracts():
    """Both models outside the ball: by the angle between them, in which rho / n is the leading term."""
    attack = make_round(1, [attacker()], pre_clip_norm=4.0)
    quiet = [make_round(2, pre_clip_norm=2.0), make_round(3, pre_clip_norm=6.0, clip_norm=2.0)]
    scenario = CoupledScenario(make_record([attack, *quiet]), before_clip=False)
    found = scenario.distances(0.1)
    first = by_hand(0.1)
    clipped = on_the_ball(first, 4.0, 3.0)
    assert first * 3 / 4 < clipped < first * 3 / (4.0 - first)
    expected = [[first, clipped], [clipped, clipped], [clipped, on_the_ball(clipped, 6.0, 2.0)]]
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert scenario.cost(0.1) == found[-1, 1]
    assert CoupledScenario(scenario.record, before_clip=True).cost(0.1) == found[-1, 0]


def test_clipping_contracts_real_vectors_as_claimed():
    """Random vectors stay below the bound, and the worst of them all but reach it."""
    rng = np.random.default_rng(0)
    tightest = 0.0
    for _ in range(2000):
        norm, rho = rng.uniform(0.5, 3), rng.uniform(0.3, 3)
        distance = norm * 10 ** rng.uniform(-3, 0.5)
        bound = clipped_distance(np.array([distance]), norm, rho)[0]
        a = np.array([norm, 0.0])
        angles = np.linspace(0, np.pi, 400)
        b = a + distance * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        shrunk = b * np.minimum(1, rho / np.linalg.norm(b, axis=1))[:, None]
        apart = np.linalg.norm(shrunk - a * min(1, rho / norm), axis=1).max()
        assert apart <= bound * (1 + 1e-12)
        if norm > rho:
            tightest = max(tightest, apart / bound)
    assert tightest > 0.9999


def lemma7(distance, norm, rho):
    """(5) with 60 digits."""
    mpmath.mp.dps = 60
    d, n, r = (mpmath.mpf(float(v)) for v in (distance, norm, rho))
    if n <= r:
        return d
    if d**2 <= n**2 - r**2:
        return min(d, r * mpmath.sqrt(2 * (1 - mpmath.sqrt(1 - (d / n) ** 2))))
    return min(d, 2 * r if d >= n + r else mpmath.sqrt(r / n * (d**2 - (n - r) ** 2)))


@pytest.mark.parametrize("share", [1e-300, 1e-22, 2.0**-53, 1e-15, 1e-8, 0.3, 1 - 1e-9])
def test_clipping_to_any_share_of_the_norm_is_bounded_from_above(share):
    """Around the places where the cases of (5) meet, which fall together if rho is a rounding of n."""
    for n in (0.7, 1.0, 2.155e-1):
        rho = share * n
        places = np.array([rho, n - rho, math.sqrt((n - rho) * (n + rho)), n, n + rho, 2 * n, 1e-3 * n])
        near = np.concatenate([places * (1 + k * FLOAT64_UNIT) for k in (-40, -2, -1, 0, 1, 2, 40)])
        found, factor = clipped_distance(near, n, rho), clip_factor(near, n, rho)
        for d, bound, f in zip(near.tolist(), found.tolist(), factor.tolist(), strict=True):
            exact = lemma7(d, n, rho)
            assert exact <= bound <= d
            assert exact <= mpmath.mpf(f) * mpmath.mpf(d) * (1 + mpmath.mpf(2) ** -52)
            if share > 1e-10:
                assert bound <= exact * (1 + mpmath.mpf(10) ** -5) + mpmath.mpf(10) ** -7 * n


def test_clipping_never_expands_and_rises_with_the_distance():
    distances = np.append(np.geomspace(1e-12, 1e6, 4000), np.inf)
    bound = clipped_distance(distances, 4.0, 1.5)
    assert (bound <= distances).all()
    assert (np.diff(bound) >= -1e-15).all()
    assert bound[-1] == 3.0
    assert np.array_equal(clipped_distance(distances, 1.0, 1.5), distances)
    factor = clip_factor(distances[:-1], 4.0, 1.5)
    assert (np.diff(factor) >= -1e-15).all()  # Lemma 16
    assert (bound[:-1] <= factor * distances[:-1] * (1 + 1e-14)).all()
    assert factor[0] == pytest.approx(1.5 / 4)


def test_growth_without_scaling_is_one():
    record = make_record([])
    assert expansion_factor(record, make_round(1), ()) == pytest.approx(1, abs=1e-12)
    assert expansion_factor(record, make_round(1, weights=(0.5, 0, 0, 0.5)), ()) == pytest.approx(1, abs=1e-12)


def test_growth_with_weight_decay_contracts():
    record = make_record([], weight_decay=2.0, client_sizes=(15, 15, 30, 30))
    found = expansion_factor(record, make_round(1), ())
    assert found == pytest.approx((2 * 0.96**3 + 2 * 0.96**6) / 4, rel=1e-9)


def test_growth_of_scaled_rounds():
    """max(1, 2 S alpha - 1), alpha = A / (1 + A), A = tau a / (1 - a), a = eta B^2 / 4."""
    plain = make_record([])
    a = 0.02 * 25 / 4
    alpha = (3 * a / (1 - a)) / (1 + 3 * a / (1 - a))
    for scale in (1.0, 2.0, 10.0, 100.0):
        attackers = (attacker(scale=scale),)
        total = 0.75 + 0.25 * scale
        expected = max(1.0, 2 * total * alpha - 1)
        assert expansion_factor(plain, make_round(1, attackers), attackers) == pytest.approx(expected, rel=1e-12)
    meek = (attacker(scale=0.3, weight=1.0),)  # |1 - 0.3 alpha| + 0.3 alpha = 1
    alone = make_record([], client_sizes=(15,), learning_rates=(0.02,), client_names=("a",), smoothness=(12.5,))
    assert expansion_factor(alone, make_round(1, meek, weights=(1.0,)), meek) == pytest.approx(1.0, rel=1e-12)
    edge = make_record([], learning_rates=(0.16,) * 4)  # a = 1: nothing is gained over 2 S - 1
    attackers = (attacker(scale=5.0),)
    assert expansion_factor(edge, make_round(1, attackers), attackers) == pytest.approx(2 * 2 - 1, rel=1e-12)


@given(st.integers(0, 10**6))
def test_growth_holds_for_linear_gradients(seed):
    """The server's map of scaled local training on quadratics with curvature up to beta is Lambda-Lipschitz."""
    rng = np.random.default_rng(seed)
    rate, tau, beta, decay = rng.uniform(0.01, 0.15), int(rng.integers(1, 4)), 12.5, rng.choice([0.0, 0.5])
    scale = rng.uniform(0, 30)
    record = make_record([], learning_rates=(rate,) * 4, client_sizes=(5 * tau,) * 4, weight_decay=decay)
    if rate > 2 / (beta + 2 * decay):
        return
    attackers = (attacker(scale=scale),)
    total = np.eye(3)
    for client in range(4):
        local = np.eye(3)
        for _ in range(tau):
            q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
            curvature = q @ np.diag(rng.choice([0, beta, rng.uniform(0, beta)], size=3)) @ q.T
            local = (np.eye(3) - rate * (curvature + decay * np.eye(3))) @ local
        total = total + 0.25 * (scale if client == 0 else 1.0) * (local - np.eye(3))
    assert np.linalg.norm(total, 2) <= expansion_factor(record, make_round(1, attackers), attackers) * (1 + 1e-12)


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


@pytest.mark.parametrize(
    ("function", "inverse", "limit"),
    [
        (lambda x: x, lambda b: b, math.inf),
        (lambda x: 3 * x + x * np.minimum(x, 1e6), lambda b: (math.sqrt(9 + 4 * b) - 3) / 2, math.inf),
        (lambda x: np.sqrt(x), lambda b: b**2, math.inf),
        (lambda x: np.where(x > 0, x + 0.01, 0.0), lambda b: max(b - 0.01, 0), math.inf),
        (lambda x: np.minimum(x, 5.0), lambda b: b if b <= 5 else math.inf, 5.0),
        (lambda x: np.floor(np.minimum(x, 1e9)), lambda b: math.ceil(b), math.inf),
        (lambda x: x + 1e3 * np.maximum(x - 1.01, 0), lambda b: b if b <= 1.01 else (b + 1010) / 1001, math.inf),
        (
            lambda x: np.where(x < 1.01, 100 * x, 101 + 1e-3 * (x - 1.01)),
            lambda b: b / 100 if b <= 101 else 1.01 + 1e3 * (b - 101),
            math.inf,
        ),
    ],
)
def test_largest_below(function, inverse, limit):
    levels = np.array([1e-3, 0.5, 1.0, 4.9999, 5.0001, 77.3, 1e4])
    found = largest_below(function, levels, limit)
    expected = np.array([inverse(b) for b in levels])
    np.testing.assert_allclose(
        found, expected, rtol=2e-2 if "floor" in str(function.__code__.co_names) else 1e-7, atol=1e-12
    )
    finite = np.isfinite(found)
    assert (function(found[finite]) < levels[finite]).all()


def test_largest_below_edges():
    never = largest_below(lambda x: 1 + x, np.array([0.0, 0.5, 1.0]), math.inf)
    assert never.tolist() == [0, 0, 0]
    always = largest_below(lambda x: np.zeros_like(x), np.array([0.0, 0.5, math.inf]), math.inf)
    assert always.tolist() == [0, math.inf, math.inf]
    assert largest_below(lambda x: x, np.array([math.inf]), math.inf).tolist() == [math.inf]
