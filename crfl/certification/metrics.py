"""Certified rate and certified accuracy as curves over the strength of the attack."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import BoolArray, Result
from crfl.errors import CertificateError


def certified_rate(radius: npt.ArrayLike, radii: npt.ArrayLike) -> Result:
    """Share of the test samples whose radius is at least r, for each r.

    Args:
        radius: Largest certified strength of each sample, (m,): a norm, or a number of clients.
        radii: r, a number or an array; inf asks for the samples that are certified at any strength.

    Returns:
        Of the shape of `radii`.

    Raises:
        CertificateError: no samples, or NaN.

    Example:
        >>> certified_rate([0.0, 0.5, 2.0, np.inf], [0.0, 1.0, np.inf])
        array([1.  , 0.5 , 0.25])
    """
    ordered, levels = np.sort(_checked("radius", radius)), _checked("radii", radii)
    if not len(ordered):
        raise CertificateError("radius: got no samples, expected at least one: there is no share of none")
    return (len(ordered) - np.searchsorted(ordered, levels, side="left")) / len(ordered)


def certified_accuracy(
    correct: npt.ArrayLike, abstained: npt.ArrayLike, radius: npt.ArrayLike, radii: npt.ArrayLike
) -> Result:
    """Share of the test samples that are correct, not abstained from, and have a radius of at least r, for each r.

    Args:
        correct: Whether each prediction is right, (m,).
        abstained: Where nothing is certified, (m,).
        radius: As for `certified_rate`.
        radii: As for `certified_rate`.

    Returns:
        Of the shape of `radii`.

    Raises:
        CertificateError: no samples, or NaN.

    Example:
        >>> certified_accuracy([True, True, False], [False, True, False], [0.5, 0.0, 2.0], [0.0, 0.4]).round(2)
        array([0.33, 0.33])
    """
    counted: BoolArray = np.asarray(correct, bool) & ~np.asarray(abstained, bool)
    return certified_rate(np.where(counted, _checked("radius", radius), -np.inf), radii)


def _checked(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise CertificateError(f"{name}: got nan, expected numbers")
    return array
