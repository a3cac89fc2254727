"""crfl compare: certified defences, threat by threat, on the same data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from crfl.cli import options
from crfl.cli.plugins import load_plugin

if TYPE_CHECKING:
    from crfl.benchmark.entry import Entry
    from crfl.benchmark.harness import Comparison


@click.command()
@click.option("--threat", "threats", multiple=True, help="Only this threat; may be repeated.")
@click.option("--method", "methods", multiple=True, help="Only the method of this name; may be repeated.")
@click.option("--data", "data_names", multiple=True, help="Only this data set; may be repeated.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Mean and interval over so many.")
@click.option("--smoke", is_flag=True, help="The bundled digits, one seed, quick: whether everything works.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.py",
    help="A Python file with a list ENTRIES of methods of your own. May be repeated.",
)
@click.option("--out", default=Path("runs/comparison"), show_default=True, type=click.Path(path_type=Path))
@options.as_json
def compare(
    threats: tuple[str, ...],
    methods: tuple[str, ...],
    data_names: tuple[str, ...],
    seeds: int,
    smoke: bool,
    plugins: tuple[Path, ...],
    out: Path,
    as_json: bool,
) -> None:
    """Train, certify and attack certified defences, threat by threat, on the same federations.

    \b
    crfl compare --smoke
    crfl compare --threat clients --data mnist --seeds 5
    crfl compare --plugin my_method.py --method "My method"

    Writes a table a threat (CSV, JSON) and one page with curves. What is interrupted goes on where it stopped; what is
    done already is only drawn again. Exit code 3 says that an attack changed a prediction which a method that calls
    itself sound had certified.
    """
    import matplotlib

    matplotlib.use("Agg")
    from crfl.benchmark.entry import THREATS
    from crfl.benchmark.federations import DATA_SETS
    from crfl.benchmark.harness import compare as run

    entries = _chosen(threats, methods, plugins)
    names = ("digits",) if smoke and not data_names else data_names or tuple(DATA_SETS)
    for name in threats:
        _known("--threat", name, tuple(THREATS))
    for name in names:
        _known("--data", name, tuple(DATA_SETS))
    found = run(entries, names, range(seeds), out, smoke=smoke, progress=not as_json)
    _write(found, out, as_json)
    for failure in found.failures:
        click.echo(f"failed: {failure}", err=True)
    for text in found.contradicted:
        click.echo(f"CONTRADICTED  {text}", err=True)
    if found.contradicted:
        raise SystemExit(3)
    if found.failures:
        raise click.ClickException(
            f"{len(found.failures)} of {len(found.failures) + len(found.results)} results failed"
        )


def _chosen(threats: tuple[str, ...], methods: tuple[str, ...], plugins: tuple[Path, ...]) -> list[Entry]:
    """crfl's entries and those of plugins, those that were asked for."""
    from crfl.benchmark.methods import load_entries

    entries = list(load_entries())
    for path in plugins:
        load_plugin(path)
        own = getattr(sys.modules[path.stem], "ENTRIES", None)
        if own is None:
            raise click.ClickException(
                f"--plugin: got {path.name} without ENTRIES, expected a list ENTRIES of crfl.benchmark.entry.Entry"
            )
        entries += own
    for name in methods:
        _known("--method", name, tuple(dict.fromkeys(e.name for e in entries)))
    return [e for e in entries if (not threats or e.threat in threats) and (not methods or e.name in methods)]


def _known(option: str, name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise click.BadParameter(f"got {name!r}, expected one of: {', '.join(names)}", param_hint=option)


def _write(found: Comparison, out: Path, as_json: bool) -> None:
    """Tables and page into files, and onto the screen."""
    import json

    from crfl import files
    from crfl.benchmark.entry import THREATS
    from crfl.benchmark.page import comparison_page
    from crfl.benchmark.table import short_table, threat_table
    from crfl.cli.output import show, show_json

    tables = {name: table for name in THREATS if len(table := threat_table(found, name))}
    records = {}
    for name, table in tables.items():
        stem = name.replace(" ", "-")
        records[name] = json.loads(table.to_json(orient="records"))
        files.write_atomic(out / f"{stem}.csv", table.to_csv(index=False))
        files.write_atomic(out / f"{stem}.json", json.dumps(records[name], indent=2) + "\n")
    files.write_atomic(out / "comparison.html", comparison_page(found))
    if as_json:
        show_json({"threats": records, "failures": list(found.failures), "contradicted": list(found.contradicted)})
        return
    for name, table in tables.items():
        click.echo(f"\n{name}: {THREATS[name].text}")
        show(short_table(table, name), False)
    click.echo(f"\nthe page is {out / 'comparison.html'}")
