"""Certificates of a run on the command line: files, plots and a table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pandas as pd

from crfl import files, plots
from crfl.attack.triggers import backdoored
from crfl.certification.certify import certify
from crfl.cli.output import show
from crfl.errors import CertificateError
from crfl.report import RADII, read_certificates
from crfl.runs.certificates import save_certificate

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData, Split
    from crfl.run import TrainingRun

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
        notes += [ENDLESS] if any(np.isinf(c.strength).any() for c in certificates.values()) else []
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
            rows.append({**about, **shown, "critical r": certificate.critical})
    return pd.DataFrame(rows)


def draw(folder: Path, run: TrainingRun) -> list[Path]:
    """Every plot of a run folder, from its history and its certificates."""
    drawn = {"training": plots.training(run.history, [r.round for r in run.record.attack_rounds])}
    found = read_certificates(folder)
    for title in dict.fromkeys(c.title for c in found):
        mine = {f"{c.split} test set": c for c in reversed(found) if c.title == title}
        accuracy = plots.certified_accuracy({label: (c, c.labels) for label, c in mine.items()})
        drawn[f"{title}-certified-accuracy"] = accuracy
        drawn[f"{title}-certified-rate"] = plots.certified_rate(mine)
    return [files.save_plot(folder, name, ax) for name, ax in drawn.items()]
