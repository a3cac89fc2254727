"""A figure: panels of curves, and the paper's claims about them, tested on those very curves."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crfl import files, plots
from crfl.runs.one_model import versions

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Claim:
    """What the paper says of a figure, and whether the figure's own curves bear it out.

    Example:
        >>> Claim("radius grows with the noise", expected="rising", measured="0.1, 0.2", holds=True).holds
        True
    """

    text: str
    expected: str
    measured: str
    holds: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", bool(self.holds))  # NumPy's truth values are not JSON


@dataclass(frozen=True)
class Panel:
    """Curves on one pair of axes.

    Example:
        >>> x = np.array([0.0, 1.0])
        >>> Panel("MNIST", "radius", "certified accuracy", {"ours": (x, np.array([[0.9, 0.5]]))}).log
        False
    """

    title: str
    xlabel: str
    ylabel: str
    curves: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]
    """For each label x (k,) and y (seeds, k)."""
    levels: Mapping[str, float] = field(default_factory=dict)
    """Heights marked at the right edge, in the colour of the curve with the same label."""
    log: bool = False
    """Whether y is drawn to a logarithmic scale."""
    endless: bool = False
    """Whether the height at the right edge holds for any larger x."""


@dataclass(frozen=True)
class Figure:
    """A picture, the numbers in it and the claims about it.

    Example:
        >>> import tempfile
        >>> x = np.array([0.0, 1.0])
        >>> panel = Panel("MNIST", "radius", "certified accuracy", {"ours": (x, np.array([[0.9, 0.5]]))})
        >>> figure = Figure("figure-1", "One seed", (panel,), (falls("falls", [0.9, 0.5]),))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     figure.save(Path(folder))
        ...     sorted(path.name for path in Path(folder).rglob("*.*"))
        ['figure-1.csv', 'figure-1.json', 'figure-1.pdf', 'figure-1.png']
    """

    name: str
    title: str
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    caption: str = ""

    def frame(self) -> pd.DataFrame:
        """Every point of every curve: panel, curve, seed number, x, y. A level has the two ends of its line."""
        import pandas as pd

        rows = []
        for panel in self.panels:
            for label, (x, ys) in panel.curves.items():
                about = {"panel": panel.title, "curve": label}
                rows += [pd.DataFrame({**about, "seed": seed, "x": x, "y": y}) for seed, y in enumerate(ys)]
            ends = next(iter(panel.curves.values()))[0][[0, -1]]
            for label, height in panel.levels.items():
                rows.append(
                    pd.DataFrame({"panel": panel.title, "curve": f"{label} (level)", "seed": 0, "x": ends, "y": height})
                )
        return pd.concat(rows, ignore_index=True)

    def save(self, folder: Path) -> None:
        """Write PNG and PDF of the picture, CSV of the curves and JSON of settings and claims.

        Args:
            folder: Where to: pictures into plots/, the rest into curves/.
        """
        from matplotlib import pyplot

        size = (max(5.4, 4.9 * len(self.panels)), 4.2)
        figure, axes = pyplot.subplots(1, len(self.panels), figsize=size, layout="constrained", squeeze=False)
        for ax, panel in zip(axes[0], self.panels, strict=True):
            alike = [ys for p in self.panels if p.ylabel == panel.ylabel for _, ys in p.curves.values()]
            top = max(float(ys.max()) for ys in alike)  # one scale for all of them
            plots.curves(
                panel.curves,
                panel.xlabel,
                panel.ylabel,
                ax,
                levels=panel.levels,
                log=panel.log,
                top=top,
                endless=panel.endless,
            ).set_title(panel.title)
        plots.share_legend(figure)
        figure.suptitle(self.title)
        files.save_plot(folder, self.name, axes[0][0])
        files.write_atomic(folder / "curves" / f"{self.name}.csv", self.frame().to_csv(index=False))
        about = {
            "title": self.title,
            "caption": self.caption,
            "settings": self.settings,
            "claims": [vars(c) for c in self.claims],
            "versions": versions(),
        }
        strict = json.loads(json.dumps(about), parse_constant=str)  # JSON knows no infinity: "Infinity"
        files.write_atomic(folder / "curves" / f"{self.name}.json", json.dumps(strict, indent=2) + "\n")


def numbers(values: Sequence[float] | npt.NDArray[np.float64]) -> str:
    """Numbers for a table: four digits each.

    Args:
        values: Any.

    Returns:
        Them in a line, with commas.

    Example:
        >>> numbers([0.123456, 2.0])
        '0.1235, 2'
    """
    return ", ".join(f"{v:.4g}" for v in values)


def equal(text: str, expected: Sequence[float], measured: Sequence[float], rel: float = 1e-6) -> Claim:
    """Claim: the measured numbers are the expected ones.

    Args:
        text: Of the claim.
        expected: What the paper says.
        measured: What the figure has.
        rel: Relative tolerance.

    Returns:
        The claim, and whether it holds.

    Example:
        >>> equal("critical radius", [0.5], [0.5]).holds
        True
    """
    holds = len(expected) == len(measured) and all(
        math.isclose(a, b, rel_tol=rel) for a, b in zip(expected, measured, strict=True)
    )
    return Claim(text, numbers(expected), numbers(measured), holds)


def rises(text: str, measured: Sequence[float], slack: float = 0.0) -> Claim:
    """Claim: each number is larger than the one before.

    Args:
        text: Of the claim.
        measured: What the figure has, in order.
        slack: By so much it may be smaller.

    Returns:
        The claim, and whether it holds.

    Example:
        >>> rises("with the noise", [0.1, 0.2, 0.19]).holds, rises("about", [0.1, 0.2, 0.19], slack=0.02).holds
        (False, True)
    """
    holds = all(b > a - slack for a, b in itertools.pairwise(measured))
    return Claim(text, "rising", numbers(measured), holds)


def falls(text: str, measured: Sequence[float], slack: float = 0.0) -> Claim:
    """Claim: each number is smaller than the one before.

    Args:
        text: Of the claim.
        measured: What the figure has, in order.
        slack: By so much it may be larger.

    Returns:
        The claim, and whether it holds.

    Example:
        >>> falls("with the scale", [0.3, 0.2]).holds
        True
    """
    claim = rises(text, [-m for m in measured], slack)
    return Claim(text, "falling", numbers(measured), claim.holds)
