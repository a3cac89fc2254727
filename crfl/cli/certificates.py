"""Certificates of a run on the command line: files, plots and a table."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")

import pandas as pd

from crfl import files, plots, sanity
from crfl.attack.triggers import backdoored
from crfl.certification.certify import certify
from crfl.cli.output import in_options, show
from crfl.ensemble_run import EnsembleRun
from crfl.errors import CertificateError, CertificateWarning
from crfl.report.run import COUNTS, DISTANCES, RADII, SAMPLES
from crfl.report.saved import read_certificates
from crfl.runs.certificates import save_certificate

if TYPE_CHECKING:
    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData, Split
    from crfl.run import TrainingRun

SHOWN = {
    "radius": ("r", RADII),
    "malicious_clients": ("m", COUNTS),
    "poisoned_samples": ("q", SAMPLES),
    "distance": ("d", DISTANCES),
}
"""By the kind of strength: its symbol, and which strengths the table shows."""
ENDLESS = "critical r, the largest certified radius, is inf: some predictions stand whatever the poisoned samples hold"


def certify_run(
    folder: Path,
    run: TrainingRun | EnsembleRun,
    data: FederatedData,
    wanted: dict[str, dict[str, Any]],
    device: str,
    as_json: bool,
) -> None:
    """Certificates, by name, of the clean and the backdoored test set: files, plots and a table.

    Of several, one that does not hold for the run is noted; the only one is an error.
    """
    attacked = run.experiment.attack.active
    splits = {"clean": data.test} | ({"backdoored": backdoored(run.experiment, data)} if attacked else {})
    tables: dict[str, list[pd.DataFrame]] = {}
    notes = []
    for name, chosen in wanted.items():
        try:
            certificates = _certify(run, splits, device, chosen)
        except CertificateError as error:
            if len(wanted) == 1:
                raise
            notes.append(f"{name}: {in_options(str(error))}")
            continue
        for which, certificate in certificates.items():
            save_certificate(folder, f"{name}-{which}", certificate, splits[which].y, run.experiment)
        tables.setdefault(certificates["clean"].strength_name, []).append(_table(name, certificates, splits))
        notes += [f"{name}: {in_options(warning)}" for warning in certificates["clean"].warnings]
        notes += [ENDLESS] if any(math.isinf(c.critical) for c in certificates.values()) else []
    draw(folder, run)
    facts = _vote_facts(run, splits) if isinstance(run, EnsembleRun) else _facts(run)
    show([pd.concat(some) for some in tables.values()], as_json, tuple(dict.fromkeys(notes)), **facts)


def _facts(run: TrainingRun) -> dict[str, Any]:
    """Accuracy and attack success of a run's model."""
    last = run.history.iloc[-1]
    facts: dict[str, Any] = {
        "accuracy": float(last["accuracy"]),
        "accuracy_of_always_the_most_frequent_class": float(last["majority_accuracy"]),
        "share_of_the_most_frequent_prediction": float(last["top_prediction_share"]),
    }
    if run.experiment.attack.active:
        facts["attack_success_rate"] = float(run.history["attack_success_rate"].iloc[-1])
        facts["highest_attack_success_rate_over_the_rounds"] = float(
            run.history_since_attack["attack_success_rate"].max()
        )
    return facts


def _vote_facts(run: EnsembleRun, splits: dict[str, Split]) -> dict[str, Any]:
    """Accuracy and attack success of an ensemble's vote."""
    clean = splits["clean"]
    facts: dict[str, Any] = {
        "accuracy": run.score(clean),
        "accuracy_of_always_the_most_frequent_class": clean.majority_accuracy,
        "share_of_the_most_frequent_prediction": sanity.share_of_top(run.predict(clean)),
    }
    facts["accuracy_of_one_group"] = float(run.group_scores(splits["clean"]).mean())
    if "backdoored" in splits:
        split, target = splits["backdoored"], run.experiment.attack.target
        facts["attack_success_rate"] = float((run.predict(split) == target)[split.y.numpy() != target].mean())
    return facts


@contextmanager
def quiet_certificates() -> Iterator[None]:
    """Without the warnings that a certificate is no guarantee or means nothing: labels and notes of the tables say so."""
    with warnings.catch_warnings(), sanity.quiet():
        warnings.simplefilter("ignore", CertificateWarning)
        yield


def _certify(
    run: TrainingRun | EnsembleRun, splits: dict[str, Split], device: str, chosen: dict[str, Any]
) -> dict[str, Certificate]:
    """A certificate of each test set."""
    with quiet_certificates():
        return {which: certify(run, split, device=device, progress=True, **chosen) for which, split in splits.items()}


def _table(name: str, certificates: dict[str, Certificate], splits: dict[str, Split]) -> pd.DataFrame:
    """Certified accuracy and rate of each test set at a few strengths."""
    rows: list[dict[str, object]] = []
    for which, certificate in certificates.items():
        symbol, strengths = SHOWN[certificate.strength_name]
        for curve, values in (
            ("accuracy", certificate.certified_accuracy(splits[which].y, strengths)),
            ("rate", certificate.certified_rate(strengths)),
        ):
            shown = {f"{symbol}={s:g}": float(v) for s, v in zip(strengths, values, strict=True)}
            label = name + certificate.label.removeprefix(certificate.kind)
            about = {"certificate": label, "test set": which, "certified": curve}
            rows.append({**about, **shown, f"critical {symbol}": certificate.critical})
    return pd.DataFrame(rows)


def draw(folder: Path, run: TrainingRun | EnsembleRun) -> list[Path]:
    """Every plot of a run folder, from its history, which an ensemble has not, and its certificates."""
    drawn = {}
    if not isinstance(run, EnsembleRun):
        drawn["training"] = plots.training(run.history, [r.round for r in run.record.attack_rounds])
    found = read_certificates(folder)
    for title in dict.fromkeys(c.title for c in found):
        mine = {f"{c.split} test set": c for c in reversed(found) if c.title == title}
        accuracy = plots.certified_accuracy({label: (c, c.labels) for label, c in mine.items()})
        drawn[f"{title}-certified-accuracy"] = accuracy
        drawn[f"{title}-certified-rate"] = plots.certified_rate(mine)
    return [files.save_plot(folder, name, ax) for name, ax in drawn.items()]
