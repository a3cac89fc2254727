"""crfl settings: what can be set."""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import asdict

import click

from crfl.cli import options


@click.command()
@click.argument("group", required=False)
@click.option("--markdown", is_flag=True, help="Print a page of Markdown: docs/settings.md.")
@options.as_json
def settings(group: str | None, markdown: bool, as_json: bool) -> None:
    """Every setting with its kind, default and meaning.

    \b
    crfl settings                 all of them
    crfl settings server.clip     those of a group
    crfl settings attack.scale    one of them
    """
    from crfl.cli.output import show_json
    from crfl.config.problems import cut, listed
    from crfl.config.reference import all_settings, settings_page

    if markdown:
        click.echo(settings_page(), nl=False)
        return
    known = list(all_settings())
    shown = [s for s in known if group is None or f"{s.key}.".startswith(f"{group.rstrip('.')}.")]
    if group is not None and not shown:
        groups = listed(dict.fromkeys(s.key.split(".")[0] for s in known))
        raise click.BadParameter(f"got {cut(group)!r}, expected {groups}, or a setting of one", param_hint="GROUP")
    if as_json:
        show_json([asdict(s) for s in shown])
        return
    columns = min(shutil.get_terminal_size().columns, 120)
    for setting in shown:
        default = f" = {setting.default}" if setting.default else ""
        click.secho(f"{setting.key}{default}", bold=True)
        for text in (setting.kind, setting.meaning):
            click.echo(textwrap.fill(text, columns, initial_indent="    ", subsequent_indent="    "))
