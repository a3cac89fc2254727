"""Every setting with its kind, default and meaning, read from the settings themselves."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any, get_origin, get_type_hints

import yaml

from crfl.config import Experiment
from crfl.config.files import plain
from crfl.config.problems import group_of
from crfl.config.values import describe


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting."""

    key: str
    """Dotted, as `override` takes it. N stands for the number of an entry."""
    kind: str
    """What it may be, in words."""
    default: str
    """In YAML; empty where there is none."""
    meaning: str


def all_settings(group: type[Any] = Experiment, prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of the files, those of groups after the setting that holds the group.

    >>> next(all_settings())
    Setting(key='seed', kind='a whole number from 0 to 10^18', default='0', meaning='Of every random draw.')
    """
    kinds = get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        key, kind = f"{prefix}{field.name}", kinds[field.name]
        inner = group_of(kind)
        if kind is not inner:
            yield Setting(
                key, describe(kind), _default(field), _meanings(group.__module__, group.__name__).get(field.name, "")
            )
        if inner is not None:
            yield from all_settings(inner, f"{key}.N." if get_origin(kind) is tuple else f"{key}.")


def settings_page() -> str:
    """All settings as a page of Markdown, a section a group: docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Everything that defines a run, as `crfl settings` prints it. A settings file says what differs from the "
        "defaults; `exp.override({key: value})` and `--set KEY=VALUE` take the keys as they stand here. Symbols are "
        "those of the paper.",
    ]
    section = None
    for setting in all_settings():
        name = setting.key.split(".")[0] if "." in setting.key else ""
        if name != section:
            section = name
            about = f"## {name}\n\n{_about(name)}" if name else "## The run"
            lines += ["", about, "", "| setting | kind | default | meaning |", "|---|---|---|---|"]
        default = f"`{setting.default}`" if setting.default else ""
        cells = (f"`{setting.key}`", setting.kind, default, setting.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _about(name: str) -> str:
    """What a group is about, without its example."""
    return inspect.cleandoc(get_type_hints(Experiment)[name].__doc__ or "").split("\n\nExample:")[0]


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return ""
    text = yaml.safe_dump(plain(field.default), default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


@cache
def _meanings(module: str, group: str) -> dict[str, str]:
    """The docstrings below the fields of a group, by field."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == group)
    found = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found
