"""Rules that turn the clients' updates into one, and say what weight they gave to each client.

A rule is a function of the updates (n, P) of the clients that are present, in the precision of the training, their
sample counts (n,) and the server's settings. Only finite updates reach it. A rule of your own needs no more than that,
and an entry in AGGREGATORS that says what it promises.
"""

from __future__ import annotations

from crfl.aggregation.rule import Aggregate, Aggregator, Rule, Server, validate
from crfl.aggregation.rules import (
    krum,
    mean,
    median,
    multi_krum,
    norm_bounded_mean,
    rfa,
    trimmed_mean,
    weighted_mean,
)
from crfl.errors import SettingsError

__all__ = [
    "AGGREGATORS",
    "Aggregate",
    "Aggregator",
    "Rule",
    "Server",
    "get_rule",
    "krum",
    "mean",
    "median",
    "multi_krum",
    "norm_bounded_mean",
    "rfa",
    "trimmed_mean",
    "validate",
    "weighted_mean",
]

AGGREGATORS: dict[str, Rule] = {
    "mean": Rule(mean, data_independent=True),
    "weighted_mean": Rule(weighted_mean, data_independent=True),
    "norm_bounded_mean": Rule(norm_bounded_mean),
    "rfa": Rule(rfa),
    "median": Rule(median),
    "trimmed_mean": Rule(trimmed_mean, min_clients=lambda server: 2 * server.num_byzantine + 1),
    "krum": Rule(krum, min_clients=lambda server: 2 * server.num_byzantine + 3),
    "multi_krum": Rule(multi_krum, min_clients=lambda server: 2 * server.num_byzantine + 3),
}
"""Rules by the name that `server.aggregation` says. Add your own: AGGREGATORS["mine"] = Rule(function)."""


def get_rule(name: str) -> Rule:
    """The rule of that name.

    Args:
        name: A key of AGGREGATORS.

    Returns:
        The rule.

    Raises:
        SettingsError: If there is none of that name, or it is no Rule.

    Example:
        >>> from crfl.config import Server
        >>> rule = get_rule("krum")
        >>> rule.data_independent, rule.min_clients(Server(num_byzantine=2))
        (False, 7)
    """
    rule = AGGREGATORS.get(name)
    if rule is None:
        raise SettingsError([f"server.aggregation: got {name!r}, expected one of: {', '.join(AGGREGATORS)}"])
    if not isinstance(rule, Rule):
        raise SettingsError([f"server.aggregation: {name!r} is a {type(rule).__name__}, expected a Rule(function)"])
    return rule
