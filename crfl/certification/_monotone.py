"""Largest argument at which a rising function stays below given levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crfl.certification._checks import FloatArray

GRID = 1024
TARGETS = (1e-5, 1e-8, 1e-11)
"""Shares of the level by which each refinement aims below it."""


def largest_below(function: Callable[[FloatArray], FloatArray], levels: FloatArray, limit: float) -> FloatArray:
    """For each level (m,) an x >= 0 with function(x) < level, as large as refinement finds: never above the true one.

    `function` maps (k,) to (k,), rising (not strictly) and constant beyond `limit` if that is finite. 0 where
    function(0) is not below the level either, inf where function(inf) is.
    """
    least, most = function(np.array([0.0, np.inf]))
    result = np.where(most < levels, np.inf, 0.0)
    open_ = (least < levels) & ~(most < levels)
    if not open_.any():
        return result
    target = levels[open_]
    grid = np.concatenate([[0.0], np.geomspace(1e-15, 1.0, GRID) * _upper(function, target.max(), limit)])
    values = np.maximum.accumulate(function(grid))
    right = np.clip(np.searchsorted(values, target, side="left"), 1, GRID)  # values[right - 1] < target
    low, high, at_low, at_high = grid[right - 1], grid[right], values[right - 1], values[right]
    for share in TARGETS:  # secants in brackets a few percent wide
        with np.errstate(invalid="ignore", divide="ignore"):
            step = (target * (1 - share) - at_low) / (at_high - at_low)
        guess = low + np.clip(np.where(np.isfinite(step), step, 0.0), 0.0, 1.0) * (high - low)
        value = function(guess)
        below = value < target
        low, at_low = np.where(below, guess, low), np.where(below, value, at_low)
        high, at_high = np.where(below, high, guess), np.where(below, at_high, value)
    result[open_] = low
    return result


def _upper(function: Callable[[FloatArray], FloatArray], level: float, limit: float) -> float:
    """An argument at which the function reaches the level."""
    if np.isfinite(limit):
        return limit
    doublings = np.ldexp(1.0, np.arange(-40, 1000, 4))
    return float(doublings[np.argmax(function(doublings) >= level)])
