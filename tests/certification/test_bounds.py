"""Hoeffding as printed; Clopper-Pearson against the binomial law, its coverage, and the smallest M."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crfl.certification import clopper_pearson, hoeffding, min_samples, smoothing_budget
from crfl.errors import CertificateError


def test_hoeffding_as_printed():
    bounds = hoeffding([[10, 70, 20], [50, 50, 0], [100, 0, 0]], 0.01)
    h = math.sqrt(math.log(100) / 200)
    np.testing.assert_allclose(bounds.p_a, [0.7 - h, 0.5 - h, 1 - h], rtol=1e-15)
    np.testing.assert_allclose(bounds.p_b, [0.2 + h, 0.5 + h, h], rtol=1e-15)
    assert bounds.estimate_a.tolist() == [0.7, 0.5, 1.0]
    assert bounds.estimate_b.tolist() == [0.2, 0.5, 0.0]
    assert bounds.prediction.tolist() == [1, 0, 0]
    assert bounds.abstained.tolist() == [False, True, False]
    assert (bounds.samples, bounds.alpha, bounds.classes) == (100, 0.01, 3)


def test_few_votes_abstain_and_stay_probabilities():
    bounds = hoeffding([[1, 0]], 1e-9)
    assert (bounds.p_a[0], bounds.p_b[0]) == (0, 1)
    assert bounds.abstained.all()


def test_clopper_pearson_inverts_the_binomial():
    """At the bound, the observed count or a more extreme one has exactly the probability that is spent."""
    counts = np.array([[930, 40, 20, 10], [600, 400, 0, 0], [1000, 0, 0, 0]])
    bounds = clopper_pearson(counts // 10, counts, 0.01)
    for row, lower in zip(counts, bounds.p_a, strict=True):
        assert stats.binom.sf(row[0] - 1, 1000, lower) == pytest.approx(0.005, rel=1e-9)
    # 1 - p_a is the smaller upper bound only if the others' votes gather in one class.
    upper = bounds.p_b[0]
    assert stats.binom.cdf(40, 1000, upper) == pytest.approx(0.005, rel=1e-9)
    assert upper < 1 - bounds.p_a[0]
    assert bounds.p_b[1] == 1 - bounds.p_a[1]


def test_two_classes_spend_alpha_once():
    """Both bounds are one event, A's count: L at alpha, U = 1 - L."""
    bounds = clopper_pearson([[1, 0]] * 3, [[700, 300], [1000, 0], [0, 1000]], 0.01)
    assert stats.binom.sf(699, 1000, bounds.p_a[0]) == pytest.approx(0.01, rel=1e-9)
    assert stats.binom.cdf(300, 1000, bounds.p_b[0]) == pytest.approx(0.01, rel=1e-9)
    assert bounds.p_a[1] == pytest.approx(0.01 ** (1 / 1000), rel=1e-12)
    np.testing.assert_array_equal(bounds.p_b, 1 - bounds.p_a)
    assert bounds.p_a[2] == 0


PROBABILITIES = {
    2: [(0.5, 0.5), (0.51, 0.49), (0.8, 0.2), (0.97, 0.03)],
    3: [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.5, 0.0), (0.4, 0.35, 0.25), (0.6, 0.2, 0.2), (0.9, 0.05, 0.05)],
    4: [(0.25,) * 4, (0.5, 0.3, 0.1, 0.1), (0.3, 0.3, 0.3, 0.1), (0.7, 0.1, 0.1, 0.1)],
}


@pytest.mark.parametrize("classes", PROBABILITIES)
@pytest.mark.parametrize("samples", [1, 2, 5, 12])
@pytest.mark.parametrize("alpha", [0.3, 0.05])
def test_proposition_14_by_enumeration(classes, samples, alpha):
    """Whatever class is chosen, the votes with wrong bounds have probability alpha at most, abstained or not."""
    counts = np.array([c for c in itertools.product(range(samples + 1), repeat=classes) if sum(c) == samples])
    for p, chosen in itertools.product(PROBABILITIES[classes], range(classes)):
        selection = np.zeros_like(counts)
        selection[:, chosen] = samples
        bounds = clopper_pearson(selection, counts, alpha)
        wrong = (bounds.p_a > p[chosen]) | (bounds.p_b < max(np.delete(p, chosen)))
        assert stats.multinomial.pmf(counts, samples, p)[wrong].sum() <= alpha * (1 + 1e-9)


def test_the_levels_are_used_up():
    """No slack is left in them: with a probability at the edge of a bound, it is wrong nearly as often as it may be."""
    counts = np.arange(1001)
    pairs = np.stack([counts, 1000 - counts], axis=1)
    lower = clopper_pearson(np.tile([1, 0], (1001, 1)), pairs, 0.05).p_a
    wrong = [stats.binom.pmf(counts, 1000, p)[lower > p].sum() for p in np.nextafter(lower[[300, 500, 900]], 0)]
    assert wrong == pytest.approx([0.05] * 3, rel=1e-6)


