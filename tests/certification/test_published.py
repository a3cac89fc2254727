"""The published certificate: the paper's numbers, its levels, and its edges."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfl.certification import (
    corollary1_radius,
    hoeffding,
    kl_budget,
    lemma1_lipschitz,
    log_contraction,
    theorem1_certified,
    theorem2_kl_bound,
)
from crfl.certification.published import kl_budget_from_logs
from crfl.errors import CertificateError

H = 0.05876970001191999
MNIST = 0.05 * 10 * 30 * 1e-3 * 0.05
"""p gamma tau eta q/n at the paper's MNIST defaults."""
LIPSCHITZ = lemma1_lipschitz(3.0)


def unanimous(samples, alpha=0.001):
    bounds = hoeffding([[samples, 0, 0]], alpha)
    return bounds.p_a[0], bounds.p_b[0]


def radius(strengths, samples=1000, alpha=0.001, rho=3.0, noise=0.01, log_product=0.0):
    return corollary1_radius(
        *unanimous(samples, alpha),
        strengths=strengths,
        lipschitz=lemma1_lipschitz(rho),
        noise=noise,
        log_contraction=log_product,
    )


def test_unanimous_votes():
    p_a, p_b = unanimous(1000)
    assert p_a == pytest.approx(1 - H, rel=1e-14)
    assert p_b == pytest.approx(H, rel=1e-14)


def test_critical_radii_of_the_paper():
    base = 1.9858334424610353
    assert radius([MNIST]) == pytest.approx(base, rel=1e-12)
    for attackers in (2, 3, 4):
        assert radius([MNIST] * attackers) == pytest.approx(base / attackers, rel=1e-12)
    for noise in (0.005, 0.015, 0.02, 0.025):
        assert radius([MNIST], noise=noise) == pytest.approx(base * noise / 0.01, rel=1e-12)
    assert radius([10 / 40 * 15 * 1e-3 * 0.05]) == pytest.approx(7.943333769844141, rel=1e-12)
    assert radius([10 / 20 * 35 * 1e-3 * 0.05], rho=2.15) == pytest.approx(2.1235352010919146, rel=1e-12)
    assert radius([MNIST], samples=100) == pytest.approx(1.145776936286624, rel=1e-12)
    assert radius([MNIST], samples=5000) == pytest.approx(2.4410367604391863, rel=1e-12)


@pytest.mark.parametrize(
    ("ratio", "rounds", "expected"),
    [(1, 20, 8.666448), (1, 50, 2657.6198), (3, 20, 1.30265), (3, 1000, 4.899286), (5, 1000, 1.285525)],
)
def test_figure_9b(ratio, rounds, expected):
    product = log_contraction(np.full(rounds - 10, ratio * 0.01), 0.01)
    found = corollary1_radius(0.7, 0.1, strengths=[MNIST], lipschitz=LIPSCHITZ, noise=0.01, log_contraction=product)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("ratio", "rounds", "product"),
    [
        (1, 10, 0.0219903520934),
        (1, 1000, 1.67193081444e-166),
        (2, 100, 0.00949688689596),
        (3, 100, 0.763116396249),
        (4, 1000, 0.938620072866),
        (5, 1000, 0.999426860999),
    ],
)
def test_products_in_logs(ratio, rounds, product):
    assert np.exp(log_contraction([float(ratio)] * rounds, 1.0)) == pytest.approx(product, rel=1e-11)


def test_product_near_one_and_near_zero():
    assert -np.expm1(log_contraction([8.0] * 10, 1.0)) == pytest.approx(1.2442e-14, rel=1e-4)
    assert log_contraction([30.0], 1.0) == pytest.approx(
        float(mpmath.log1p(-mpmath.erfc(30 / mpmath.sqrt(2)))), rel=1e-12
    )
    with mpmath.workdps(40):
        assert log_contraction([1e-12], 1.0) == pytest.approx(
            float(mpmath.log(mpmath.erf(1e-12 / mpmath.sqrt(2)))), rel=1e-14
        )


def test_product_edges():
    assert log_contraction([], []) == 0
    assert log_contraction([3.0, np.inf, 3.0, 0.0], [0.0, 1.0, 0.0, 0.0]) == 0
    assert log_contraction([0.0], 1.0) == -np.inf
    np.testing.assert_allclose(
        log_contraction([[1.0, 1.0], [2.0, 2.0]], 1.0), [2 * np.log(0.6826894921), 2 * np.log(0.9544997361)]
    )


