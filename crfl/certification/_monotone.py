"""Largest argument at which a rising function stays below given levels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crfl.certification._checks import FloatArray

GRID = 1024
STEPS, HALVINGS = 7, 30
"""Steps of false position, and halvings of the brackets that these leave wide."""
PRECISION = 1e-8
"""Share of its level by which the function at a result may fall short of it."""
AIM_BELOW = 1e-9
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
    low, high, under, over = _brackets(function, grid, target)
    if len(target) > 2 * GRID:  # brackets as narrow as the levels are dense
        guesses = _between(low, high, under, over)
        some = np.quantile(guesses, np.linspace(0, 1, GRID))
        low, high, under, over = _brackets(function, np.unique(np.concatenate([grid, some])), target)
    aim, side = target * (1 - AIM_BELOW), np.zeros(len(target))
    wide = np.flatnonzero(target - under < target * (1 - PRECISION))
    for _ in range(STEPS):  # false position; the residual of a side that stays is halved (Illinois)
        if not len(wide):
            break
        guess = _between(low[wide], high[wide], under[wide], over[wide])
        value = function(guess)
        below = value < target[wide]
        last = side[wide]
        over[wide] = np.where(below, np.where(last < 0, over[wide] / 2, over[wide]), value - aim[wide])
        under[wide] = np.where(
            below, np.maximum(aim[wide] - value, 0.0), np.where(last > 0, under[wide] / 2, under[wide])
        )
        low[wide], high[wide] = np.where(below, guess, low[wide]), np.where(below, high[wide], guess)
        side[wide] = np.where(below, -1.0, 1.0)
        wide = wide[~(below & (value >= target[wide] * (1 - PRECISION)))]
    for _ in range(HALVINGS if len(wide) else 0):  # where the function bends, false position is slow
        guess = (low[wide] + high[wide]) / 2
        below = function(guess) < target[wide]
        low[wide], high[wide] = np.where(below, guess, low[wide]), np.where(below, high[wide], guess)
    result[open_] = low
    return result


def _brackets(
    function: Callable[[FloatArray], FloatArray], grid: FloatArray, target: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Neighbours in the grid: one with a value below each target, one not; how far below the aim, and above it."""
    values = np.maximum.accumulate(function(grid))
    right = np.clip(np.searchsorted(values, target, side="left"), 1, len(grid) - 1)
    aim = target * (1 - AIM_BELOW)
    return grid[right - 1], grid[right], np.maximum(aim - values[right - 1], 0.0), values[right] - aim


def _between(low: FloatArray, high: FloatArray, under: FloatArray, over: FloatArray) -> FloatArray:
    """Where the chord crosses the aim."""
    with np.errstate(invalid="ignore"):
        between: FloatArray = low + np.nan_to_num(under / (under + over), nan=0.5) * (high - low)
    return between


def _upper(function: Callable[[FloatArray], FloatArray], level: float, limit: float) -> float:
    """An argument at which the function reaches the level."""
    if np.isfinite(limit):
        return limit
    doublings = np.ldexp(1.0, np.arange(-40, 1000, 4))
    return float(doublings[np.argmax(function(doublings) >= level)])  # some does: function(inf) does
