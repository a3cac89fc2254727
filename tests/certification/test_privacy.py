"""Privacy's certificate: closed forms, group privacy, and mechanisms whose expectations are known."""

import mpmath
import numpy as np
import pytest
from scipy import stats

from crfl.certification.privacy import gaussian_delta, gaussian_users, private_users
from crfl.errors import CertificateError

EPSILONS = np.geomspace(1e-3, 20, 200)


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 0.1, 1.0, 5.0])
def test_delta_is_right_and_rounded_up(mu, epsilon):
    with mpmath.workdps(60):
        eps, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        exact = mpmath.ncdf(-eps / m + m / 2) - mpmath.exp(eps) * mpmath.ncdf(-eps / m - m / 2)
        found = gaussian_delta(mu, epsilon)
        assert exact <= mpmath.mpf(float(found)) <= exact * (1 + mpmath.mpf(1e-6)) + mpmath.mpf(1e-300)


@pytest.mark.parametrize(("rounds", "multiplier"), [(1, 1.0), (5, 2.0), (100, 20.0)])
def test_delta_agrees_with_an_accountant(rounds, multiplier):
    """dp-accounting's privacy loss distributions of so many rounds, if it is installed."""
    pytest.importorskip("dp_accounting")
    from dp_accounting import dp_event
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant()
    accountant.compose(dp_event.GaussianDpEvent(multiplier), rounds)
    for epsilon in (0.1, 1.0, 2.0):
        found = gaussian_delta(rounds**0.5 / multiplier, epsilon)
        assert found == pytest.approx(accountant.get_delta(epsilon), rel=1e-3)


def test_pure_privacy_is_the_ratio_of_probabilities():
    """delta = 0: k < log(F_A / F_B) / (2 eps), strictly."""
    assert private_users([0.8], [0.2], [0.1], [0.0]).tolist() == [6]  # log 4 / 0.2 = 6.93
    assert private_users([np.exp(-0.5)], [np.exp(-1.5)], [0.25], [0.0]).tolist() == [1]  # a tie at k = 2 is none


def test_randomised_response():
    """Each user's bit is kept with probability e^eps / (1 + e^eps): the certificate of one user of one bit is exact."""
    for eps in (0.2, 1.0, 2.0):
        kept = np.exp(eps) / (1 + np.exp(eps))
        assert private_users([kept], [1 - kept], [eps], [0.0]).tolist() == [0]  # the other bit turns the vote
        assert private_users([kept], [1 - kept], [eps * 0.49], [0.0]).tolist() == [1]


@pytest.mark.parametrize("mu", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("margin", [0.1, 0.7, 2.0])
def test_one_gaussian_outcome(mu, margin):
    """The vote [N(margin, 1) > 0], which each user moves by mu: k users turn it as soon as k mu >= margin."""
    users = gaussian_users([stats.norm.cdf(margin)], [stats.norm.cdf(-margin)], mu)[0]
    assert stats.norm.cdf(margin - users * mu) > 0.5
    assert stats.norm.cdf(margin - (users + 1) * mu) <= 0.5 + 1e-6
    pairs = private_users(
        [stats.norm.cdf(margin)], [stats.norm.cdf(-margin)], mu * EPSILONS, gaussian_delta(mu, mu * EPSILONS)
    )
    assert pairs[0] <= users


def test_pairs_are_group_privacy_step_by_step():
    """The formula's k is what k steps of F -> e^eps F + delta and its counterpart allow."""
    random = np.random.default_rng(0)
    for _ in range(200):
        a, b = np.sort(random.random(2))[::-1]
        eps, delta = random.uniform(0.01, 0.5), random.uniform(0, 0.02)
        users = private_users([a], [b], [eps], [delta])[0]
        steps = 0
        while True:
            a, b = (a - delta) / np.exp(eps), np.exp(eps) * b + delta
            if a <= b:
                break
            steps += 1
        assert users == steps


def test_edges():
    assert private_users([1.0], [0.0], [1.0], [0.0])[0] > 10**6
    assert gaussian_users([1.0], [0.0], 1.0)[0] > 10**6
    assert gaussian_users([0.5, 0.3], [0.5, 0.4], 0.1).tolist() == [0, 0]
    assert private_users([0.5, 0.3], [0.5, 0.4], [0.1], [0.0]).tolist() == [0, 0]
    for call in (
        lambda: gaussian_delta(0.0, 1.0),
        lambda: gaussian_delta(1.0, -1.0),
        lambda: private_users([0.5], [0.1], [0.0], [0.1]),
        lambda: private_users([1.5], [0.1], [1.0], [0.1]),
        lambda: gaussian_users([0.5], [0.1], np.nan),
    ):
        with pytest.raises(CertificateError):
            call()


@pytest.mark.parametrize("epsilon", [1e-3, 1.0, 50.0, 700.0, 720.0, 5000.0])
@pytest.mark.parametrize(("a", "b", "delta"), [(0.9, 0.1, 1e-3), (0.9, 0.0, 1e-300), (0.6, 0.59, 0.1), (1.0, 0.3, 0.0)])
def test_pairs_of_any_size_beside_many_digits(epsilon, a, b, delta):
    """e^epsilon may be larger than any number in float64, and one such pair must not spoil what another one certifies."""
    with mpmath.workdps(400):
        factor = mpmath.expm1(epsilon)
        sides = [mpmath.log(mpmath.mpf(f) * factor + mpmath.mpf(delta)) for f in (a, b)]
        expected = int(mpmath.ceil((sides[0] - sides[1]) / (2 * mpmath.mpf(epsilon)))) - 1
    assert private_users([a], [b], [epsilon], [delta]).tolist() == [expected]
    assert private_users([a], [b], [epsilon, 900.0], [delta, delta])[0] >= expected
