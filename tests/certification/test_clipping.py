"""The clip contracts the distance of two models."""

import math

import mpmath
import numpy as np
import pytest

from crfl.certification.coupling.arithmetic import FLOAT64_UNIT
from crfl.certification.coupling.clipping import clip_factor, clipped_distance
from crfl.certification.coupling.distance import CoupledScenario
from tests.certification.records import attacker, make_record, make_round
from tests.certification.rounds import by_hand


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
