"""Curves to axes: draws, never saves, never computes. Every function returns the Axes that it drew on."""

from crfl.plots.certified import (
    certified_accuracy,
    certified_rate,
    radius_grid,
    strength_label,
)
from crfl.plots.lines import curves, label_counts, training
from crfl.plots.style import plain, share_legend

__all__ = [
    "certified_accuracy",
    "certified_rate",
    "curves",
    "label_counts",
    "plain",
    "radius_grid",
    "share_legend",
    "strength_label",
    "training",
]
