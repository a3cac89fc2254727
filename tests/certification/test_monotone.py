"""The largest number that a rising function still keeps below a limit."""

import math

import numpy as np
import pytest

from crfl.certification._monotone import largest_below


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
