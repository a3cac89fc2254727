"""The user's own triggers, malicious updates and rules: which of them a run uses, and how a worker gets to know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.attack.triggers import TRIGGERS
from crfl.config import Experiment

KNOWN: dict[str, dict[str, Any]] = {
    "attack.trigger": TRIGGERS,
    "attack.update": MALICIOUS,
    "server.aggregation": AGGREGATORS,
}
"""Where the functions are found that a setting names."""

Own = Mapping[tuple[str, str], Callable[..., Any]]
"""Functions by setting and name."""


def own_functions(exp: Experiment) -> Own:
    """The functions that the settings name and that are not crfl's own."""
    attackers = (exp.attack, *exp.attack.individuals)
    named: dict[str, set[Any]] = {
        "attack.trigger": {a.trigger for a in attackers},
        "attack.update": {a.update for a in attackers},
        "server.aggregation": {exp.server.aggregation},
    }
    found = {
        (setting, name): KNOWN[setting][name]
        for setting, names in named.items()
        for name in sorted(n for n in names if isinstance(n, str))
        if name in KNOWN[setting]
    }
    return {(setting, name): own for (setting, name), own in found.items() if not _of_crfl(own, name)}


def register(own: Own) -> None:
    """Make the functions known to this process, a worker of a sweep."""
    for (setting, name), function in own.items():
        KNOWN[setting][name] = function


def _of_crfl(function: Callable[..., Any], name: str) -> bool:
    """Whether it comes with crfl, whole and under this name: not one that crfl made of the user's samples."""
    function = getattr(function, "function", function)  # of an aggregation rule
    module, known = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return str(module).startswith("crfl.") and known == name
