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
    """What the paper says of a figure, and whether the figure's own curves bear it out."""

    text: str
    expected: str
    measured: str
    holds: bool

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", bool(self.holds))  # NumPy's truth values are not JSON


@dataclass(frozen=True)
class Panel:
    """Curves on one pair of axes."""

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
    """A picture, the numbers in it and the claims about it."""

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
        """Write PNG, PDF, CSV of the curves and JSON of settings and claims."""
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
    """Numbers for a table: four digits each."""
    return ", ".join(f"{v:.4g}" for v in values)


def equal(text: str, expected: Sequence[float], measured: Sequence[float], rel: float = 1e-6) -> Claim:
    """The measured numbers are the expected ones."""
    holds = len(expected) == len(measured) and all(
        math.isclose(a, b, rel_tol=rel) for a, b in zip(expected, measured, strict=True)
    )
    return Claim(text, numbers(expected), numbers(measured), holds)


def rises(text: str, measured: Sequence[float], slack: float = 0.0) -> Claim:
    """Each number is larger than the one before (by more than -slack)."""
    holds = all(b > a - slack for a, b in itertools.pairwise(measured))
    return Claim(text, "rising", numbers(measured), holds)


def falls(text: str, measured: Sequence[float], slack: float = 0.0) -> Claim:
    """Each number is smaller than the one before (by more than -slack)."""
    claim = rises(text, [-m for m in measured], slack)
    return Claim(text, "falling", numbers(measured), claim.holds)
