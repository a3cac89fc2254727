"""What the projection on a ball leaves of a distance (Lemma 7 of docs/theory.md)."""

from __future__ import annotations

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.arithmetic import FLOAT64_UNIT


def clipped_distance(distance: FloatArray, norm: float, clip_norm: float) -> FloatArray:
    """Largest distance of two models after the projection on the ball of radius rho, if it was D before (Lemma 7).

    With n >= rho the norm of one of the models before: the chord of the angle whose sine is D / n, or, where the other
    model may lie inside the ball, sqrt(rho / n (D^2 - (n - rho)^2)); at most D and 2 rho. Best possible. Rises with D,
    falls with n. Rounded up.

    Args:
        distance: D (k,).
        norm: n; D is returned where it is at most rho.
        clip_norm: rho.

    Returns:
        (k,), at most D.

    Example:
        >>> clipped_distance(np.array([0.1]), norm=2.0, clip_norm=1.0).round(6)
        array([0.050016])
    """
    rho, n = clip_norm, norm * (1 - 8 * FLOAT64_UNIT)
    if n <= rho:
        return distance
    reached = np.minimum(distance * (1 + 8 * FLOAT64_UNIT), (n + rho) * (1 + 4 * FLOAT64_UNIT))  # beyond, nothing grows
    sine = np.minimum(reached / n, 1.0)
    chord = rho * sine * np.sqrt(2 / (1 + np.sqrt(1 - sine**2)))
    inside = np.sqrt(rho / n * np.maximum((reached - (n - rho)) * (reached + (n - rho)), 0.0))
    tangent = (n - rho) * (n + rho) * (1 + 16 * FLOAT64_UNIT)  # at most so far, the chord is the larger of the two
    found = np.where(reached**2 <= tangent, np.maximum(chord, inside), inside) * (1 + 16 * FLOAT64_UNIT)
    return np.minimum(distance, np.minimum(found, 2 * rho))


def clip_factor(distance: FloatArray, norm: float, clip_norm: float) -> FloatArray:
    """The largest share of any distance up to D (k,) that the projection leaves: `clipped_distance` is at most this
    times the distance (Lemma 16)."""
    if norm <= clip_norm:
        return np.ones_like(distance)
    reached = np.minimum(distance, norm + clip_norm)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = clipped_distance(reached, norm, clip_norm) / reached * (1 + 4 * FLOAT64_UNIT)
    return np.minimum(np.where(reached > 0, share, clip_norm / norm), 1.0)
