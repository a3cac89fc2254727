"""crfl sweep: one base setting, several values, several seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crfl.cli import options
from crfl.wording import amount

if TYPE_CHECKING:
    import pandas as pd

    from crfl.sweeps import Sweep


@click.command()
@options.config
@options.values
@click.option("--seeds", type=click.IntRange(1), help="Mean and spread over so many seeds: 0, 1, ...")
@options.kind
@options.bounds
@options.attack_round
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Runs that train at the same time.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/sweep"),
    show_default=True,
    help="Folder of the table, the picture and the cache of runs.",
)
@options.plugin
@options.device
@options.as_json
def sweep(
    config: Path,
    values: dict[str, list[Any]],
    seeds: int | None,
    kind: str,
    bounds: str | None,
    attack_round: str,
    jobs: int,
    out: Path,
    device: str,
    as_json: bool,
) -> None:
    """Train and certify every combination of several values.

    \b
    crfl sweep digits --set attack.scale=1,5,10 --seeds 5
    crfl sweep mnist --set server.noise=0.01,0.02 --set attack.scale=10,50 --set server.rounds=60 --jobs 4

    What is interrupted goes on where it stopped, and what was trained before is not trained again.
    """
    import matplotlib

    matplotlib.use("Agg")
    from crfl import files
    from crfl.cli.certificates import quiet_certificates
    from crfl.cli.output import show
    from crfl.config import Experiment
    from crfl.sweeps import Cache
    from crfl.sweeps import sweep as run_sweep

    chosen = options.check_options(kind, bounds, attack_round)
    base = Experiment.from_yaml(config).override({key: found[0] for key, found in values.items() if len(found) == 1})
    grid: dict[str, list[Any]] = {key: found for key, found in values.items() if len(found) > 1}
    if not grid and seeds is None:
        raise click.UsageError(
            "got nothing to sweep, expected several values such as --set attack.scale=1,5,10, or --seeds"
        )
    if not grid:
        grid, seeds = {"seed": list(range(seeds or 1))}, None
    with quiet_certificates():
        found = run_sweep(Cache(out / "cache", jobs, device), base, grid, seeds=seeds, **chosen)
    frame = _frame(found)
    files.write_atomic(out / "sweep.csv", frame.to_csv(index=False))
    picture = _draw(found, out)
    show(_means(frame, found), as_json, _notes(found))
    if not as_json:
        click.echo(f"{len(frame)} rows are in {out / 'sweep.csv'}; the picture is {picture}")


def _frame(found: Sweep) -> pd.DataFrame:
    """A row for each value, seed and strength of the table on the screen."""
    from crfl.cli.certificates import SHOWN

    return found.to_frame(SHOWN[found.certificates[0][0].strength_name][1])


def _means(frame: pd.DataFrame, found: Sweep) -> pd.DataFrame:
    """For each value the means over its seeds, the certified accuracy in a column for each strength."""
    from crfl.cli.certificates import SHOWN

    symbol = SHOWN[found.certificates[0][0].strength_name][0]
    keys = list(found.keys)
    wide = frame.pivot_table("certified_accuracy", keys, "radius", sort=False)
    wide.columns = [f"{symbol}={s:g}" for s in wide.columns]
    facts = frame.groupby(keys, sort=False)[["accuracy", "attack_success_rate", "critical_radius"]].mean()
    facts = facts.set_axis(["accuracy", "attack success", f"critical {symbol}"], axis=1)
    return facts.join(wide).reset_index()


def _notes(found: Sweep) -> tuple[str, ...]:
    """Where nothing is guaranteed or certified, and what infinity means."""
    from crfl.cli.certificates import ENDLESS
    from crfl.cli.output import in_options

    certificates = [certificate for group in found.certificates for certificate in group]
    broken = [f"{c.label}: {in_options(c.guarantee.broken[0])}" for c in certificates if c.guarantee.broken]
    endless = [ENDLESS] if any(math.isinf(c.critical) for c in certificates) else []
    little = [
        f"{_point(found, value)}: {in_options(group[0].notes[0])}"
        for value, group in zip(found.values, found.certificates, strict=True)
        if group[0].notes
    ]
    more = [f"the notes on {amount(len(little) - 1, 'other value')} are left out"] if len(little) > 1 else []
    return tuple(dict.fromkeys([*broken, *endless, *little[:1], *more]))


def _point(found: Sweep, value: Any) -> str:
    """A value, or a value of each of several settings, with the settings."""
    each = value if len(found.keys) > 1 else (value,)
    return ", ".join(f"{k} = {v}" for k, v in zip(found.keys, each, strict=True))


def _draw(found: Sweep, out: Path) -> Path:
    """Certified accuracy, a curve with its spread over seeds for each value."""
    from crfl import files, plots
    from crfl.plots.certified import strength_label, strengths

    certificates = [certificate for group in found.certificates for certificate in group]
    grid = strengths(certificates)
    heights = found.certified_accuracy(grid)
    lines = {_point(found, value): (grid, ys) for value, ys in zip(found.values, heights, strict=True)}
    return files.save_plot(out, "sweep", plots.curves(lines, strength_label(certificates), "certified accuracy"))
