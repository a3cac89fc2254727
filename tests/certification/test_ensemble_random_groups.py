"""Random groups: every way to spoil small ones, fractions, the level by simulation, and the papers' rounding."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from crfl.certification.ensembles.random_groups import max_malicious, random_group_bounds, spoiled_share
from crfl.errors import CertificateError


def exact_spoiled(m, clients, size):
    return 1 - Fraction(math.comb(clients - m, size), math.comb(clients, size))


def exact_max(p_a, p_b, clients, size, rounded=False):
    """The largest m of the theorem, in fractions; -1 if there is none. `rounded`: as the papers print it."""
    total, p_a, p_b = math.comb(clients, size), Fraction(p_a), Fraction(p_b)
    gap = Fraction(math.floor(p_a * total) - math.ceil(p_b * total), total) if rounded else p_a - p_b
    m = -1
    while m < clients - size and gap > 2 * exact_spoiled(m + 1, clients, size):
        m += 1
    return m


@pytest.mark.parametrize(("clients", "size"), [(1, 1), (5, 1), (7, 3), (7, 7), (1000, 2), (1000, 500), (10_000, 10)])
def test_spoiled_share_is_exact(clients, size):
    m = np.unique(np.geomspace(1, clients + 1, 20).astype(int) - 1)
    exact = [float(exact_spoiled(int(i), clients, size)) for i in m]
    np.testing.assert_allclose(spoiled_share(m, clients=clients, clients_per_group=size), exact, rtol=1e-13)


def test_max_malicious_against_fractions():
    rng = np.random.default_rng(0)
    for clients, size in ((6, 2), (40, 5), (1000, 5), (1000, 30), (300, 300)):
        p_a = rng.random(40) ** 0.3
        p_b = (1 - p_a) * rng.random(40)
        found = max_malicious(p_a, p_b, clients=clients, clients_per_group=size)
        assert found.tolist() == [max(exact_max(a, b, clients, size), 0) for a, b in zip(p_a, p_b, strict=True)]


def test_the_papers_rounding_never_certifies_more():
    rng = np.random.default_rng(1)
    differ = 0
    for clients, size in ((6, 3), (9, 2), (60, 4)):
        p_a = 0.6 + 0.4 * rng.random(60)
        for a, b in zip(p_a, (1 - p_a) * rng.random(60), strict=True):
            found = int(max_malicious(a, b, clients=clients, clients_per_group=size))
            printed = max(exact_max(a, b, clients, size, rounded=True), 0)
            assert printed <= found
            differ += printed < found
    assert differ


@pytest.mark.parametrize(("clients", "size"), [(4, 1), (5, 2), (6, 2), (8, 2), (7, 3)])
def test_no_malicious_clients_overturn_the_vote_of_all_groups(clients, size):
    """All sets of m clients, their groups' votes turned to the class that gains most; the shares are known exactly."""
    rng = np.random.default_rng([clients, size])
    groups = [set(g) for g in itertools.combinations(range(clients), size)]
    certified = 0
    for _ in range(150):
        votes = rng.choice(3, len(groups), p=rng.dirichlet([0.3, 0.3, 0.3]))
        shares = np.bincount(votes, minlength=3) / len(groups)
        a = int(shares.argmax())
        m = int(max_malicious(shares[a], np.delete(shares, a).max(), clients=clients, clients_per_group=size))
        certified += m > 0
        for bad, b in itertools.product(itertools.combinations(range(clients), m), {0, 1, 2} - {a}):
            spoiled = [b if g & set(bad) else v for g, v in zip(groups, votes, strict=True)]
            assert np.bincount(spoiled, minlength=3).argmax() == a or m == 0
    assert certified