def test_kl_budget_against_mpmath():
    rng = np.random.default_rng(0)
    with mpmath.workdps(60):
        for _ in range(300):
            not_a = 10 ** -rng.uniform(0.31, 15)
            p_a, p_b = 1 - not_a, (not_a * rng.uniform(1e-6, 1))
            exact = -mpmath.log(1 - (mpmath.sqrt(p_a) - mpmath.sqrt(p_b)) ** 2)
            assert kl_budget(p_a, p_b) == pytest.approx(float(exact), rel=1e-13)
        for gap in (1e-3, 1e-8, 1e-14):
            p_a, p_b = 0.5 + gap, 0.5 - gap
            exact = -mpmath.log(1 - (mpmath.sqrt(p_a) - mpmath.sqrt(p_b)) ** 2)
            assert kl_budget(p_a, p_b) == pytest.approx(float(exact), rel=1e-2 if gap < 1e-12 else 1e-6)
    with mpmath.workdps(900):
        not_a, p_b = mpmath.mpf(10) ** -800, mpmath.mpf(10) ** -801
        exact = -mpmath.log(1 - (mpmath.sqrt(1 - not_a) - mpmath.sqrt(p_b)) ** 2)
        found = kl_budget_from_logs(float(mpmath.log(not_a)), float(mpmath.log(p_b)))
        assert found == pytest.approx(float(exact), rel=1e-14)


def test_kl_budget_edges():
    found = kl_budget([1.0, 0.5, 0.0, 1.0, 0.2, 0.0, 1.0], [0.0, 0.5, 0.0, 1.0, 0.3, 1.0, 1e-300])
    assert found[:6].tolist() == [np.inf, 0, 0, 0, 0, 0]
    assert found[6] == pytest.approx(150 * np.log(10) - np.log(2), rel=1e-12)
    for wrong in (-0.1, 1.1, np.nan):
        with pytest.raises(CertificateError, match="p_b"):
            kl_budget(0.5, wrong)


def test_kl_budget_is_the_tight_one():
    """No distribution within the budget of (pA, pB, rest) turns the order; one at the budget ties it (Theorem 3)."""
    p = np.array([0.7, 0.1, 0.2])
    eps = kl_budget(0.7, 0.1)
    mean = np.sqrt(p[0] * p[1])
    q = np.array([mean, mean, p[2]])
    q /= q.sum()  # the tie nearest to p in KL(q, p)
    assert (q * np.log(q / p)).sum() == pytest.approx(eps, rel=1e-12)


def test_radius_edges():
    def rad(p_a=0.9, p_b=0.05, strengths=(1e-3,), lipschitz=4.0, noise=0.01, product=0.0):
        return corollary1_radius(
            p_a, p_b, strengths=list(strengths), lipschitz=lipschitz, noise=noise, log_contraction=product
        )

    assert rad(strengths=()) == np.inf
    assert rad(strengths=(0.0, 0.0)) == np.inf
    assert rad(strengths=(0.0,), noise=0.0, lipschitz=np.inf) == np.inf
    assert rad(noise=0.0) == 0
    assert rad(lipschitz=np.inf) == 0
    assert rad(lipschitz=np.inf, p_a=1.0, p_b=0.0) == 0
    assert rad(p_a=1.0, p_b=0.0) == np.inf
    assert rad(p_a=0.3, p_b=0.3) == 0
    assert rad(p_a=0.3, p_b=0.4, strengths=()) == 0
    assert rad(product=-np.inf) == np.inf
    assert rad(product=-np.inf, noise=0.0) == 0
    assert rad(product=-1e6) == np.inf
    with pytest.raises(CertificateError, match="strengths"):
        rad(strengths=(np.nan,))
    with pytest.raises(CertificateError, match="noise"):
        rad(noise=-1.0)


def test_theorem1_with_different_magnitudes():
    """R sum (s_i ||delta_i||)^2 <= eps sigma^2 / (2 L_Z^2 prod), written out."""
    strengths, magnitudes = np.array([1e-3, 3e-4]), np.array([0.3, 1.0])
    bound = theorem2_kl_bound(strengths, magnitudes, lipschitz=LIPSCHITZ, noise=0.01, log_contraction=np.log(0.8))
    assert bound == pytest.approx(2 * 2 * ((strengths * magnitudes) ** 2).sum() * 17 / 1e-4 * 0.8, rel=1e-12)
    p_a = np.linspace(0.3, 0.99, 200)
    held = theorem1_certified(
        p_a,
        0.2,
        strengths=strengths,
        magnitudes=magnitudes,
        lipschitz=LIPSCHITZ,
        noise=0.01,
        log_contraction=np.log(0.8),
    )
    assert (held == (kl_budget(p_a, 0.2) >= bound)).all()
    assert held.any()
    assert not held.all()


