"""Certified rate and accuracy against their definitions."""

import numpy as np
import pytest

from crfl.certification import certified_accuracy, certified_rate
from crfl.errors import CertificateError


def test_definitions():
    rng = np.random.default_rng(0)
    radius = np.round(rng.exponential(size=200), 1)
    correct, abstained = rng.random(200) < 0.7, rng.random(200) < 0.2
    radius[abstained] = 0
    radii = np.array([0.0, 0.1, 0.5, 0.55, 3.0, np.inf])
    np.testing.assert_array_equal(certified_rate(radius, radii), [(radius >= r).mean() for r in radii])
    np.testing.assert_allclose(
        certified_accuracy(correct, abstained, radius, radii),
        [(correct & ~abstained & (radius >= r)).mean() for r in radii],
        rtol=1e-15,
    )


def test_counts_are_strengths_like_radii():
    clients = np.array([0, 3, 3, 10])
    np.testing.assert_array_equal(certified_rate(clients, [0, 1, 3, 4]), [1, 0.75, 0.75, 0.25])
    np.testing.assert_array_equal(
        certified_accuracy([True, True, False, True], [True, False, False, False], clients, [0, 1, 4]), [0.5, 0.5, 0.25]
    )


def test_edges():
    assert certified_rate([1.0, np.inf], np.inf) == 0.5
    assert certified_accuracy([True], [True], [0.0], 0.0) == 0
    with pytest.raises(CertificateError, match="radius: got no samples"):
        certified_rate([], 0.0)
    with pytest.raises(CertificateError, match="radius"):
        certified_rate([np.nan], 0.0)
