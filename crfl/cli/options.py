"""Options and output that several commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml

if TYPE_CHECKING:
    import pandas as pd


def _parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    changes = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"got {text!r}, expected key=value such as attack.scale=50")
        try:
            changes[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise click.BadParameter(f"got {text!r}, whose value is not valid YAML") from None
    return changes


def _usable(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value != "cpu":
        from crfl.devices import resolve_device

        resolve_device(value)
    return value


changes = click.option(
    "--set", "changes", multiple=True, callback=_parse, metavar="KEY=VALUE", help="Override a setting; may be repeated."
)
device = click.option(
    "--device", default="cpu", show_default=True, callback=_usable, help="Where to compute: cpu, cuda, ..."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
config = click.argument("config", type=click.Path(dir_okay=False, path_type=Path))
folder = click.argument("folder", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))


def show(frame: pd.DataFrame, as_json: bool, notes: tuple[str, ...] = (), digits: str = ".4f", **facts: Any) -> None:
    """A table with facts above and notes below it, or all of that as one JSON object (infinity as null)."""
    if as_json:
        content = {**facts, "rows": frame.to_dict("records"), "notes": list(notes)}
        click.echo(json.dumps(json.loads(json.dumps(content, default=str), parse_constant=lambda _: None), indent=2))
        return
    for name, fact in facts.items():
        click.echo(f"{name.replace('_', ' ')}: {fact:.4g}" if isinstance(fact, float) else f"{name}: {fact}")
    if len(frame):
        click.echo(frame.to_string(index=False, float_format=lambda v: format(v, digits)))
    for note in notes:
        click.echo(f"note: {note}")
