"""What an aggregation rule gets, what it returns and what it promises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from crfl.errors import TrainingError


class Server(Protocol):
    """The settings that a rule may read: crfl.config.Server.

    Example:
        >>> from crfl import config
        >>> server: Server = config.Server(aggregation="trimmed_mean", num_byzantine=2)
        >>> server.num_byzantine
        2
    """

    @property
    def aggregation(self) -> str:
        """The name under which the rule was found."""

    @property
    def num_byzantine(self) -> int:
        """f: how many malicious clients it is to withstand."""


@dataclass(frozen=True)
class Aggregate:
    """An aggregated update (P,) and the weights (n,) float64 that the rule gave to the clients.

    The update is the weighted sum of the clients' updates. `median` and `trimmed_mean` are the exception: they have
    other weights in every coordinate, and `weights` is the average over the coordinates, for the record only.

    Example:
        >>> updates, weights = torch.tensor([[1.0, 0.0], [3.0, 2.0]]), torch.tensor([0.5, 0.5], dtype=torch.float64)
        >>> Aggregate(weights.float() @ updates, weights).update
        tensor([2., 1.])
    """

    update: Tensor
    weights: Tensor


Aggregator = Callable[[Tensor, Tensor, Server], Aggregate]
"""The updates (n, P) of the clients present, their sample counts (n,), and the server's settings -> Aggregate."""


def _one(server: Server) -> int:
    return 1


@dataclass(frozen=True)
class Rule:
    """An aggregation rule and what it promises. Certificates, the quorum and the settings' check read it here.

    Example:
        >>> from crfl.aggregation import AGGREGATORS
        >>> def largest(updates, sizes, server):
        ...     weights = torch.zeros(len(updates), dtype=torch.float64)
        ...     weights[sizes.argmax()] = 1.0
        ...     return Aggregate(updates[sizes.argmax()], weights)
        >>> AGGREGATORS["largest"] = Rule(largest, data_independent=True)  # for server.aggregation: largest
        >>> del AGGREGATORS["largest"]
    """

    function: Aggregator
    """What it computes."""
    data_independent: bool = False
    """Whether the result is the weighted sum of the updates with weights that follow from the sample counts alone. Then
    the server needs only that sum, and the coupling certificates hold."""
    min_clients: Callable[[Server], int] = _one
    """How many clients the rule needs in every round."""

    def weights(self, sizes: Tensor, server: Server) -> Tensor:
        """The weights of a data-independent rule. It is called on updates that are all 0, so that it cannot read real ones.

        Args:
            sizes: Sample counts of the clients, (n,).
            server: The server's settings.

        Returns:
            The weights, (n,) float64.

        Raises:
            TrainingError: If the function returns no valid Aggregate.

        Example:
            >>> from crfl.aggregation import get_rule
            >>> from crfl.config import Server
            >>> get_rule("weighted_mean").weights(torch.tensor([10, 30]), Server())
            tensor([0.2500, 0.7500], dtype=torch.float64)
        """
        zeros = torch.zeros(len(sizes), 1, dtype=torch.float64)
        return validate(self.function(zeros, sizes, server), zeros, server.aggregation).weights.double()


def validate(aggregate: Aggregate, updates: Tensor, name: str) -> Aggregate:
    """What a rule returned, checked.

    Args:
        aggregate: What it returned.
        updates: What it was called with, (n, P).
        name: Its name, for the error.

    Returns:
        The same without gradients.

    Raises:
        TrainingError: Unless it is an Aggregate of a finite update (P,) and finite weights (n,).

    Example:
        >>> validate(Aggregate(torch.ones(2), torch.ones(1)), torch.ones(3, 2), "mine")
        Traceback (most recent call last):
        crfl.errors.TrainingError: server.aggregation: 'mine' returned update (2,) and weights (1,), expected ...
    """
    found = repr(type(aggregate).__name__)
    if isinstance(aggregate, Aggregate):
        update, weights = aggregate.update, aggregate.weights
        found = f"update {_described(update)} and weights {_described(weights)}"
        if isinstance(update, Tensor) and isinstance(weights, Tensor):
            real = not update.is_complex() and not weights.is_complex()
            if real and update.shape == updates.shape[1:] and weights.shape == updates.shape[:1]:
                if torch.isfinite(weights).all() and torch.isfinite(update).all():
                    return Aggregate(update.detach(), weights.detach())
                found += " with NaN or infinity"
    raise TrainingError(
        f"server.aggregation: {name!r} returned {found}, expected an Aggregate of two finite tensors, the update "
        f"({updates.shape[1]},) and weights ({len(updates)},)"
    )


def _described(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(type(value).__name__)
