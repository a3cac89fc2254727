"""crfl tune: the settings that certify most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crfl.cli import options


def _numbers(ctx: click.Context, param: click.Parameter, value: str | None) -> list[float] | None:
    if value is None:
        return None
    try:
        found = [float(v) for v in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"got {value!r}, expected numbers with commas between them") from None
    return [round(v) for v in found] if param.name == "rounds" else found


@click.command()
@options.config
@options.changes
@click.option("--decay", callback=_numbers, metavar="NUMBER,...", help="Values of lambda  [default: x 1/3, 1, 3]")
@click.option("--rounds", callback=_numbers, metavar="NUMBER,...", help="Values of T  [default: server.rounds]")
@click.option(
    "--client-rounds", type=click.IntRange(1), default=1, show_default=True, help="Updates that may be anything."
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("tuned.yaml"),
    show_default=True,
    help="File of the best settings.",
)
@options.plugin
@options.as_json
def tune(
    config: Path,
    changes: dict[str, Any],
    decay: list[float] | None,
    rounds: list[int] | None,
    client_rounds: int,
    out: Path,
    as_json: bool,
) -> None:
    """Search lambda and T, fit the update clip, and write the settings that certify most.

    \b
    crfl tune certified/mnist --decay 3e-4,1e-3 --rounds 100,300 --client-rounds 10

    Measured on samples of the server or of the clients, never on the test set. The frontier: no other trial is both
    more accurate and more certified.
    """
    from crfl import tune as search
    from crfl.cli.output import show
    from crfl.config import Experiment
    from crfl.data.load import load_data

    exp = Experiment.from_yaml(config).override(changes)
    found = search.tune(exp, load_data(exp), decay, rounds, client_rounds, progress=not as_json)
    out.write_text(found.best.experiment.to_yaml(), encoding="utf-8")
    show(found.to_frame(), as_json, (f"the best settings are in {out}",), digits=".4g")
