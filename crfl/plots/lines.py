"""Curves over seeds, the course of a training, and who holds what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from crfl.plots.style import FloatArray, fill, finish, look, mark_endless, new_axes, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def training(history: pd.DataFrame, attack_round: int | Sequence[int] | None = None, ax: Axes | None = None) -> Axes:
    """Accuracy and attack success rate over the rounds of one run, and the rounds of attacks.

    Args:
        history: `TrainingRun.history`.
        attack_round: the attack round, or several.
        ax: where to draw; a new figure without it.

    Returns:
        The axes.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> training(crfl.train(exp, crfl.load_data(exp)).history, attack_round=2).get_xlabel()
        'round'
    """
    ax = new_axes(ax, "round", "share of test samples")
    ax.plot(history["round"], history["accuracy"], label="accuracy", **look(0))
    if history["attack_success_rate"].notna().any():
        ax.plot(history["round"], history["attack_success_rate"], label="attack success rate", **look(1))
    rounds = [attack_round] if isinstance(attack_round, int) else list(attack_round or [])
    if rounds:
        height = 1.0 if len(rounds) <= 5 else 0.04  # ticks along the axis where lines would fill it
        transform = ax.get_xaxis_transform()
        ax.vlines(rounds, 0, height, color="0.45", linewidth=1, linestyle=":", transform=transform, label="attack")
    return finish(ax, history["round"].to_numpy(dtype=float))


def curves(
    lines: Mapping[str, tuple[FloatArray, FloatArray]],
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
    *,
    levels: Mapping[str, float] | None = None,
    log: bool = False,
    top: float | None = None,
    endless: bool = False,
) -> Axes:
    """For each label the mean over seeds, and the band between the extremes.

    Args:
        lines: for each label x (k,) and y (seeds, k).
        xlabel: name of x.
        ylabel: name of y.
        ax: where to draw; a new figure without it.
        levels: heights to mark at the right edge, in the colour of the line with the same label.
        log: whether y is drawn to a logarithmic scale.
        top: the largest y that the axis is to have room for, e.g. that of the picture beside; default: that of the
            lines.
        endless: whether the height at the right edge holds for any larger x: it is marked by a triangle.

    Returns:
        The axes.

    Example:
        >>> x = np.array([0.0, 0.5, 1.0])
        >>> ax = curves({"ours": (x, np.array([[0.9, 0.8, 0.5], [0.9, 0.7, 0.4]]))}, "radius", "certified accuracy")
        >>> len(ax.lines), len(ax.collections)  # the mean, and the band
        (1, 1)
    """
    ax = new_axes(ax, xlabel, ylabel)
    for i, (label, (x, ys)) in enumerate(lines.items()):
        ax.plot(x, ys.mean(0), label=label, **look(i))
        if len(ys) > 1:
            ax.fill_between(x, ys.min(0), ys.max(0), color=look(i)["color"], alpha=0.2, linewidth=0)
    ends = np.array([[x.min(), x.max()] for x, _ in lines.values()])
    if log:
        ax.set_yscale("log")
    if endless:
        mark_endless(ax, [float(ys.mean(0)[-1]) for _, ys in lines.values()])
    _mark_levels(ax, levels or {}, list(lines))
    highest = max(float(ys.max()) for _, ys in lines.values()) if top is None else top
    return finish(ax, np.array([ends.min(), ends.max()]), None if log else highest)


def label_counts(counts: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """How many samples of each label every client holds, as stacked bars.

    Args:
        counts: a row a client, a column a label, as from `FederatedData.label_counts`.
        ax: where to draw; a new figure without it.

    Returns:
        The axes.

    Example:
        >>> import crfl
        >>> label_counts(crfl.load_data(crfl.Experiment()).label_counts()).get_ylabel()
        'samples'
    """
    ax = new_axes(ax, "client", "samples")
    bottom = np.zeros(len(counts))
    for i, label in enumerate(counts.columns):
        ax.bar(range(len(counts)), counts[label], bottom=bottom, width=0.9, label=plain(str(label)), **fill(i))
        bottom += counts[label].to_numpy(dtype=float)
    names = [plain(str(name)) for name in counts.index]
    if len(names) <= 60 and max(map(len, names)) <= 3:
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


def _mark_levels(ax: Axes, levels: Mapping[str, float], labels: Sequence[str]) -> None:
    """Short lines at the right edge: in the colours of the curves with the same labels, others black with a label."""
    for label, height in levels.items():
        own = look(labels.index(label)) if label in labels else {"color": "black", "marker": "*"}
        own = {k: v for k, v in own.items() if k in ("color", "marker")}
        name = "_level" if label in labels else label
        at: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "clip_on": False, "markevery": [1]}
        ax.plot([0.95, 1.0], [height] * 2, label=name, linewidth=1.6, markersize=5, **own, **at)
