"""Rounding of elementary operations: proved for float64, modelled for float32 (section 9 of docs/theory.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import FloatArray, Result
from crfl.record import TrainingRecord

FLOAT64_UNIT, FLOAT32_UNIT = 2.0**-53, 2.0**-24
"""u: the rounded result of an operation is off by at most this share of the exact one."""
SPECTRAL_ERROR = 2.0**-33
"""Stated relative accuracy of the spectral norms on record: that of LAPACK's eigenvalues, with room."""
RANGE = {"float64": 2.0**100, "float32": 2.0**60}
"""What norms, rates and factors may measure at most, so that nothing overflows (Lemma 19)."""


def gamma(roundings: npt.ArrayLike, unit: float = FLOAT64_UNIT) -> Result:
    """gamma_n = n u / (1 - n u): relative error of n roundings one after the other, or of a sum of n + 1 terms.

    Higham, *Accuracy and Stability of Numerical Algorithms*, Lemma 3.1; for a sum of real numbers the error is at most
    this share of the sum of their absolute values, in whatever order they are added up.

    Args:
        roundings: n, how many roundings a number goes through at most; a number or an array.
        unit: u.

    Returns:
        gamma_n of the shape of `roundings`, infinite if n u >= 1.

    Example:
        >>> bool(gamma(1) > 2.0**-53)
        True
    """
    share = np.asarray(roundings, dtype=np.float64) * unit
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(share < 1, share / (1 - share) * (1 + 4 * FLOAT64_UNIT), np.inf)[()]


@dataclass(frozen=True)
class Arithmetic:
    """The precision in which a run was trained, and what is known of its rounding."""

    unit: float
    """u"""
    proved: bool
    """Whether worst-case bounds are used; else the model of sums below."""

    @property
    def underflow(self) -> float:
        """What underflow can add in a round (Lemma 19)."""
        return 2.0**-500 if self.proved else 2.0**-100

    def sums(self, terms: npt.ArrayLike) -> Result:
        """Relative error of sums of products with so many roundings a term.

        Proved: gamma_n. Modelled: sqrt(n) u, as if the roundings of one sum were independent (Higham and Mary 2019).
        """
        return gamma(terms, self.unit) if self.proved else np.sqrt(terms) * self.unit

    def stored(self, terms: FloatArray, decays: bool) -> Result:
        """Relative error of the weights to which a sum of so many terms is added; `decays`: they are shrunk first.

        Proved: as if every term were added to the weights by itself, gamma_(n+16). Modelled: the sum is added at once,
        gamma_1, or gamma_3 with decay, which is the worst case of that.
        """
        roundings = terms + 16 if self.proved else np.full(np.shape(terms), 3.0 if decays else 1.0)
        return gamma(roundings, self.unit)

    def operations(self, count: float) -> float:
        """Relative error of so many roundings one after the other: gamma_n, a worst case in either precision."""
        return float(gamma(count, self.unit))


def arithmetic(record: TrainingRecord) -> Arithmetic:
    """The arithmetic of a run: float64, where rounding is bounded by proof, or float32, where it is modelled."""
    double = record.precision == "float64"
    return Arithmetic(FLOAT64_UNIT if double else FLOAT32_UNIT, double)