def test_clopper_pearson_lets_the_selection_choose():
    bounds = clopper_pearson([[3, 7]], [[80, 20]], 0.01)
    assert bounds.prediction.tolist() == [1]
    assert bounds.estimate_a.tolist() == [0.2]
    assert bounds.abstained.all()
    zero = clopper_pearson([[0, 1]], [[50, 0]], 0.01)
    assert zero.p_a[0] == 0
    assert zero.p_b[0] == 1


def test_simultaneous_spends_alpha_on_all_samples():
    counts = np.array([[900, 100]] * 50)
    together = clopper_pearson(counts, counts, 0.05, simultaneous=True)
    alone = clopper_pearson(counts[:1], counts[:1], 0.05 / 50)
    assert together.p_a[0] == alone.p_a[0] < clopper_pearson(counts, counts, 0.05).p_a[0]


@pytest.mark.parametrize("p", [(0.45, 0.4, 0.15), (0.6, 0.2, 0.2), (0.97, 0.02, 0.01)])
@pytest.mark.parametrize("samples", [30, 200])
def test_coverage_by_simulation(p, samples):
    """Wrong bounds come up with probability alpha at most, abstained or not."""
    rng = np.random.default_rng(samples)
    alpha, trials = 0.1, 6000
    bounds = clopper_pearson(rng.multinomial(20, p, trials), rng.multinomial(samples, p, trials), alpha)
    p_a = np.array(p)[bounds.prediction]
    p_b = np.array([max(np.delete(p, a)) for a in range(3)])[bounds.prediction]
    wrong = (bounds.p_a > p_a) | (bounds.p_b < p_b)
    assert wrong.mean() <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / trials)


def test_widths_of_unanimous_votes():
    """In units of sigma, 1000 unanimous votes: 1.565 by Hoeffding, 2.429 by Clopper-Pearson (alpha / 2 a side)."""
    counts = np.array([[1000, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    found = [
        smoothing_budget(b.p_a, b.p_b, noise=1.0)[0]
        for b in (hoeffding(counts, 0.001), clopper_pearson(counts, counts, 0.001))
    ]
    assert found == pytest.approx([1.565, 2.429], abs=2e-3)


@pytest.mark.parametrize("alpha", [0.2, 0.01, 1e-3, 1e-7])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("method", ["hoeffding", "clopper_pearson"])
def test_min_samples_is_the_least(method, alpha, classes):
    least = min_samples(method, alpha, classes)

    def abstains(samples):
        counts = np.zeros((1, classes), dtype=int)
        counts[0, 0] = samples
        return (
            hoeffding(counts, alpha) if method == "hoeffding" else clopper_pearson(counts, counts, alpha)
        ).abstained[0]

    assert not abstains(least)
    assert least == 1 or abstains(least - 1)


@given(st.integers(1, 500), st.integers(0, 500), st.floats(1e-6, 0.5))
def test_bounds_are_ordered_and_rise_with_the_votes(samples, won, alpha):
    won = min(won, samples)
    counts = np.array([[won, samples - won], [max(won - 1, 0), samples - max(won - 1, 0)]])
    first = np.array([[1, 0], [1, 0]])
    bounds = clopper_pearson(first, counts, alpha)
    assert (bounds.p_a <= bounds.estimate_a + 1e-12).all()
    assert (bounds.p_b >= bounds.estimate_b - 1e-12).all()
    assert bounds.p_a[0] >= bounds.p_a[1]
    assert bounds.p_b[0] <= bounds.p_b[1]


def test_results_are_short_and_compared_by_content():
    counts = np.array([[900, 100]] * 5000)
    bounds, same, other = (hoeffding(counts, alpha) for alpha in (0.01, 0.01, 0.02))
    assert bounds == same
    assert bounds != other
    assert bounds != "bounds"
    assert len(repr(bounds)) < 400
    assert list(bounds.to_frame().columns) == ["prediction", "p_a", "p_b", "estimate_a", "estimate_b", "abstained"]


def test_wrong_inputs_are_named():
    with pytest.raises(CertificateError, match="row 1 holds"):
        hoeffding([[5, 5], [5, 4]], 0.1)
    with pytest.raises(CertificateError, match="row 0 holds"):
        hoeffding([[6, -1]], 0.1)
    with pytest.raises(CertificateError, match="shape"):
        hoeffding([[5.0, 5.0]], 0.1)
    with pytest.raises(CertificateError, match="alpha"):
        hoeffding([[5, 5]], float("nan"))
    with pytest.raises(CertificateError, match="selection_counts"):
        clopper_pearson([[5, 5, 0]], [[5, 5]], 0.1)
    with pytest.raises(CertificateError, match="method: got 'exact', expected"):
        min_samples("exact", 0.1)


def test_levels_too_small_for_the_quantiles_are_refused():
    counts = np.array([[964, 36]])
    with pytest.raises(CertificateError, match="alpha: got 1e-300"):
        clopper_pearson(counts, counts, 1e-300)
    assert 0 < clopper_pearson(counts, counts, 1e-199).p_a[0] < 0.964
