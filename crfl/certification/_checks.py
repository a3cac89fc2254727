"""Checks of the numbers that formulas take."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.errors import CertificateError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
Result = Any
"""A float64 number for numbers, an array (FloatArray) for arrays: NumPy's own convention."""


def nonnegative(name: str, values: npt.ArrayLike) -> FloatArray:
    """The values as float64; CertificateError unless each is 0 or more (infinity may be)."""
    array = np.asarray(values, dtype=np.float64)
    if not (array >= 0).all():
        raise CertificateError(f"{name}: got {array[~(array >= 0)].flat[0]}, expected numbers of 0 or more")
    return array


def finite(name: str, values: npt.ArrayLike) -> FloatArray:
    """The values as float64; CertificateError if one of them is infinite or not a number."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise CertificateError(f"{name}: got {array[~np.isfinite(array)].flat[0]}, expected finite numbers")
    return array


def probability(name: str, values: npt.ArrayLike) -> FloatArray:
    """The values as float64; CertificateError unless each is 0 to 1."""
    array = np.asarray(values, dtype=np.float64)
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        raise CertificateError(f"{name}: got {array[wrong].flat[0]}, expected numbers from 0 to 1")
    return array


def positive_int(name: str, value: int) -> int:
    """The value; CertificateError unless it is a whole number of 1 or more."""
    number = isinstance(value, (int, float, np.integer, np.floating))
    if not number or not 1 <= value < np.inf or value != int(value):
        raise CertificateError(f"{name}: got {value!r}, expected whole numbers of 1 or more")
    return int(value)


def error_level(alpha: float) -> float:
    """alpha; CertificateError unless it lies strictly between 0 and 1."""
    if not 0 < alpha < 1:
        raise CertificateError(f"alpha: got {alpha}, expected numbers between 0 and 1, both excluded")
    return float(alpha)


def vote_counts(name: str, values: npt.ArrayLike) -> IntArray:
    """The votes (m, C) as int64; CertificateError unless each row holds the same positive number of votes."""
    counts = np.asarray(values)
    if counts.ndim != 2 or counts.shape[1] < 2 or not np.issubdtype(counts.dtype, np.integer):
        raise CertificateError(
            f"{name}: got shape {counts.shape} of {counts.dtype}, "
            "expected whole numbers of shape (samples, classes), at least 2 classes"
        )
    totals = counts.sum(axis=1)
    if len(counts) and (counts.min() < 0 or totals[0] < 1 or (totals != totals[0]).any()):
        row = int(np.argmax((totals != totals[0]) | (totals < 1) | (counts.min(axis=1) < 0)))
        raise CertificateError(
            f"{name}: row {row} holds {counts[row].tolist()}, expected counts of 0 or more with the same positive "
            "sum in every row"
        )
    return counts.astype(np.int64, copy=False)
