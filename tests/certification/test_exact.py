"""Exact class probabilities against 40-digit arithmetic, sampling and closed forms."""

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from crfl.certification import exact_bounds
from crfl.errors import CertificateError


def reference(gaps):
    """1 - p_A and p_B at 50 digits. The trapezoid rule on a fine grid is exact far beyond 40 of them."""
    with mpmath.workdps(50):
        d = [mpmath.mpf(float(g)) for g in gaps]
        h = mpmath.mpf(1) / 12
        nodes = [-d[0] / 2 + h * k for k in range(-14 * 12, 14 * 12 + 1)]
        lost, won = mpmath.mpf(0), mpmath.mpf(0)
        for z in nodes:
            above = mpmath.mpf(0)
            for gap in d:  # 1 - prod (1 - t_j) without cancellation
                tail = mpmath.ncdf(-(z + gap))
                above += tail * (1 - above)
            lost += mpmath.npdf(z) * above
            won += mpmath.npdf(z + d[0]) * mpmath.ncdf(z) * mpmath.fprod(mpmath.ncdf(z + gap) for gap in d[1:])
        return h * lost, h * won


CASES = [
    [0.3],
    [11.0],
    [23.999],
    [24.001],
    [52.4],
    [0.01, 0.02, 3.0],
    [1.0, 1.0, 1.0, 1.0],
    [0.1, 0.5, 1, 2, 4, 8, 16, 20, 30],
    [6, 6, 7, 7, 9],
    [23.5, 23.6, 24, 30, 50],
    [24.5, 24.5, 24.5, 26],
    [51, 51.1, 52, 70],
    [2.0] * 9,
    list(np.linspace(1, 12, 46)),
]


@pytest.mark.parametrize("gaps", CASES, ids=lambda g: f"{len(g)}x{g[0]:g}")
def test_against_mpmath(gaps):
    not_a, p_b = reference(gaps)
    found = exact_bounds([[1.5, *(1.5 - 0.25 * g for g in gaps)]], 0.25)
    gap_error = 1.5 / 0.25 * 2**-52 * (1 + gaps[0])  # the logits themselves are rounded
    tolerance = 1e-12 + gap_error
    with mpmath.workdps(40):
        assert abs(mpmath.exp(float(found.log_not_p_a[0])) / not_a - 1) < tolerance
        assert abs(mpmath.exp(float(found.log_p_b[0])) / p_b - 1) < tolerance
        assert abs(float(found.p_b[0]) / p_b - 1) < tolerance
        assert abs(float(found.p_a[0]) / (1 - not_a) - 1) < tolerance


def test_two_classes_have_a_closed_form():
    """Phi(a / sqrt(2)), down to 1e-300 and in logs beyond."""
    gaps = np.concatenate([np.linspace(0.01, 52, 400), [80.0, 1e3, 1e5, 1e150]])
    found = exact_bounds(np.stack([gaps, np.zeros_like(gaps)], axis=1), 1.0)
    np.testing.assert_allclose(found.log_p_b, special.log_ndtr(-gaps / np.sqrt(2)), rtol=1e-14)
    np.testing.assert_allclose(found.log_not_p_a, found.log_p_b, rtol=1e-14)
    np.testing.assert_allclose(found.p_b[:400], special.ndtr(-gaps[:400] / np.sqrt(2)), rtol=1e-12)
    assert found.p_a[-1] == 1
    assert not found.abstained.any()


@pytest.mark.parametrize("classes", [2, 3, 10, 47, 300])
def test_ties_share_evenly(classes):
    found = exact_bounds(np.zeros((1, classes)), 3.0)
    assert found.p_a[0] == pytest.approx(1 / classes, rel=1e-13)
    assert found.p_b[0] == found.p_a[0]
    assert found.abstained.all()
    assert found.prediction[0] == 0