def test_theorem2_edges():
    assert theorem2_kl_bound([], [], lipschitz=4.0, noise=0.0) == 0
    assert theorem2_kl_bound([0.0], [np.inf], lipschitz=4.0, noise=0.0) == 0
    assert theorem2_kl_bound([1.0], [1.0], lipschitz=4.0, noise=0.0) == np.inf
    assert theorem2_kl_bound([1.0], [0.0], lipschitz=np.inf, noise=1.0) == 0
    assert not theorem1_certified(0.4, 0.4, strengths=[0.0], magnitudes=[1.0], lipschitz=4.0, noise=1.0)


@given(
    st.floats(0.01, 0.99),
    st.floats(0, 1),
    st.floats(1e-6, 1e2),
    st.floats(0, 50),
    st.floats(1e-4, 1e2),
    st.floats(-50, 0),
    st.integers(1, 6),
)
def test_corollary_is_the_edge_of_the_theorem(p_a, share, strength, rho, noise, product, attackers):
    p_b = share * min(p_a, 1 - p_a)
    kwargs = {"lipschitz": lemma1_lipschitz(rho), "noise": noise, "log_contraction": product}
    rad = corollary1_radius(p_a, p_b, strengths=[strength] * attackers, **kwargs)
    if not rad > 0 or kl_budget(p_a, p_b) < 1e-12:
        return

    def held(magnitude):
        return theorem1_certified(
            p_a, p_b, strengths=[strength] * attackers, magnitudes=[magnitude] * attackers, **kwargs
        )

    assert held(rad * (1 - 1e-9))
    assert not held(rad * (1 + 1e-9))


@given(st.floats(0.5, 0.999), st.floats(0.001, 0.5), st.floats(1.0, 10.0))
def test_monotone(p_a, p_b, factor):
    def rad(p_a=p_a, p_b=p_b, strengths=(1e-3,), rho=3.0, noise=0.01, product=-1.0):
        return corollary1_radius(
            p_a, p_b, strengths=list(strengths), lipschitz=lemma1_lipschitz(rho), noise=noise, log_contraction=product
        )

    least = rad() * (1 - 1e-12)
    assert rad(p_a=min(1.0, p_a * factor)) >= least
    assert rad(p_b=p_b / factor) >= least
    assert rad(strengths=(1e-3 / factor,)) >= least
    assert rad(noise=0.01 * factor) >= least
    assert rad(rho=3.0 / factor) >= least
    assert rad(product=-factor) >= least
    assert rad(strengths=(1e-3, 1e-3)) <= rad()


def test_arrays_broadcast():
    found = corollary1_radius(
        [[0.9], [0.3]], [[0.1], [0.3]], strengths=[[1e-3, 0.0], [0.0, 0.0]], lipschitz=4.0, noise=0.01
    )
    assert found.shape == (2, 2)
    assert found[0, 1] == np.inf
    assert found[1].tolist() == [0, 0]


def test_numbers_are_one_attacker():
    common = {"lipschitz": LIPSCHITZ, "noise": 0.01}
    alone = corollary1_radius(0.9, 0.05, strengths=0.1, **common)
    assert np.ndim(alone) == 0
    assert alone == corollary1_radius(0.9, 0.05, strengths=[0.1], **common)
    bound = theorem2_kl_bound(0.1, 0.2, **common)
    assert np.ndim(bound) == 0
    assert bound == theorem2_kl_bound([0.1], [0.2], **common)
    assert theorem2_kl_bound([0.1, 0.2], 0.3, **common) == theorem2_kl_bound([0.1, 0.2], [0.3, 0.3], **common)
    assert theorem1_certified(0.9, 0.05, strengths=0.1, magnitudes=alone * 0.999, **common)
    assert not theorem1_certified(0.9, 0.05, strengths=0.1, magnitudes=alone * 1.001, **common)
    assert log_contraction(1.0, 1.0) == log_contraction([1.0], [1.0])


def test_radius_where_probabilities_round_to_one_and_zero():
    """pA = 1 - 1e-300, pB = 1e-301: only the logs know."""
    logs = -300 * np.log(10), -301 * np.log(10)
    found = corollary1_radius(1.0, 0.0, strengths=[MNIST], lipschitz=LIPSCHITZ, noise=0.01, logs=logs)
    with mpmath.workdps(700):
        not_a, p_b = mpmath.mpf(10) ** -300, mpmath.mpf(10) ** -301
        eps = -mpmath.log(1 - (mpmath.sqrt(1 - not_a) - mpmath.sqrt(p_b)) ** 2)
        exact = mpmath.sqrt(eps * mpmath.mpf(0.01) ** 2 / (2 * 17 * mpmath.mpf(MNIST) ** 2))
    assert found == pytest.approx(float(exact), rel=1e-13)
