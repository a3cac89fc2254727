"""Rules that turn the clients' updates into one, and say what weight they gave to each client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from crfl.errors import SettingsError


@dataclass(frozen=True)
class Aggregate:
    """An aggregated update (P,) float32 and the weights (N,) float64 that make it of the clients' updates."""

    update: Tensor
    weights: Tensor


Aggregator = Callable[[Tensor, Tensor], Aggregate]
"""A function of updates (N, P) and sample counts (N,)."""


def mean(updates: Tensor, sizes: Tensor) -> Aggregate:
    """Federated averaging with the paper's uniform weights p_i = 1/N."""
    weights = torch.full((len(updates),), 1 / len(updates), dtype=torch.float64, device=updates.device)
    return Aggregate(weights.to(updates.dtype) @ updates, weights)


AGGREGATORS: dict[str, Aggregator] = {"mean": mean}
"""Rules found by the name in `server.aggregation`; add your own."""


def make_aggregator(name: str) -> Aggregator:
    """The rule called `name`; SettingsError if there is none."""
    if name not in AGGREGATORS:
        raise SettingsError([f"server.aggregation: found {name!r}, allowed: {', '.join(AGGREGATORS)}"])
    return AGGREGATORS[name]
