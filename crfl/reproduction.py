"""Figures that check what they show: curves, claims about them, and a report of both.

A figure script in experiments/ is a function of a `Lab` (base settings, cache, seeds) that returns figures; a figure
is panels of curves and the claims that the paper makes of them, tested on those very curves.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from crfl import files, plots
from crfl.certification.bounds.votes import hoeffding
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.published import corollary1_radius
from crfl.config import Experiment
from crfl.errors import DataError
from crfl.pages import page
from crfl.runs.folder import versions
from crfl.sweeps import Cache, Sweep, dataset, sweep

if TYPE_CHECKING:
    import pandas as pd

PAPER_TEST_SAMPLES = {"mnist": 5_000, "emnist": 10_000, "loan": 10_000}
"""Test samples that the paper certifies."""
SMOKE = {"server.rounds": 12, "attack.round": 4, "smoothing.samples": 200, "smoothing.test_samples": 100}
"""Short settings for `smoke`, on the embedded digits."""


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
    curves: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], str]]
    """For each label x (k,), y (seeds, k) and the style of the line; "_..." stays out of the legend."""
    log: bool = False
    """Whether y is drawn to a logarithmic scale."""


@dataclass(frozen=True)
class Figure:
    """A picture, the numbers in it and the claims about it."""

    name: str
    title: str
    panels: tuple[Panel, ...]
    claims: tuple[Claim, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """Every point of every curve: panel, curve, seed number, x, y."""
        import pandas as pd

        rows = [
            pd.DataFrame({"panel": panel.title, "curve": label.lstrip("_"), "seed": seed, "x": x, "y": y})
            for panel in self.panels
            for label, (x, ys, _) in panel.curves.items()
            for seed, y in enumerate(ys)
        ]
        return pd.concat(rows, ignore_index=True)

    def save(self, folder: Path) -> None:
        """Write PNG, PDF, CSV of the curves and JSON of settings and claims."""
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, len(self.panels), figsize=(5 * len(self.panels), 3.6), layout="constrained", squeeze=False
        )
        for ax, panel in zip(axes[0], self.panels, strict=True):
            alike = [ys for p in self.panels if p.ylabel == panel.ylabel for _, ys, _ in p.curves.values()]
            top = max(float(ys.max()) for ys in alike)  # one scale for all of them
            plots.curves(panel.curves, panel.xlabel, panel.ylabel, ax, panel.log, top).set_title(panel.title)
        figure.suptitle(self.title)
        files.save_plot(folder, self.name, axes[0][0])
        files.write_atomic(folder / "curves" / f"{self.name}.csv", self.frame().to_csv(index=False))
        about = {"settings": self.settings, "claims": [vars(c) for c in self.claims], "versions": versions()}
        strict = json.loads(json.dumps(about), parse_constant=str)  # JSON knows no infinity: "Infinity"
        files.write_atomic(folder / "curves" / f"{self.name}.json", json.dumps(strict, indent=2) + "\n")


@dataclass(frozen=True)
class Lab:
    """Where figures come from: a cache of runs, seeds, and base settings for each data set."""

    cache: Cache
    configs: Path
    seeds: tuple[int, ...] = (0,)
    smoke: bool = False
    root: Path | None = None
    """Folder of the data, in place of the settings' own."""
    missing: dict[str, str] = field(default_factory=dict)
    """Data sets that could not be loaded, and why: figures are drawn without them."""

    def datasets(self, *names: str) -> tuple[str, ...]:
        """The data sets of a figure that are there; the embedded digits alone for a smoke test."""
        if self.smoke:
            return ("digits",)
        for name in names:
            try:
                dataset(self.base(name))
            except DataError as error:
                self.missing[name] = str(error)
        return tuple(name for name in names if name not in self.missing)

    def base(self, name: str) -> Experiment:
        """The paper's base settings for a data set. The LOAN settings follow the size of the file that is there."""
        changes: dict[str, Any] = {"data.root": None if self.root is None else str(self.root)}
        if name == "digits":
            return self._read(name).override(changes | SMOKE)
        exp = self._read(name).override(changes | {"smoothing.test_samples": PAPER_TEST_SAMPLES[name]})
        if name == "loan":
            try:
                dataset(exp)
            except DataError:  # a sample of the file cannot fill the paper's batches of 800
                exp = self._read("loan-sample").override(changes)
        return exp

    def sweep(self, exp: Experiment, key: str, values: Sequence[Any], **options: Any) -> Sweep:
        """`crfl.sweeps.sweep` with this lab's cache and seeds."""
        return sweep(self.cache, exp, key, values, seeds=self.seeds, **options)

    def _read(self, name: str) -> Experiment:
        return Experiment.from_yaml(self.configs / f"{name}.yaml")


