"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from crfl.cli.plugins import load_plugin


def _parse(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    from crfl.config.files import parse_yaml
    from crfl.config.problems import cut

    changes = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"got {cut(text)!r}, expected KEY=VALUE such as attack.scale=50")
        try:
            changes[key.strip()] = parse_yaml(value)
        except ValueError as error:
            raise click.BadParameter(f"got {cut(text)!r}, whose value is not valid YAML: {error}") from None
    return changes


def _find(ctx: click.Context, param: click.Parameter, value: str) -> Path:
    """A file of settings, by its path or by the name under which it ships with crfl."""
    path = Path(value)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    from crfl.config.problems import cut, listed
    from crfl.config.shipped import named_settings

    known = named_settings()
    if value not in known:
        raise click.BadParameter(f"got {cut(value)!r}, expected a YAML file, or one of: {listed(known)}")
    return known[value]


def _usable(ctx: click.Context, param: click.Parameter, value: str) -> str:
    if value != "cpu":
        from crfl.devices import resolve_device

        resolve_device(value)
    return value


def _load_plugins(ctx: click.Context, param: click.Parameter, values: tuple[Path, ...]) -> None:
    for path in values:
        load_plugin(path)


changes = click.option(
    "--set", "changes", multiple=True, callback=_parse, metavar="KEY=VALUE", help="Override a setting; may be repeated."
)
device = click.option(
    "--device", default="cpu", show_default=True, callback=_usable, help="Where to compute: cpu, cuda, ..."
)
plugin = click.option(
    "--plugin",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load_plugins,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.py",
    help="Run this Python file first: it adds your own triggers, updates and rules. May be repeated.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
config = click.argument("config", callback=_find)
"""A YAML file, or the name of settings that ship with crfl."""
folder = click.argument("folder", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))
