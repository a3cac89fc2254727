"""Certified rate and certified accuracy as curves over the radius."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import BoolArray, Result
from crfl.errors import CertificateError


def certified_rate(radius: npt.ArrayLike, radii: npt.ArrayLike) -> Result:
    """Share of the test samples (m,) whose `radius` is at least r, for each r of `radii`. NaN for no samples."""
    ordered, levels = np.sort(_checked("radius", radius)), _checked("radii", radii)
    return (len(ordered) - np.searchsorted(ordered, levels, side="left")) / (len(ordered) or np.nan)


def certified_accuracy(
    correct: npt.ArrayLike, abstained: npt.ArrayLike, radius: npt.ArrayLike, radii: npt.ArrayLike
) -> Result:
    """Share of the test samples (m,) that are `correct`, not `abstained` from, and have a `radius` of at least r."""
    counted: BoolArray = np.asarray(correct, bool) & ~np.asarray(abstained, bool)
    return certified_rate(np.where(counted, _checked("radius", radius), -np.inf), radii)


def _checked(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if np.isnan(array).any():
        raise CertificateError(f"{name}: got nan, expected numbers")
    return array
