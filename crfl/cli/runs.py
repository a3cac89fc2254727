"""crfl run, certify, plot, report: one run and its folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crfl.cli import options

if TYPE_CHECKING:
    import pandas as pd

    from crfl.certification.certificate import Certificate
    from crfl.data.federated import FederatedData, Split
    from crfl.run import TrainingRun

KINDS = ("published", "smoothing", "margin")
BOUNDS = ("hoeffding", "clopper_pearson", "exact")


@click.command()
@options.config
@options.changes
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder  [default: runs/NAME-HASH]")
@click.option("--checkpoint", "checkpoints", type=int, multiple=True, metavar="ROUND", help="Keep this round's model.")
@options.device
@options.as_json
def run(
    config: Path,
    changes: dict[str, Any],
    out: Path | None,
    checkpoints: tuple[int, ...],
    device: str,
    as_json: bool,
) -> None:
    """Train under attack, certify and plot.

    \b
    crfl run configs/digits.yaml
    crfl run configs/mnist.yaml --set attack.scale=50 --set server.noise=0.02 --out runs/strong

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from crfl.config import Experiment
    from crfl.data.load import load_data
    from crfl.runs import store

    exp = Experiment.from_yaml(config).override(changes)
    name = f"{config.stem}-{hashlib.blake2b(exp.to_yaml().encode(), digest_size=4).hexdigest()}"
    folder = out or Path("runs") / name
    data = load_data(exp)
    for note in data.notes:
        click.echo(f"note: {note}", err=True)
    try:
        result = store.train(folder, exp, data, checkpoints=checkpoints, device=device, progress=True)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; what was done is kept in {folder}. The same command goes on from there.", err=True)
        raise SystemExit(130) from None
    _certify(folder, result, data, [{"kind": "published"}, {"kind": "margin"}], device, as_json)
    if not as_json:
        click.echo(f"everything is in {folder}")


@click.command()
@options.folder
@click.option("--kind", type=click.Choice(KINDS), default="published", show_default=True)
@click.option("--bounds", type=click.Choice(BOUNDS), help="Bounds on probabilities  [default: the kind's own]")
@click.option("--any-round", is_flag=True, help="Against one such attack in any round (margin and smoothing only).")
@options.changes
@options.device
@options.as_json
def certify(
    folder: Path,
    kind: str,
    bounds: str | None,
    any_round: bool,
    changes: dict[str, Any],
    device: str,
    as_json: bool,
) -> None:
    """Certify a finished run, without training it again.

    \b
    crfl certify runs/demo --kind margin
    crfl certify runs/demo --bounds exact --set smoothing.noise=0.02
    crfl certify runs/demo --kind margin --any-round
    """
    from crfl.data.load import load_data
    from crfl.errors import SettingsError
    from crfl.runs import store

    wrong = [key for key in changes if not key.startswith("smoothing.") and key != "data.root"]
    if wrong:
        raise SettingsError(
            [f"{key}: certifying cannot change it; it is part of the training" for key in wrong], "--set"
        )
    result = store.load_run(folder)
    result = replace(result, experiment=result.experiment.override(changes))
    data = load_data(result.experiment)
    store.check_data(folder, data)
    chosen = {"kind": kind, "bounds": bounds, "attack_round": "any" if any_round else None}
    _certify(folder, result, data, [{k: v for k, v in chosen.items() if v}], device, as_json)


@click.command()
@options.folder
def plot(folder: Path) -> None:
    """Draw a run's plots again from its files alone.

    \b
    crfl plot runs/demo
    """
    from crfl.runs import store

    result = store.load_run(folder)
    for path in _draw(folder, result):
        click.echo(path)


