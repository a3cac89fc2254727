"""The user's own Python files, which add triggers, updates and rules to crfl's."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path

import click


def load_plugin(path: Path) -> None:
    """Import a Python file by its name, its folder being the last place where modules are looked for.

    Imported like that, it is found by the workers of a sweep, too. ClickException, with the line, if it fails.
    """
    path = path.resolve()
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise click.BadParameter(
            f"got {str(path)!r}, expected a Python file such as my_attacks.py", param_hint="--plugin"
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        module = importlib.import_module(path.stem)
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}, line {line}" if line else str(path)
        raise click.ClickException(f"--plugin: {where}: {type(error).__name__}: {error}") from None
    found = Path(module.__file__ or "")
    if found.resolve() != path:
        other = found if module.__file__ else "a part of Python"
        raise click.ClickException(
            f"--plugin: {path.name} has the name of another module ({other}); give it another one"
        )
