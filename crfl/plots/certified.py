"""Curves of certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from crfl.plots.style import FloatArray, finish, look, mark_endless, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 1000
COUNTED = ("malicious_clients", "poisoned_samples")
"""Strengths that are whole numbers."""


class Certified(Protocol):
    """What a plot needs of a certificate: `crfl.Certificate` has it, and so have those read from a run folder."""

    @property
    def strength(self) -> npt.NDArray[Any]: ...
    @property
    def strength_name(self) -> str: ...
    @property
    def strength_label(self) -> str: ...
    def certified_accuracy(self, y: npt.ArrayLike, strengths: npt.ArrayLike) -> Any: ...
    def certified_rate(self, strengths: npt.ArrayLike) -> Any: ...


def certified_accuracy(
    curves: Mapping[str, tuple[Certified, npt.ArrayLike]], ax: Axes | None = None, **style: Any
) -> Axes:
    """Share of test samples that are correct and certified at strength r of the attack.

    Args:
        curves: for each label a certificate and the labels of the test set. Certificates of radii and certificates of
            malicious clients cannot share a plot.
        ax: where to draw; a new figure without it.
        style: passed to `Axes.plot` for every curve.

    Returns:
        The axes. A triangle at the right edge says which share is certified for any r.

    Raises:
        ValueError: there is no curve, or radii and numbers of clients are mixed.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
        >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
        >>> certified_accuracy({"margin": (cert, data.test.y)}).get_ylabel()
        'certified accuracy'
    """
    certificates = [certificate for certificate, _ in curves.values()]
    ax = new_axes(ax, strength_label(certificates), "certified accuracy")
    grid = strengths(certificates)
    heights = {label: np.asarray(c.certified_accuracy(y, grid)) for label, (c, y) in curves.items()}
    return _certified(ax, certificates, grid, heights, style)


def certified_rate(curves: Mapping[str, Certified], ax: Axes | None = None, **style: Any) -> Axes:
    """Share of test samples certified at strength r of the attack, right or wrong.

    Args:
        curves: for each label a certificate.
        ax: where to draw; a new figure without it.
        style: passed to `Axes.plot` for every curve.

    Returns:
        The axes.

    Raises:
        ValueError: there is no curve, or radii and numbers of clients are mixed.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
        >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
        >>> certified_rate({"margin": cert}).get_ylabel()
        'certified rate'
    """
    certificates = list(curves.values())
    ax = new_axes(ax, strength_label(certificates), "certified rate")
    grid = strengths(certificates)
    heights = {label: np.asarray(c.certified_rate(grid)) for label, c in curves.items()}
    return _certified(ax, certificates, grid, heights, style)


def strength_label(certificates: Sequence[Certified]) -> str:
    """Name of the axis of what these certificates bound: a radius, in which space, or a number of clients or samples.

    Args:
        certificates: All of the same strength.

    Returns:
        The name, with formulas as matplotlib takes them.

    Raises:
        ValueError: there is no certificate, or radii and numbers of clients are mixed.

    Example:
        >>> from crfl.certification.ensembles.certify import certify_disjoint
        >>> strength_label([certify_disjoint([[1, 1, 0]], 2, num_clients=3)])
        'malicious clients (any updates, in every round)'
    """
    names = {c.strength_name for c in certificates}
    if len(names) != 1:
        raise ValueError(
            "curves: got certificates of radii and of malicious clients, expected one kind; draw them apart"
            if names
            else "curves: got none, expected one or more"
        )
    labels = sorted({c.strength_label for c in certificates}, key=len)
    return labels[-1]  # that of the feature space, if one of them is measured there


def strengths(certificates: Sequence[Certified]) -> FloatArray:
    """Where to evaluate curves of these certificates: a grid of radii, or whole numbers, every one if they are few."""
    if _counts(certificates):
        most = max(int(c.strength.max(initial=0)) for c in certificates)
        return np.unique(np.linspace(0, most + 1, _POINTS).astype(np.int64)).astype(np.float64)
    return radius_grid(*(c.strength for c in certificates))


def radius_grid(*radii: FloatArray) -> FloatArray:
    """From 0 to just beyond the largest finite radius (or to 1), fine enough to show the steps.

    Args:
        radii: Of one or more certificates, each (m,).

    Returns:
        Rising radii.

    Example:
        >>> grid = radius_grid(np.array([0.0, 0.2]), np.array([0.4, np.inf]))
        >>> float(grid[0]), round(float(grid[-1]), 4)
        (0.0, 0.42)
    """
    largest = max((float(np.max(r, where=np.isfinite(r), initial=0.0)) for r in radii), default=0.0)
    return np.linspace(0.0, 1.05 * largest or 1.0, _POINTS)


def _certified(
    ax: Axes, certificates: Sequence[Certified], grid: FloatArray, heights: Mapping[str, FloatArray], style: Any
) -> Axes:
    """Curves of certificates over their grid, an integer one as steps."""
    counts = _counts(certificates)
    steps = {"drawstyle": "steps-post", "markevery": 1} if counts else {}
    for i, (label, height) in enumerate(heights.items()):
        ax.plot(grid, height, label=label, **{**look(i), **steps, **style})
    if not counts:
        mark_endless(ax, [float(height[-1]) for height in heights.values()])
    ax = finish(ax, grid)
    if counts:
        ax.locator_params(axis="x", integer=True)
    return ax


def _counts(certificates: Sequence[Certified]) -> bool:
    return all(c.strength_name in COUNTED for c in certificates)