@click.command()
@options.folder
def report(folder: Path) -> None:
    """One self-contained HTML page on a finished run.

    \b
    crfl report runs/demo
    """
    from datetime import datetime

    import matplotlib

    matplotlib.use("Agg")
    from crfl import files
    from crfl.data.load import load_data
    from crfl.report import read_certificates, run_report
    from crfl.runs import store

    result = store.load_run(folder)
    data = load_data(result.experiment)
    store.check_data(folder, data)
    when = datetime.fromtimestamp((folder / "params.safetensors").stat().st_mtime)
    versions = files.read_json(folder / "versions.json")
    name, found = folder.resolve().name, read_certificates(folder)
    html = run_report(result, data, found, name=name, when=when, versions=versions)
    files.write_atomic(folder / "report.html", html)
    click.echo(folder / "report.html")


def _certify(
    folder: Path, result: TrainingRun, data: FederatedData, wanted: list[dict[str, Any]], device: str, as_json: bool
) -> None:
    """Certificates of the clean and the backdoored test set: files, plots and a table.

    Of several kinds, one that does not hold for the run is noted; the only one is an error.
    """
    import pandas as pd

    from crfl.attack.triggers import backdoored
    from crfl.certification.certify import certify
    from crfl.errors import CertificateError
    from crfl.runs import store

    attacked = result.experiment.attack.active
    splits = {"clean": data.test} | ({"backdoored": backdoored(result.experiment, data)} if attacked else {})
    on_device = replace(result, params=result.params.to(device))
    tables, notes = [], []
    for options_ in wanted:
        name = "-".join("any-round" if v == "any" else v for v in options_.values())
        try:
            certificates = {
                which: certify(on_device, split, progress=True, **options_) for which, split in splits.items()
            }
        except CertificateError as error:
            if len(wanted) == 1:
                raise
            notes.append(f"{name}: {error}")
            continue
        for which, certificate in certificates.items():
            store.save_certificate(folder, f"{name}-{which}", certificate, splits[which].y, result.experiment)
        tables.append(_table(name, certificates, splits))
        notes += [f"{name}: {warning}" for warning in certificates["clean"].warnings]
    _draw(folder, result)
    history = result.history
    facts: dict[str, Any] = {"accuracy": float(history["accuracy"].iloc[-1])}
    if attacked:
        facts["attack_success_rate"] = float(history["attack_success_rate"].iloc[-1])
        facts["attack_success_rate_at_most"] = float(result.attack_success["attack_success_rate"].max())
    options.show(pd.concat(tables) if tables else pd.DataFrame(), as_json, tuple(notes), **facts)


def _table(name: str, certificates: dict[str, Certificate], splits: dict[str, Split]) -> pd.DataFrame:
    """Certified accuracy and rate of each test set at a few radii."""
    import pandas as pd

    from crfl.report import RADII

    rows: list[dict[str, object]] = []
    for which, certificate in certificates.items():
        for curve, values in (
            ("accuracy", certificate.certified_accuracy(splits[which].y, RADII)),
            ("rate", certificate.certified_rate(RADII)),
        ):
            shown = {f"r={r:g}": float(v) for r, v in zip(RADII, values, strict=True)}
            about = {"certificate": name, "test set": which, "certified": curve}
            rows.append({**about, **shown, "critical r": float(certificate.strength.max(initial=0))})
    return pd.DataFrame(rows)


def _draw(folder: Path, result: TrainingRun) -> list[Path]:
    """Every plot of a run folder, from its history and its certificates."""
    import matplotlib

    matplotlib.use("Agg")
    from crfl import files, plots
    from crfl.report import read_certificates

    drawn = {"training": plots.training(result.history, [r.round for r in result.record.attack_rounds])}
    found = read_certificates(folder)
    for title in dict.fromkeys(c.title for c in found):
        mine = {f"{c.split} test set": c for c in reversed(found) if c.title == title}
        accuracy = plots.certified_accuracy({label: (c, c.labels) for label, c in mine.items()})
        drawn[f"{title}-certified-accuracy"] = accuracy
        drawn[f"{title}-certified-rate"] = plots.certified_rate(mine)
    return [files.save_plot(folder, name, ax) for name, ax in drawn.items()]
