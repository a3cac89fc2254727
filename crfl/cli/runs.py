"""crfl run, certify, plot, report: one run, or an ensemble, and its folder."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crfl.cli import options

if TYPE_CHECKING:
    from crfl.config import Experiment


@click.command()
@options.config
@options.changes
@options.plugin
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

    CONFIG is a YAML file, or the name of settings that ship with crfl: digits, mnist, emnist, emnist-sample, loan, loan-sample.
    With ensemble.groups it trains a model for each group of clients, and certifies their vote.

    \b
    crfl run digits
    crfl run mnist --set attack.scale=50 --set server.noise=0.02 --out runs/strong
    crfl run my.yaml --plugin my_attacks.py
    crfl run certified/mnist-ensemble --set ensemble.groups=400

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from crfl.cli.certificates import certify_run
    from crfl.config import Experiment
    from crfl.data.load import load_data
    from crfl.ensemble import train_ensemble
    from crfl.training import train

    exp = Experiment.from_yaml(config).override(changes)
    name = f"{config.stem}-{hashlib.blake2b(exp.to_yaml().encode(), digest_size=4).hexdigest()}"
    folder = out or Path("runs") / name
    ensemble = exp.ensemble.groups is not None
    if ensemble and checkpoints:
        raise click.UsageError(
            "--checkpoint: got one with ensemble.groups, expected none: an ensemble keeps no checkpoints"
        )
    data = load_data(exp)
    for note in data.notes:
        click.echo(f"note: {note}", err=True)
    try:
        result = (
            train_ensemble(exp, data, resume_dir=folder, device=device, progress=True)
            if ensemble
            else train(exp, data, resume_dir=folder, checkpoints=checkpoints, device=device, progress=True)
        )
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; what was done is kept in {folder}. The same command goes on from there.", err=True)
        raise SystemExit(130) from None
    wanted: dict[str, dict[str, Any]] = {kind: {"kind": kind} for kind in _kinds(exp)}
    certify_run(folder, result, data, wanted, device, as_json)
    if not as_json:
        click.echo(f"everything is in {folder}")


def _kinds(exp: Experiment) -> tuple[str, ...]:
    """The certificates that a run is given at once."""
    if exp.ensemble.groups is not None:
        return ("ensemble",)
    clipped = exp.server.update_clip is not None
    if clipped and not exp.attack.active:
        return ("clients",)  # the others are about the attack of the settings
    return ("margin", "published", "clients") if clipped else ("margin", "published")


@click.command()
@options.folder
@options.own_kind
@options.bounds
@options.attack_round
@options.prices
@options.changes
@options.plugin
@options.device
@options.as_json
def certify(
    folder: Path,
    kind: str | None,
    bounds: str | None,
    attack_round: str,
    prices: str | None,
    changes: dict[str, Any],
    device: str,
    as_json: bool,
) -> None:
    """Certify a finished run, without training it again.

    \b
    crfl certify runs/demo
    crfl certify runs/demo --attack-round any
    crfl certify runs/demo --kind published --bounds exact --set smoothing.noise=0.02
    crfl certify runs/ensemble --prices clients

    Each certificate is saved under a name that says how it was made, such as published-exact-noise-0.02.
    """
    from crfl.cli.certificates import certify_run
    from crfl.data.load import load_data
    from crfl.ensemble_run import EnsembleRun
    from crfl.errors import SettingsError
    from crfl.runs.claim import check_data
    from crfl.runs.folder import load_run

    wrong = [key for key in changes if not key.startswith("smoothing.") and key != "data.root"]
    if wrong:
        raise SettingsError(
            [
                f"{key}: got a setting of the training, expected smoothing.* or data.root: certifying changes no run"
                for key in wrong
            ],
            "--set",
        )
    result = load_run(folder)
    own_kind = "ensemble" if isinstance(result, EnsembleRun) else "margin"
    chosen = options.check_options(kind or own_kind, bounds, attack_round, prices)
    own = result.experiment.smoothing.to_dict()
    result = replace(result, experiment=result.experiment.override(changes))
    data = load_data(result.experiment)
    check_data(folder, data)
    name = "-".join("any-round" if value == "any" else value for value in chosen.values())
    for key, value in result.experiment.smoothing.to_dict().items():
        name += "" if value == own[key] else f"-{key}-{'all' if value is None else value}"
    certify_run(folder, result, data, {name: chosen}, device, as_json)


@click.command()
@options.folder
@options.plugin
def plot(folder: Path) -> None:
    """Draw a run's plots again from its files alone.

    \b
    crfl plot runs/demo
    """
    from crfl.cli.certificates import draw
    from crfl.runs.folder import load_run

    drawn = draw(folder, load_run(folder))
    for path in drawn:
        click.echo(path)
    if not drawn:
        click.echo("no certificate was saved with this ensemble; crfl certify makes one")


@click.command()
@options.folder
@options.plugin
def report(folder: Path) -> None:
    """One self-contained HTML page on a finished run.

    \b
    crfl report runs/demo
    """
    from datetime import datetime

    from crfl import files
    from crfl.data.load import load_data
    from crfl.report import read_certificates, run_report
    from crfl.runs.claim import check_data
    from crfl.runs.folder import load_run, open_run

    result = load_run(folder)
    data = load_data(result.experiment)
    check_data(folder, data)
    when = datetime.fromtimestamp((folder / "params.safetensors").stat().st_mtime)
    versions = files.parse_json(open_run(folder).read("versions.json"), folder / "versions.json")
    name, found = folder.resolve().name, read_certificates(folder)
    html = run_report(result, data, found, name=name, when=when, versions=versions)
    files.write_atomic(folder / "report.html", html)
    click.echo(folder / "report.html")


@click.command()
@options.folder
@options.plugin
def verify(folder: Path) -> None:
    """Check every file of a run folder against what was written.

    \b
    crfl verify runs/demo

    Exit code 1 says that something is wrong, or not complete.
    """
    from crfl.runs.verify import verify as find_problems

    problems = find_problems(folder)
    if problems:
        raise click.ClickException("\n".join(problems))
    click.echo(f"{folder}: every file is what was written")
