"""Largest argument at which a rising function stays below given levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crfl.certification._checks import FloatArray

GRID = 1024
STEPS = 7
PRECISION, HALVINGS = 1e-9, 30
"""Share of its level by which a result may fall short of it; how often the brackets of those that do are halved."""
AIM_BELOW = 1e-10
"""Share of the level by which the search aims below it, so that it does not end on the level itself."""


def largest_below(function: Callable[[FloatArray], FloatArray], levels: FloatArray, limit: float) -> FloatArray:
    """For each level (m,) an x >= 0 with function(x) < level, as large as refinement finds: never above the true one.

    `function` maps (k,) to (k,), rising (not strictly) and constant beyond `limit` if that is finite. 0 where
    function(0) is not below the level either, inf where function(inf) is or the level is infinite.
    """
    least, most = function(np.array([0.0, np.inf]))
    always = (most < levels) | np.isposinf(levels)
    result = np.where(always, np.inf, 0.0)
    open_ = (least < levels) & ~always
    if not open_.any():
        return result
    target = levels[open_]
    grid = np.concatenate([[0.0], np.geomspace(1e-15, 1.0, GRID) * _upper(function, target.max(), limit)])
    values = np.maximum.accumulate(function(grid))
    right = np.clip(np.searchsorted(values, target, side="left"), 1, GRID)
    low, high = grid[right - 1], grid[right]  # brackets a few percent wide: below the level, and not
    aim = target * (1 - AIM_BELOW)
    under, over = np.maximum(aim - values[right - 1], 0.0), values[right] - aim
    side = np.zeros(len(target))
    for _ in range(STEPS):  # false position; the residual of a side that stays is halved (Illinois)
        with np.errstate(invalid="ignore"):
            guess = low + np.nan_to_num(under / (under + over), nan=0.5) * (high - low)
        value = function(guess)
        below = value < target
        over = np.where(below, np.where(side < 0, over / 2, over), value - aim)
        under = np.where(below, np.maximum(aim - value, 0.0), np.where(side > 0, under / 2, under))
        low, high, side = np.where(below, guess, low), np.where(below, high, guess), np.where(below, -1.0, 1.0)
    wide = function(low) < target * (1 - PRECISION)  # where the function bends, false position is slow
    for _ in range(HALVINGS if wide.any() else 0):
        guess = (low[wide] + high[wide]) / 2
        below = function(guess) < target[wide]
        low[wide], high[wide] = np.where(below, guess, low[wide]), np.where(below, high[wide], guess)
    result[open_] = low
    return result


def _upper(function: Callable[[FloatArray], FloatArray], level: float, limit: float) -> float:
    """An argument at which the function reaches the level."""
    if np.isfinite(limit):
        return limit
    doublings = np.ldexp(1.0, np.arange(-40, 1000, 4))
    return float(doublings[np.argmax(function(doublings) >= level)])  # some does: function(inf) does