@pytest.mark.parametrize("gap", [0.5, 5.0, 15.0, 23.0, 30.0])
@pytest.mark.parametrize("classes", [3, 47, 300])
def test_equal_rivals_share_what_the_winner_leaves(gap, classes):
    logits = np.zeros((1, classes))
    logits[0, 1] = gap
    found = exact_bounds(logits, 1.0)
    assert found.prediction[0] == 1
    assert np.exp(found.log_not_p_a - found.log_p_b)[0] == pytest.approx(classes - 1, rel=1e-12)


def test_against_sampling():
    rng = np.random.default_rng(0)
    logits, stds = rng.normal(size=(20, 5)), rng.uniform(0.3, 3.0, size=20)
    found = exact_bounds(logits, stds)
    votes = (logits[:, None] + stds[:, None, None] * rng.normal(size=(20, 100_000, 5))).argmax(axis=2)
    shares = np.stack([np.bincount(v, minlength=5) for v in votes]) / 100_000
    order = np.argsort(-logits, axis=1)
    np.testing.assert_allclose(found.p_a, np.take_along_axis(shares, order[:, :1], 1)[:, 0], atol=0.007)
    np.testing.assert_allclose(found.p_b, np.take_along_axis(shares, order[:, 1:2], 1)[:, 0], atol=0.007)


def test_without_noise():
    found = exact_bounds([[1.0, 2.0, 0.0], [5.0, 5.0, 1.0], [0.0, 0.0, 0.0]], [0.0, 0.0, 0.0])
    np.testing.assert_allclose(found.p_a, [1, 0.5, 1 / 3], rtol=1e-14)
    np.testing.assert_allclose(found.p_b, [0, 0.5, 1 / 3], rtol=1e-14)
    assert found.prediction.tolist() == [1, 0, 0]
    assert found.abstained.tolist() == [False, True, True]
    assert found.log_p_b[0] == -np.inf


@given(st.integers(0, 10**6), st.integers(2, 12), st.floats(0.01, 100.0))
def test_bounds_are_consistent(seed, classes, std):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(7, classes)) * 10
    found = exact_bounds(logits, std)
    assert (found.p_a >= 1 / classes - 1e-12).all()
    assert (found.p_a + found.p_b <= 1 + 1e-12).all()
    assert (found.log_p_b <= found.log_not_p_a + 1e-12).all()
    assert (np.exp(found.log_not_p_a) <= (classes - 1) * np.exp(found.log_p_b) * (1 + 1e-11)).all()
    shuffled = rng.permutation(classes)
    again = exact_bounds(logits[::-1, shuffled] + 3.0, std)
    np.testing.assert_allclose(again.log_p_b[::-1], found.log_p_b, rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(shuffled[again.prediction[::-1]], found.prediction)


def test_chunks_and_order_do_not_matter():
    logits = np.random.default_rng(3).normal(size=(1000, 6)) * 5
    whole = exact_bounds(logits, 1.0)
    for rows in (slice(0, 1), slice(300, 700)):
        part = exact_bounds(logits[rows], 1.0)
        np.testing.assert_allclose(part.log_p_b, whole.log_p_b[rows], rtol=1e-13)
        np.testing.assert_allclose(part.log_not_p_a, whole.log_not_p_a[rows], rtol=1e-13)
    assert len(exact_bounds(np.zeros((0, 4)), 1.0).p_a) == 0


def test_wrong_inputs_are_named():
    with pytest.raises(CertificateError, match="logits"):
        exact_bounds([[np.nan, 1.0]], 1.0)
    with pytest.raises(CertificateError, match="shape"):
        exact_bounds([[1.0]], 1.0)
    with pytest.raises(CertificateError, match="noise_stds"):
        exact_bounds([[1.0, 2.0]], -1.0)


def test_extreme_logits_and_shapes():
    with np.errstate(all="raise"):
        bounds = exact_bounds([[1e308, -1e308], [0.0, 0.0]], [1.0, 1.0])
    assert bounds.p_a == pytest.approx([1.0, 0.5], rel=1e-14)
    with pytest.raises(CertificateError, match=r"noise_stds: got shape \(2, 1\)"):
        exact_bounds([[1.0, 0.0]] * 2, [[1.0], [1.0]])
