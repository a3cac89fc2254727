"""Certificates of a run on the command line: files, plots and a table."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd

from crfl import files, plots
from crfl.attack.triggers import backdoored
from crfl.certification import metrics
from crfl.certification.certify import certify
from crfl.cli.output import show
from crfl.errors import CertificateError
from crfl.runs.certificates import save_certificate

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData, Split
    from crfl.run import TrainingRun

RADII = (0.0, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Radii of the table on the screen."""
ENDLESS = (
    "critical r is the radius at which nothing is certified any more; inf: some predictions stand whatever the poisoned "
    "samples hold"
)


def certify_run(
    folder: Path, run: TrainingRun, data: FederatedData, wanted: dict[str, dict[str, Any]], device: str, as_json: bool
) -> None:
    """Certificates, by name, of the clean and the backdoored test set: files, plots and a table.

    Of several, one that does not hold for the run is noted; the only one is an error.
    """
    attacked = run.experiment.attack.active
    splits = {"clean": data.test} | ({"backdoored": backdoored(run.experiment, data)} if attacked else {})
    on_device = replace(run, params=run.params.to(device))
    tables, notes = [], []
    for name, options in wanted.items():
        try:
            certificates = {
                which: certify(on_device, split, progress=True, **options) for which, split in splits.items()
            }
        except CertificateError as error:
            if len(wanted) == 1:
                raise
            notes.append(f"{name}: {error}")
            continue
        for which, certificate in certificates.items():
            save_certificate(folder, f"{name}-{which}", certificate, splits[which].y, run.experiment)
        tables.append(_table(name, certificates, splits))
        notes += [f"{name}: {warning}" for warning in certificates["clean"].warnings]
        notes += [ENDLESS] if any(math.isinf(c.critical_radius) for c in certificates.values()) else []
    draw(folder, run)
    history = run.history
    facts: dict[str, Any] = {"accuracy": float(history["accuracy"].iloc[-1])}
    if attacked:
        facts["attack_success_rate"] = float(history["attack_success_rate"].iloc[-1])
        facts["highest_attack_success_rate_over_the_rounds"] = float(run.attack_success["attack_success_rate"].max())
    show(pd.concat(tables) if tables else pd.DataFrame(), as_json, tuple(dict.fromkeys(notes)), **facts)


def _table(name: str, certificates: dict[str, Certificate], splits: dict[str, Split]) -> pd.DataFrame:
    """Certified accuracy and rate of each test set at a few radii."""
    rows: list[dict[str, object]] = []
    for which, certificate in certificates.items():
        for curve, values in (
            ("accuracy", certificate.certified_accuracy(splits[which].y, RADII)),
            ("rate", certificate.certified_rate(RADII)),
        ):
            shown = {f"r={r:g}": float(v) for r, v in zip(RADII, values, strict=True)}
            about = {"certificate": name, "test set": which, "certified": curve}
            rows.append({**about, **shown, "critical r": certificate.critical_radius})
    return pd.DataFrame(rows)


def draw(folder: Path, run: TrainingRun) -> list[Path]:
    """Every plot of a run folder, from its history and its certificates' CSV files."""
    drawn = {"training": plots.training(run.history, [r.round for r in run.record.attack_rounds])}
    frames = {p.stem: pd.read_csv(p) for p in sorted((folder / "certificates").glob("*.csv"))}
    for name in sorted({stem.rsplit("-", 1)[0] for stem in frames}):
        mine = {stem.rsplit("-", 1)[1]: f for stem, f in frames.items() if stem.rsplit("-", 1)[0] == name}
        radii = plots.radius_grid(*(f["radius"].to_numpy() for f in mine.values()))
        accuracy, rate = {}, {}
        for which, frame in sorted(mine.items(), reverse=True):
            radius, abstained = frame["radius"].to_numpy(), frame["abstained"].to_numpy()
            correct = (frame["prediction"] == frame["label"]).to_numpy()
            label = f"{which} test set"
            accuracy[label] = (radii, metrics.certified_accuracy(correct, abstained, radius, radii)[np.newaxis], "-")
            rate[label] = (radii, metrics.certified_rate(radius, radii)[np.newaxis], "-")
        drawn[f"{name}-certified-accuracy"] = plots.curves(accuracy, plots.RADIUS, "certified accuracy")
        drawn[f"{name}-certified-rate"] = plots.curves(rate, plots.RADIUS, "certified rate")
    return [files.save_plot(folder, name, ax) for name, ax in drawn.items()]