def sweep_figures(
    lab: Lab,
    name: str,
    title: str,
    exp: Experiment,
    key: str,
    values: Sequence[Any],
    label: Callable[[Any], str],
    claims: Callable[[Sweep], Sequence[Claim]],
    *,
    rate: bool = False,
    sound: bool = True,
    dashed: Callable[[Sweep], Mapping[str, float]] | None = None,
    **options: Any,
) -> list[Figure]:
    """Certified accuracy over the radius, a curve a value; then the same beside the sound `margin` certificate.

    `rate` adds a panel of the certified rate; `dashed` gives accuracies to draw as horizontal lines.
    """
    published = lab.sweep(exp, key, values, **options)
    accuracy = sweep_panel(published, "published", label)
    if dashed is not None:
        lines = {
            text: (
                np.array([0.0, _largest(published)]),
                np.full((1, 2), height),
                f"--C{i}" if i < len(values) else "--k",
            )
            for i, (text, height) in enumerate(dashed(published).items())
        }
        title_ = f"{accuracy.title}; dashed: base classifier"
        accuracy = Panel(title_, accuracy.xlabel, accuracy.ylabel, {**accuracy.curves, **lines})
    panels = (accuracy, sweep_panel(published, "published", label, rate=True)) if rate else (accuracy,)
    settings = {"base": exp.to_dict(), "swept": key, "values": list(values), "seeds": list(lab.seeds)}
    stem = f"{name}-{exp.data.name}"
    figures = [Figure(stem, f"{title}: {exp.data.name}", panels, tuple(claims(published)), settings)]
    if sound:
        margin = lab.sweep(exp, key, values, kind="margin")
        both = (sweep_panel(published, "published", label), sweep_panel(margin, "margin (sound)", label))
        figures.append(Figure(f"{stem}-sound", f"{title}: {exp.data.name}", both, (), settings))
    return figures


def sweep_panel(found: Sweep, title: str, label: Callable[[Any], str], rate: bool = False) -> Panel:
    """Certified accuracy, or rate, over the radius: a curve for each value of a sweep."""
    radii = np.linspace(0.0, _largest(found), 500)
    heights = (found.certified_rate if rate else found.certified_accuracy)(radii)
    curves = {label(v): (radii, heights[i], f"-C{i}") for i, v in enumerate(found.values)}
    endless = any(np.isinf(c.radius).any() for group in found.certificates for c in group)
    xlabel = "radius $r$" + (" (at the right edge: certified for any $r$)" if endless else "")
    return Panel(title, xlabel, "certified rate" if rate else "certified accuracy", curves)


def _largest(found: Sweep) -> float:
    finite = [
        r for group in found.certificates for c in group for r in [c.radius[np.isfinite(c.radius)].max(initial=0)]
    ]
    return 1.05 * float(max(finite)) or 1.0


def expected_critical(exp: Experiment, clip_norm: float | None = None) -> float:
    """Corollary 1 for unanimous votes from the settings alone: equal shards, whole batches, R equal attackers.

    `clip_norm` stands in for that of the attack round in Lemma 1.
    """
    data, local, attack = dataset(exp), exp.local, exp.attack
    assert isinstance(attack.round, int)
    assert isinstance(attack.scale, float)
    shares = [
        1
        / len(data.shards)
        * attack.scale
        * local.epochs
        * (data.sizes[i] // local.batch_size)
        * local.learning_rates(len(data.shards))[i]
        * attack.poisoned_per_batch
        / local.batch_size
        for i in range(attack.count)
    ]
    unanimous = np.zeros((1, data.num_classes), dtype=np.int64)
    unanimous[0, 0] = exp.smoothing.samples
    bound = hoeffding(unanimous, exp.smoothing.alpha)
    lipschitz = lemma1_lipschitz(clip_norm or exp.server.clip.norm(attack.round))
    return float(
        corollary1_radius(bound.p_a, bound.p_b, strengths=shares, lipschitz=lipschitz, noise=exp.server.noise)[0]
    )


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


def report(figures: Sequence[Figure], folder: Path, about: str) -> tuple[str, str]:
    """Markdown, and one self-contained HTML page with the pictures: claim, expected, measured, verdict."""
    claims = [(f, c) for f in figures for c in f.claims]
    failed = [(f, c) for f, c in claims if not c.holds]
    lines = ["# Reproduction report", "", about, "", f"{len(claims) - len(failed)} of {len(claims)} claims hold.", ""]
    lines += [f"- **fails**: {f.name}: {c.text} (expected {c.expected}, measured {c.measured})" for f, c in failed]
    for figure in figures:
        lines += ["", f"## {figure.name}: {figure.title}", "", f"![{figure.name}](plots/{figure.name}.png)", ""]
        if figure.claims:
            lines += ["| claim | expected | measured | verdict |", "|---|---|---|---|"]
            lines += [
                f"| {c.text} | {c.expected} | {c.measured} | {'holds' if c.holds else '**fails**'} |"
                for c in figure.claims
            ]
    text = "\n".join(lines) + "\n"
    pictures = {f"plots/{f.name}.png": (folder / "plots" / f"{f.name}.png").read_bytes() for f in figures}
    return text, page("crfl: reproduction report", text, pictures)
