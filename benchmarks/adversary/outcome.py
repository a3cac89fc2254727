"""What became of one attempt to break a certificate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One attempt: how near it came, and what it broke."""

    ratio: float
    """Largest distance / Delta of all bounds that were looked at; NaN where nothing was measured."""
    violations: int
    """Bounds exceeded, certified predictions changed, falsehoods believed."""
    certified: float = np.nan
    """Share of the predictions that were certified."""
    changed: float = np.nan
    """Share of the predictions that the attack changed."""
    about: dict[str, Any] = field(default_factory=dict)
    """What was tried."""


def exceeded(actual: FloatArray, claimed: FloatArray) -> tuple[float, int]:
    """The largest ratio of distances and their bounds, and how many of them exceed theirs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(actual > 0, actual / claimed, 0.0)
    return float(ratios.max(initial=0.0)), int((actual > claimed).sum())
