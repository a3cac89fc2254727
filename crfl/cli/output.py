"""What the commands print: tables that fit the terminal, or JSON."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"Infinity": "inf", "-Infinity": "-inf", "NaN": "nan"}
"""How JSON, which has no such numbers, shows them."""


def show(
    frames: pd.DataFrame | Sequence[pd.DataFrame],
    as_json: bool,
    notes: tuple[str, ...] = (),
    digits: str = ".4f",
    **facts: Any,
) -> None:
    """Tables with facts above and notes below them, or all of that as one JSON object (infinity as "inf")."""
    tables = frames if isinstance(frames, Sequence) else [frames]
    if as_json:
        rows = [row for frame in tables for row in frame.to_dict("records")]
        show_json({**facts, "rows": rows, "notes": list(notes)})
        return
    for name, fact in facts.items():
        click.echo(f"{name.replace('_', ' ')}: {fact:.4g}" if isinstance(fact, float) else f"{name}: {fact}")
    for frame in filter(len, tables):
        table = frame.to_string(index=False, float_format=lambda v: format(v, digits), line_width=width())
        click.echo("\n".join(line.removesuffix("\\").rstrip() for line in table.splitlines()))
    for note in notes:
        click.echo(f"note: {note}")


def show_json(content: Any) -> None:
    """A value as JSON."""
    click.echo(json.dumps(json.loads(json.dumps(content, default=str), parse_constant=NAMES.get), indent=2))


def in_options(text: str) -> str:
    """A text of the library about kinds of certificates, in the words of the command line."""
    text = re.sub(r"\bkind='(\w+)' or '(\w+)'", r"--kind \1 or \2", text)
    return re.sub(r"\bkind='(\w+)'", r"--kind \1", text).replace("attack_round='any'", "--attack-round any")


def width() -> int | None:
    """$COLUMNS, or the columns of the terminal; None for a file or a pipe, which take any line."""
    terminal = "COLUMNS" in os.environ or (sys.stdout is not None and sys.stdout.isatty())
    return shutil.get_terminal_size().columns if terminal else None
