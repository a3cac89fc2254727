"""The command line. Heavy imports wait inside the commands, so that help is immediate."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

from crfl import __version__
from crfl.errors import CrflError

if TYPE_CHECKING:
    import pandas as pd

    from crfl.certification.certificate import Certificate
    from crfl.data.federated import Split
    from crfl.reproduction import Figure, Lab
    from crfl.training.run import TrainingRun


class _Group(click.Group):
    """Turns the library's errors into one message and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CrflError as error:
            raise click.ClickException(str(error)) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crfl")
def main() -> None:
    """Certified robustness of federated learning against backdoor attacks."""


def _settings(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    changes = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"found {text!r}, allowed: key=value such as attack.scale=50")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.BadParameter(f"found {text!r}, whose value is not valid YAML") from None
    return changes


@main.command()
@click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--set", "changes", multiple=True, callback=_settings, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Run folder  [default: runs/NAME-HASH]")
@click.option("--device", default="cpu", show_default=True, help="Where to train and vote: cpu, cuda, ...")
@click.option("--checkpoint", "checkpoints", type=int, multiple=True, metavar="ROUND", help="Keep this round's model.")
def run(config: Path, changes: dict[str, Any], out: Path | None, device: str, checkpoints: tuple[int, ...]) -> None:
    """Train under attack, certify and plot.

    \b
    crfl run configs/digits.yaml
    crfl run configs/mnist.yaml --set attack.scale=50 --set server.noise=0.02 --out runs/strong

    An interrupted run goes on where it stopped when the same command is given again.
    """
    from crfl import store
    from crfl.config import Experiment
    from crfl.data.load import load_data
    from crfl.training.triggers import backdoored

    exp = Experiment.from_yaml(config).override(changes)
    folder = out or Path("runs") / f"{config.stem}-{hashlib.blake2b(exp.to_yaml().encode(), digest_size=4).hexdigest()}"
    data = load_data(exp)
    try:
        result = store.train(folder, exp, data, checkpoints=checkpoints, device=device, progress=True)
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted; what was done is kept in {folder}. The same command goes on from there.", err=True)
        raise SystemExit(130) from None
    splits = {"clean": data.test} | ({"backdoored": backdoored(exp, data)} if exp.attack.active else {})
    _certify(folder, replace(result, params=result.params.to(device)), splits)


def _certify(folder: Path, result: TrainingRun, splits: dict[str, Split]) -> None:
    """Certificates, plots and the table of a finished run."""
    import matplotlib

    matplotlib.use("Agg")
    from crfl import plots, store
    from crfl.certification.certify import certify

    certificates = {}
    for name, split in splits.items():
        certificates[name] = certify(result, split, kind="published")
        store.save_certificate(folder, f"published-{name}", certificates[name], split.y)
    pairs = {f"{name} test set": (c, splits[name].y) for name, c in certificates.items()}
    store.save_plot(folder, "certified-accuracy", plots.certified_accuracy(pairs))
    store.save_plot(folder, "certified-rate", plots.certified_rate({k: c for k, (c, _) in pairs.items()}))
    attack = result.experiment.attack
    attack_round = attack.round if attack.active else None
    store.save_plot(folder, "training", plots.training(result.history, attack_round))
    history = result.history
    click.echo(f"accuracy {history['accuracy'].iloc[-1]:.4f}", nl=not attack.active)
    if attack.active:
        success = history["attack_success_rate"]
        click.echo(f"   attack success rate {success.iloc[-1]:.4f}, at most {success.max():.4f}")
    click.echo(_table(certificates, splits).to_string(index=False))
    for warning in certificates["clean"].warnings:
        click.echo(f"note: {warning}")
    click.echo(f"everything is in {folder}")