@pytest.mark.parametrize(("clients", "size"), [(6, 2), (7, 3), (8, 1)])
def test_tight_for_the_shares_alone(clients, size):
    """For shares at which m + 1 clients are not certified, some votes with these shares are overturned by them."""
    groups = [set(g) for g in itertools.combinations(range(clients), size)]
    for for_a in range(len(groups) // 2 + 1, len(groups) + 1):
        shares = for_a / len(groups), 1 - for_a / len(groups)
        m = int(max_malicious(*shares, clients=clients, clients_per_group=size)) + 1
        bad = set(range(m))
        order = sorted(range(len(groups)), key=lambda g: not groups[g] & bad)  # spoiled groups voted for A (class 1)
        votes = np.zeros(len(groups), dtype=int)
        votes[order[:for_a]] = 1
        votes[[g for g in order if groups[g] & bad]] = 0
        assert np.bincount(votes, minlength=2).argmax() == 0


def test_bounds_invert_the_binomial():
    counts = np.array([[180, 12, 8], [3, 190, 7], [200, 0, 0]])
    bounds = random_group_bounds(counts, 0.01)
    assert bounds.prediction.tolist() == [0, 1, 0]
    for row, lower in zip(counts, bounds.p_a, strict=True):
        assert stats.binom.sf(row.max() - 1, 200, lower) == pytest.approx(0.01 / 6, rel=1e-9)
    for second, upper, lower in zip((12, 7, 0), bounds.p_b, bounds.p_a, strict=True):
        largest = stats.binom.cdf(second, 200, upper)
        assert largest == pytest.approx(0.01 / 4, rel=1e-9) or (upper == 1 - lower and largest > 0.01 / 4)
    two = random_group_bounds([[150, 50]], 0.01)
    assert stats.binom.sf(149, 200, two.p_a[0]) == pytest.approx(0.01 / 2, rel=1e-9)
    assert two.p_b == 1 - two.p_a


def test_simultaneous_spends_alpha_on_all_samples():
    counts = np.array([[190, 10]] * 50)
    together, alone = random_group_bounds(counts, 0.05, simultaneous=True), random_group_bounds(counts[:1], 0.001)
    assert together.p_a[0] == alone.p_a[0] < random_group_bounds(counts, 0.05).p_a[0]
    assert together.simultaneous
    assert together.alpha == 0.05 / 50


@pytest.mark.parametrize("shares", [(0.36, 0.34, 0.3), (0.6, 0.2, 0.2), (0.9, 0.05, 0.05), (0.52, 0.48, 0)])
@pytest.mark.parametrize("drawn", [10, 100])
def test_level_by_simulation(shares, drawn):
    """A world in which every group of 4 of 30 clients has its vote: draws that certify too much are at most alpha."""
    clients, size, alpha, trials = 30, 4, 0.2, 4000
    rng = np.random.default_rng(drawn)
    total = math.comb(clients, size)
    votes = rng.choice(3, total, p=shares)
    truth = np.bincount(votes, minlength=3) / total
    best = int(truth.argmax())
    limit = exact_max(truth[best], np.delete(truth, best).max(), clients, size)
    samples = votes[rng.integers(0, total, (trials, drawn))]
    bounds = random_group_bounds(np.stack([(samples == c).sum(1) for c in range(3)], axis=1), alpha)
    found = max_malicious(bounds.p_a, bounds.p_b, clients=clients, clients_per_group=size)
    wrong = ~bounds.abstained & ((bounds.prediction != best) | (found > limit))
    assert wrong.mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_limits_and_monotony():
    assert max_malicious(1.0, 0.0, clients=10, clients_per_group=10) == 0
    assert max_malicious(1.0, 0.0, clients=10, clients_per_group=1) == 4  # as many disjoint groups of one client
    found = [max_malicious(0.95, 0.02, clients=1000, clients_per_group=k) for k in range(1, 1001)]
    assert (np.diff(found) <= 0).all()
    rising = max_malicious(np.linspace(0, 1, 500), np.linspace(1, 0, 500), clients=500, clients_per_group=7)
    assert (np.diff(rising) >= 0).all()
    assert rising[:250].max() == 0
    empty = random_group_bounds(np.zeros((0, 3), dtype=int), 0.01)
    assert max_malicious(empty.p_a, empty.p_b, clients=5, clients_per_group=2).shape == (0,)


def test_wrong_arguments_are_errors():
    with pytest.raises(CertificateError, match="clients_per_group"):
        max_malicious(0.9, 0.1, clients=5, clients_per_group=6)
    with pytest.raises(CertificateError, match="p_a"):
        max_malicious(1.1, 0.1, clients=5, clients_per_group=2)
    with pytest.raises(CertificateError, match="malicious"):
        spoiled_share([6], clients=5, clients_per_group=2)
    with pytest.raises(CertificateError, match="alpha"):
        random_group_bounds([[3, 1]], 0)
    with pytest.raises(CertificateError, match="alpha"):
        random_group_bounds([[3, 1]] * 1000, 1e-199, simultaneous=True)
