"""Curves to axes: draws, never saves, never computes. Every function returns the Axes that it drew on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from crfl.certification.certify import Certificate

RADIUS = "radius $r$ (l2 norm of the backdoor)"
_POINTS = 1000


def certified_accuracy(
    curves: Mapping[str, tuple[Certificate, npt.ArrayLike]], ax: Axes | None = None, **style: Any
) -> Axes:
    """Share of test samples that are correct and certified at radius r: one curve for each label."""
    ax = _axes(ax, RADIUS, "certified accuracy")
    grid = radius_grid(*(certificate.radius for certificate, _ in curves.values()))
    for label, (certificate, labels) in curves.items():
        ax.plot(grid, certificate.certified_accuracy(labels, grid), label=label, **style)
    return _finish(ax, grid)


def certified_rate(curves: Mapping[str, Certificate], ax: Axes | None = None, **style: Any) -> Axes:
    """Share of test samples certified at radius r, right or wrong: one curve for each label."""
    ax = _axes(ax, RADIUS, "certified rate")
    grid = radius_grid(*(certificate.radius for certificate in curves.values()))
    for label, certificate in curves.items():
        ax.plot(grid, certificate.certified_rate(grid), label=label, **style)
    return _finish(ax, grid)


def training(history: pd.DataFrame, attack_round: int | Sequence[int] | None = None, ax: Axes | None = None) -> Axes:
    """Accuracy and attack success rate over the rounds of one run, and the rounds of attacks."""
    ax = _axes(ax, "round", "share of test samples")
    ax.plot(history["round"], history["accuracy"], label="accuracy")
    if history["attack_success_rate"].notna().any():
        ax.plot(history["round"], history["attack_success_rate"], "--", label="attack success rate")
    rounds = [attack_round] if isinstance(attack_round, int) else attack_round or []
    for number, round_ in enumerate(rounds):
        ax.axvline(round_, color="0.6", linewidth=0.8, linestyle=":", label="_attack" if number else "attack")
    return _finish(ax, history["round"].to_numpy(dtype=float))


def curves(
    lines: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]],
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
    log: bool = False,
    top: float | None = None,
) -> Axes:
    """For each label x (k,), y (seeds, k) and a line style: the mean over seeds, and the band between the extremes.

    `top`: the largest y that the axis is to have room for, e.g. that of the picture beside; None: that of the lines.
    """
    ax = _axes(ax, xlabel, ylabel)
    for label, (x, ys, style) in lines.items():
        (line,) = ax.plot(x, ys.mean(0), style, label=label)
        if len(ys) > 1:
            ax.fill_between(x, ys.min(0), ys.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    ends = np.array([[x.min(), x.max()] for x, _, _ in lines.values()])
    if log:
        ax.set_yscale("log")
    highest = max(float(ys.max()) for _, ys, _ in lines.values()) if top is None else top
    return _finish(ax, np.array([ends.min(), ends.max()]), None if log else highest)


def radius_grid(*radii: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From 0 to just beyond the largest finite radius (or to 1), fine enough to show the steps."""
    largest = max((float(np.max(r, where=np.isfinite(r), initial=0.0)) for r in radii), default=0.0)
    return np.linspace(0.0, 1.05 * largest or 1.0, _POINTS)


def label_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many samples of each label (columns) every client (rows) holds, as stacked bars."""
    ax = _axes(ax, "client", "samples")
    bottom = np.zeros(len(counts))
    colours = _colours(counts.shape[1])
    for label, colour in zip(counts.columns, colours, strict=True):
        ax.bar(range(len(counts)), counts[label], bottom=bottom, width=0.9, color=colour, label=str(label))
        bottom += counts[label].to_numpy(dtype=float)
    names = counts.index.astype(str)
    if len(names) <= 60 and names.str.len().max() <= 3:
        turned: dict[str, Any] = {"rotation": 90, "fontsize": "x-small"} if len(names) > 20 else {"fontsize": "small"}
        ax.set_xticks(range(len(names)), names, **turned)
    else:
        ax.locator_params(axis="x", integer=True)
    ax.set_xlim(-0.6, len(counts) - 0.4)
    if counts.columns.astype(str).str.len().max() > 12:  # long names go below
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2}
    else:
        place = {"loc": "upper left", "bbox_to_anchor": (1, 1), "ncols": 1 if len(counts.columns) <= 12 else 3}
    ax.legend(frameon=False, title="label", fontsize="x-small", **place)
    return ax


def _colours(count: int) -> Any:
    from matplotlib import colormaps

    return colormaps["tab10"](range(count)) if count <= 10 else colormaps["turbo"](np.linspace(0.05, 0.95, count))


def _axes(ax: Axes | None, x: str, y: str) -> Axes:
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.subplots(figsize=(5.0, 3.5), layout="constrained")[1]
    ax.set(xlabel=x, ylabel=y)
    return ax


def _finish(ax: Axes, x: npt.NDArray[np.float64], top: float | None = 1.0) -> Axes:
    """Limits, grid and legend; `top` is the largest y of an axis from 0, shares being given all the room to 1."""
    ax.set_xlim(float(x[0]), float(x[-1]) if x[-1] > x[0] else float(x[0]) + 1)
    ax.locator_params(axis="x", nbins=6)
    if top is not None:
        high = 1.02 if 0.5 < top <= 1 or top == 0 else 1.15 * top
        ax.set_ylim(-0.02 * high, high)  # a curve at 0 is not to vanish under the axis
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small", framealpha=0.5, edgecolor="none")
    return ax
