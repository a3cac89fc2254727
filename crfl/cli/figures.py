"""crfl reproduce: the paper's figures, checked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from crfl.cli import options

if TYPE_CHECKING:
    from crfl.reproduction import Figure, Lab


@click.command()
@click.argument("figures", nargs=-1, metavar="[FIG]...")
@click.option("--smoke", is_flag=True, help="Every figure in seconds: short runs on the embedded digits.")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="Folder of the data sets.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Mean and band over so many seeds.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs that train at the same time.")
@options.device
@click.option("--out", default=Path("runs/reproduction"), show_default=True, type=click.Path(path_type=Path))
def reproduce(
    figures: tuple[str, ...], smoke: bool, data: Path | None, seeds: int, jobs: int, device: str, out: Path
) -> None:
    """Redraw the paper's figures and check its claims on them.

    \b
    crfl reproduce              all of them
    crfl reproduce 5 6 --seeds 3
    crfl reproduce --smoke
    crfl reproduce mnist_ensemble

    FIG is the number of a figure or the name of its script; figures that are not the paper's, in malicious_clients/, are
    drawn by name only. What is interrupted goes on where it stopped,
    and what is done already is only redrawn. Exit code 3 says that a claim failed; the report says which.
    """
    import time

    import matplotlib

    matplotlib.use("Agg")
    from crfl import files
    from crfl.config.shipped import shipped
    from crfl.reproduction import Lab, report
    from crfl.sweeps import Cache
    from crfl.wording import amount

    lab = Lab(Cache(out / "cache", jobs, device), shipped("configs"), tuple(range(seeds)), smoke, data)
    found = []
    start = time.monotonic()
    for script in _scripts(shipped("experiments"), figures):
        click.echo(f"{script.stem} ...", err=True)
        for figure in _figures(script, lab):
            figure.save(out)
            found.append(figure)
            for claim in figure.claims:
                click.echo(f"{'holds' if claim.holds else 'FAILS'}  {figure.name}: {claim.text} ({claim.measured})")
    about = f"{amount(len(found), 'figure')}, {amount(len(lab.seeds), 'seed')}, {'smoke test' if smoke else 'full'}."
    for name, reason in lab.missing.items():
        click.echo(f"left out: {reason}", err=True)
        about += f" Left out, because its data is missing: {name}."
    if not found:
        raise click.ClickException("none of the data sets is there; --data says where they are, --smoke needs none")
    text, page = report(found, out, about)
    files.write_atomic(out / "report.md", text)
    files.write_atomic(out / "report.html", page)
    click.echo(f"{time.monotonic() - start:.0f} s; the report is {out / 'report.html'}")
    if not all(claim.holds for figure in found for claim in figure.claims):
        raise SystemExit(3)


def _scripts(home: Path, names: tuple[str, ...]) -> list[Path]:
    """Scripts by figure number, by name or by path; all of the paper's if none is named."""
    known = {p.stem: p for p in sorted(home.rglob("*.py")) if p.stem != "reproduce"}
    papers = [stem for stem, path in known.items() if path.parent == home]
    stems = [n.removesuffix(".py").rsplit("/", 1)[-1] for n in names] or papers
    stems = [f"figure{stem}" if f"figure{stem}" in known else stem for stem in stems]
    unknown = [stem for stem in stems if stem not in known]
    if unknown:
        raise click.BadParameter(f"got {', '.join(unknown)}, expected {', '.join(known)}", param_hint="FIG")
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