def _table(certificates: dict[str, Certificate], splits: dict[str, Split]) -> pd.DataFrame:
    """Certified accuracy and rate of each test set at a few radii."""
    import numpy as np
    import pandas as pd

    critical = max(c.critical_radius for c in certificates.values())
    radii = np.array([0.0, 0.25, 0.5, 0.75, 0.95, 1.05]) * (critical if np.isfinite(critical) else 1.0)
    rows: list[dict[str, object]] = []
    for name, certificate in certificates.items():
        for curve, values in (
            ("certified accuracy", certificate.certified_accuracy(splits[name].y, radii)),
            ("certified rate", certificate.certified_rate(radii)),
        ):
            shown = {f"r={r:.3g}": f"{v:.4f}" for r, v in zip(radii, values, strict=True)}
            rows.append({"test set": name, "": curve, **shown, "critical": f"{certificate.critical_radius:.4f}"})
    return pd.DataFrame(rows)


@main.command()
@click.argument("figures", nargs=-1, metavar="[FIG]...")
@click.option("--smoke", is_flag=True, help="Every figure in seconds: short runs on the embedded digits.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the data sets.")
@click.option("--seeds", default=1, show_default=True, help="Mean and band over so many seeds.")
@click.option("--jobs", default=1, show_default=True, help="Runs that train at the same time.")
@click.option("--device", default="cpu", show_default=True, help="Where to train and vote: cpu, cuda, ...")
@click.option("--out", default=Path("runs/reproduction"), show_default=True, type=click.Path(path_type=Path))
def reproduce(
    figures: tuple[str, ...], smoke: bool, data: Path | None, seeds: int, jobs: int, device: str, out: Path
) -> None:
    """Redraw the paper's figures and check its claims on them.

    \b
    crfl reproduce              all of them
    crfl reproduce 5 6 --seeds 3
    crfl reproduce --smoke

    FIG is the number of a figure or the name of a script in experiments/. What is interrupted goes on where it stopped,
    and what is done already is only redrawn. Exit code 3 says that a claim failed; the report says which.
    """
    import time

    import matplotlib

    matplotlib.use("Agg")
    from crfl import store
    from crfl.reproduction import Lab, report
    from crfl.sweeps import Cache

    home = _experiments()
    lab = Lab(Cache(out / "cache", jobs, device), home.parent / "configs", tuple(range(seeds)), smoke, data)
    found = []
    start = time.monotonic()
    for script in _scripts(home, figures):
        click.echo(f"{script.stem} ...", err=True)
        for figure in _figures(script, lab):
            figure.save(out)
            found.append(figure)
            for claim in figure.claims:
                click.echo(f"{'holds' if claim.holds else 'FAILS'}  {figure.name}: {claim.text} ({claim.measured})")
    about = f"{len(found)} figures, {len(lab.seeds)} seed(s), {'smoke test' if smoke else 'full'}."
    text, page = report(found, out, about)
    store.write_atomic(out / "report.md", text)
    store.write_atomic(out / "report.html", page)
    click.echo(f"{time.monotonic() - start:.0f} s; the report is {out / 'report.html'}")
    if not all(claim.holds for figure in found for claim in figure.claims):
        raise SystemExit(3)


def _experiments() -> Path:
    """The folder of figure scripts: they come with a clone, not with an installed package."""
    for root in (Path.cwd(), Path(__file__).parents[1]):
        if (root / "experiments" / "reproduce.py").exists():
            return root / "experiments"
    raise click.ClickException("no folder experiments/ here; run this in a clone of crfl")


def _scripts(home: Path, names: tuple[str, ...]) -> list[Path]:
    """Scripts by figure number, by name or by path; all of them if none is named."""
    known = {p.stem: p for p in sorted(home.glob("*.py")) if p.stem != "reproduce"}
    stems = [n.removesuffix(".py").rsplit("/", 1)[-1] for n in names] or list(known)
    stems = [f"figure{stem}" if f"figure{stem}" in known else stem for stem in stems]
    unknown = [stem for stem in stems if stem not in known]
    if unknown:
        raise click.BadParameter(f"found {', '.join(unknown)}, allowed: {', '.join(known)}", param_hint="FIG")
    return [known[stem] for stem in stems]


def _figures(script: Path, lab: Lab) -> list[Figure]:
    import importlib.util

    spec = importlib.util.spec_from_file_location(f"experiments.{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    figures: list[Figure] = module.figures(lab)
    return figures


if __name__ == "__main__":
    main()
