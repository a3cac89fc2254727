"""How curves, bars, axes and legends look.

Curves differ in colour, line style and marker, so that they can be told apart in print and by the colour-blind, and
where they overlap. Legends stand below the axes, never over a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colour-blind safe palette, without its yellow, which is hard to see on white."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = (
    "-",
    (0, (5, 2)),
    (0, (6, 1.5, 1.5, 1.5)),
    (0, (1.5, 1.5)),
    (0, (8, 2)),
    (0, (6, 1.5, 1, 1.5, 1, 1.5)),
    (0, (3, 1)),
)
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---", "+++")


def look(i: int) -> dict[str, Any]:
    """Colour, line style and marker of curve number i, as arguments of `Axes.plot`."""
    n = len(COLOURS)
    return {
        "color": COLOURS[i % n],
        "linestyle": DASHES[(i + i // n) % n],
        "marker": MARKERS[(i + 2 * (i // n)) % n],
        "markevery": (0.04 + 0.025 * (i % n), 0.18),  # shares of the axes' diagonal: markers do not fall on each other
        "markersize": 5,
        "markerfacecolor": "white",
        "linewidth": 1.6,
    }


def fill(i: int) -> dict[str, Any]:
    """Colour and hatching of bar number i."""
    n = len(COLOURS)
    return {
        "facecolor": COLOURS[i % n],
        "hatch": HATCHES[i // n % len(HATCHES)],
        "edgecolor": "white",
        "linewidth": 0.3,
    }


def plain(text: str) -> str:
    r"""A text so that matplotlib shows it as it is, dollar signs included.

    Args:
        text: Such as the name of a class.

    Returns:
        The text for matplotlib.

    Example:
        >>> print(plain("under 100 $"))
        under 100 \$
    """
    return text.replace("$", "\\$")


def new_axes(ax: Axes | None, x: str, y: str) -> Axes:
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(5.4, 4.0), layout="constrained")[1]
    ax.set(xlabel=x, ylabel=y)
    return ax


def finish(ax: Axes, x: FloatArray, top: float | None = 1.0) -> Axes:
    """Limits, grid and legend; `top` is the largest y of an axis from 0, shares being given all the room to 1."""
    ax.set_xlim(float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1)
    ax.locator_params(axis="x", nbins=6)
    if top is not None:
        high = 1.02 if 0.5 < top <= 1 or top == 0 else 1.15 * top
        ax.set_ylim(-0.02 * high, high)  # a curve at 0 is not to vanish under the axis
    ax.grid(alpha=0.3)
    legend_below(ax)
    return ax


def legend_below(ax: Axes) -> None:
    """A legend under the label of the x axis, in as many columns as fit."""
    labels = ax.get_legend_handles_labels()[1]
    if labels:
        columns = legend_columns(labels, 70)
        ax.legend(
            fontsize="small",
            frameon=False,
            loc="upper center",
            bbox_to_anchor=(0.5, 0),
            borderaxespad=4.4,
            ncols=columns,
        )


def share_legend(figure: Figure) -> None:
    """One legend below all axes, if the same curves are in each of them.

    Args:
        figure: One with a constrained layout. The legends of its axes are removed.

    Example:
        >>> from matplotlib import pyplot
        >>> figure, axes = pyplot.subplots(1, 2, layout="constrained")
        >>> lines = [ax.plot([0, 1], label="margin") for ax in axes]
        >>> share_legend(figure)
        >>> len(figure.legends)
        1
    """
    found = [ax.get_legend_handles_labels() for ax in figure.axes]
    handles, labels = max(found, key=lambda pair: len(pair[1]))
    if len(found) > 1 and all(set(other) <= set(labels) for _, other in found):
        for ax in figure.axes:
            legend = ax.get_legend()
            if legend is not None:
                legend.remove()
        columns = legend_columns(labels, 66 * len(found))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize="small", frameon=False)


def legend_columns(labels: Sequence[str], characters: int) -> int:
    """How many columns of a legend fit into a width of so many characters."""
    return max(1, min(len(labels), characters // (max(map(len, labels)) + 8)))


def mark_endless(ax: Axes, heights: Sequence[float]) -> None:
    """Triangles at the right edge where a curve never falls to 0, and what they mean."""
    if any(height > 0 for height in heights):
        for i, height in enumerate(heights):
            if height > 0:
                at: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "clip_on": False, "zorder": 3}
                ax.scatter([1.0], [height], marker=">", s=28, color=look(i)["color"], **at)
        about: dict[str, Any] = {"rotation": 90, "va": "center", "ha": "left", "fontsize": "small", "color": "0.3"}
        ax.text(1.02, 0.5, "triangles: certified for any $r$", transform=ax.transAxes, **about)
