"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from crfl.cli.plugins import load_plugin

KINDS = ("margin", "published", "smoothing", "clients", "distance")
PRICES = ("clients", "poison")
BOUNDS = ("hoeffding", "clopper_pearson", "exact")
"""Those of `crfl.certify` for one model, here because help does not wait for it (a test holds them equal)."""
SAMPLED = ("published", "smoothing", "distance")
"""Kinds that bound probabilities."""
ANY_ROUND = ("margin", "smoothing")
"""Kinds that hold for an attack in an unknown round."""


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


def _parse_lists(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> dict[str, list[Any]]:
    """Of each setting the values: commas keep them apart, unless they are inside brackets."""
    pairs = (text.partition("=") for text in values)
    listed = tuple(f"{key}{equals}[{value}]" if equals else key for key, equals, value in pairs)
    return {key: found or [None] for key, found in _parse(ctx, param, listed).items()}


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
values = click.option(
    "--set",
    "values",
    multiple=True,
    callback=_parse_lists,
    metavar="KEY=VALUE,...",
    help="Values of a setting, of which every combination is run; may be repeated.",
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
kind = click.option("--kind", type=click.Choice(KINDS), default="margin", show_default=True, help="Which certificate.")
own_kind = click.option(
    "--kind",
    type=click.Choice([*KINDS, "ensemble"]),
    help="Which certificate  [default: margin; of an ensemble, its own]",
)
prices = click.option(
    "--prices", type=click.Choice(PRICES), help="What a group's vote costs by its own certificate (ensemble)."
)
bounds = click.option(
    "--bounds",
    type=click.Choice(BOUNDS),
    help=f"Bounds on probabilities ({', '.join(SAMPLED)})  [default: the kind's own]",
)
attack_round = click.option(
    "--attack-round",
    type=click.Choice(["recorded", "any"]),
    default="recorded",
    show_default=True,
    help=f"any: against one such attack in whatever round ({', '.join(ANY_ROUND)}).",
)
config = click.argument("config", callback=_find)
"""A YAML file, or the name of settings that ship with crfl."""
folder = click.argument("folder", metavar="RUN", type=click.Path(file_okay=False, path_type=Path))


def check_options(kind: str, bounds: str | None, attack_round: str, prices: str | None = None) -> dict[str, Any]:
    """The options of `crfl.certify`; UsageError if one is not of this kind."""
    if bounds is not None and kind not in SAMPLED:
        raise click.UsageError(
            f"--bounds: got {bounds} with kind {kind}, which needs no probabilities; expected kind {_any_of(SAMPLED)}"
        )
    if attack_round == "any" and kind not in ANY_ROUND:
        raise click.UsageError(f"--attack-round: got any with kind {kind}, expected kind {_any_of(ANY_ROUND)}")
    if prices is not None and kind != "ensemble":
        raise click.UsageError(f"--prices: got {prices} with kind {kind}, expected kind ensemble")
    given = {"kind": kind, "bounds": bounds, "attack_round": "any" if attack_round == "any" else None, "prices": prices}
    return {name: value for name, value in given.items() if value is not None}


def _any_of(names: Sequence[str]) -> str:
    """a, b or c"""
    return " or ".join([", ".join(names[:-1]), names[-1]])
