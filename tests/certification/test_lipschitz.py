"""Lemma 1 and the sharp constant: values, sharpness, and that no gradient moves faster."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crfl.certification import lemma1_lipschitz, sharp_lipschitz
from crfl.errors import CertificateError


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def gradient(w, b, x, y):
    """(p - e_y) x~^T, the gradient of the cross entropy in (W, b)."""
    p = softmax(w @ x + b)
    p[y] -= 1
    return np.outer(p, np.append(x, 1.0))


def change(c, p, u, y=0):
    """||(p - e_y) + c J u||: how fast the gradient changes along the worst direction of the input, for ||u|| = 1."""
    residual = p.copy()
    residual[y] -= 1
    return np.linalg.norm(residual + c * (p * u - p * (p @ u)))


def test_values():
    np.testing.assert_allclose(
        sharp_lipschitz([1, 3, 10], 1.0), [1.4571067811865475, 2.290440114519881, 5.732106781186548]
    )
    np.testing.assert_allclose(sharp_lipschitz(3.0, [0.5, 0.1]), [1.5 / 2 + np.sqrt(0.5) + 1 / 6, np.sqrt(2)])
    np.testing.assert_allclose(lemma1_lipschitz([0.0, 3.0]), [np.sqrt(2), np.sqrt(17)])


def test_edges():
    assert sharp_lipschitz(0.0, 5.0) == pytest.approx(np.sqrt(2), rel=1e-15)
    assert sharp_lipschitz(np.sqrt(0.5), 1.0) == pytest.approx(np.sqrt(2), rel=1e-15)
    assert np.isinf(sharp_lipschitz(np.inf, 1.0))
    assert np.isinf(sharp_lipschitz(np.inf, 0.0))  # nothing is known of the product: the safe side
    assert np.isinf(lemma1_lipschitz(np.inf))
    for wrong in (-1.0, np.nan):
        with pytest.raises(CertificateError, match="rho"):
            lemma1_lipschitz(wrong)
        with pytest.raises(CertificateError, match="spectral_norm"):
            sharp_lipschitz(wrong, 1.0)
        with pytest.raises(CertificateError, match="feature_norm"):
            sharp_lipschitz(1.0, [1.0, wrong])


@pytest.mark.parametrize("c", [0.3, 0.8, 1.0, 3.0, 10.0, 50.0])
def test_reached_with_two_classes(c):
    q = min(1.0, 0.5 + np.sqrt(2) / (4 * c))
    reached = change(c, np.array([1 - q, q]), np.array([-1.0, 1.0]) / np.sqrt(2))
    assert reached == pytest.approx(float(sharp_lipschitz(c, 1.0)), rel=1e-12)


def test_never_exceeded_by_search():
    """Hill climbing over class probabilities and directions, from many starts and up to six classes."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(150):
        classes, c = int(rng.integers(2, 7)), 10 ** rng.uniform(-0.5, 1.5)
        z, u = rng.normal(size=classes) * 3, rng.normal(size=classes)
        best, step = change(c, softmax(z), u / np.linalg.norm(u)), 1.0
        for _ in range(300):
            new_z, new_u = z + step * rng.normal(size=classes), u + step * rng.normal(size=classes)
            value = change(c, softmax(new_z), new_u / np.linalg.norm(new_u))
            if value > best:
                best, z, u = value, new_z, new_u
            else:
                step = max(step * 0.97, 1e-3)
        assert best <= sharp_lipschitz(c, 1.0) * (1 + 1e-12)
        found.append(best / sharp_lipschitz(c, 1.0))
    assert max(found) > 0.999  # the search is not blind
    assert np.median(found) > 0.9


@given(st.integers(0, 10**6))
def test_gradients_of_real_models_move_no_faster(seed):
    rng = np.random.default_rng(seed)
    classes, d = int(rng.integers(2, 6)), int(rng.integers(1, 8))
    w, b = rng.normal(size=(classes, d)) * 10 ** rng.uniform(-1, 1), rng.normal(size=classes)
    x = rng.normal(size=d) * 10 ** rng.uniform(-1, 1)
    other = x + rng.normal(size=d) * 10 ** rng.uniform(-3, 0.5)
    y, label = rng.integers(classes, size=2)
    bound = max(np.linalg.norm(np.append(v, 1.0)) for v in (x, other))
    moved = np.linalg.norm(other - x)
    constant = sharp_lipschitz(np.linalg.norm(w, 2), bound)
    assert np.linalg.norm(gradient(w, b, other, y) - gradient(w, b, x, y)) <= constant * moved * (1 + 1e-9) + 1e-12
    least = min(np.linalg.norm(np.append(v, 1.0)) for v in (x, other))
    flipped = np.linalg.norm(gradient(w, b, other, label) - gradient(w, b, x, y))
    assert flipped <= constant * moved + np.sqrt(2) * least + 1e-9 * (1 + flipped)


def ratio(w, x, other):
    """How fast the gradient of a model without bias changes between two inputs."""
    b = np.zeros(len(w))
    return np.linalg.norm(gradient(w, b, other, 0) - gradient(w, b, x, 0)) / np.linalg.norm(other - x)


def test_lemma1_holds_in_the_unit_ball_and_fails_for_raw_images():
    """Two classes near a tie, an input whose length lies across the direction that matters."""
    w = 3.0 * np.outer([-1.0, 1.0], [1.0, 0.0]) / np.sqrt(2)  # ||w|| = 3
    assert ratio(w, np.array([0.0, 17.2]), np.array([1e-5, 17.2])) > 24
    assert lemma1_lipschitz(3.0) < 4.13
    for length in (0.0, 0.5, 1.0):
        for start in np.linspace(-1, 1, 21):
            x = np.array([start, length]) / max(1.0, np.hypot(start, length))
            assert ratio(w, x, x + np.array([1e-5, 0.0])) <= lemma1_lipschitz(3.0)
