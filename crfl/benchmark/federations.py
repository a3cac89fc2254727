"""The federations on which methods are compared: for each data set one of few clients, and one of many."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from crfl.benchmark.entry import Task
from crfl.config import Experiment
from crfl.data.federated import FederatedData
from crfl.data.load import load_data
from crfl.data.mapped import with_test
from crfl.errors import SettingsError

__all__ = ["DATA_SETS", "MANY_CLIENTS", "DataSet", "federation", "load_task", "part_of", "spread"]

MANY_CLIENTS = ("clients", "label flips", "replaced samples")
"""Threats that are tried on the federation of many clients: there groups of clients are small and numerous."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison."""

    recipe: str
    """Settings that name the fixed feature map, the server's samples and how many clients are few."""
    many: int
    """How many clients are many."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """To the recipe."""
    samples: int | None = None
    """Training samples of all clients together, of a data set that is tried in part; None: all."""
    test_samples: int | None = None
    """Test samples, of a data set that is tried in part; None: all."""


DATA_SETS = {
    "digits": DataSet("certified/digits", 100),
    "loan": DataSet("certified/loan", 100),
    "mnist": DataSet("certified/mnist", 1000),
    "emnist": DataSet("certified/emnist", 1000, samples=20_000, test_samples=4000),
    "cifar10": DataSet("certified/cifar10-backbone", 200, {"data.name": "cifar10", "features.map": "scattering"}),
}


def federation(data_name: str, threat: str, seed: int) -> Experiment:
    """The settings of the federation on which a threat is tried: data, partition, feature map, seed.

    Args:
        data_name: A key of DATA_SETS.
        threat: A key of THREATS.
        seed: Of the partition and of the server's own samples.

    Returns:
        Settings; what they say of training is the recipe's, and binds no method.

    Raises:
        SettingsError: There is no such data set.

    Example:
        >>> [federation("digits", threat, 0).data.clients for threat in ("client-rounds", "clients")]
        [20, 100]
    """
    if data_name not in DATA_SETS:
        raise SettingsError([f"data: got {data_name!r}, expected one of {', '.join(DATA_SETS)}"])
    known = DATA_SETS[data_name]
    exp = Experiment.named(known.recipe).override({**known.changes, "seed": seed})
    if threat not in MANY_CLIENTS:
        return exp
    return exp.override({"data.clients": known.many, "attack.round": None, "local.keep_last_batch": True})


def load_task(data_name: str, threat: str, seed: int, smoke: bool = False) -> Task:
    """The federation of `federation`, loaded. DataError if the data set is missing.

    Example:
        >>> load_task("digits", "clients", 0).data
        FederatedData 'digits': 1100 training samples of 100 clients, 300 public samples, 397 test samples, 80 features (scattering of 64 inputs), 10 classes
    """
    known, exp = DATA_SETS[data_name], federation(data_name, threat, seed)
    data = load_data(exp, download=False)
    return Task(data_name, part_of(data, known.samples, known.test_samples), seed, smoke)


def part_of(data: FederatedData, samples: int | None, test_samples: int | None) -> FederatedData:
    """The federation with fewer samples: the first ones of each client, and test samples at equal distances.

    Example:
        >>> import crfl
        >>> part_of(crfl.load_data(crfl.Experiment()), 500, 100)
        FederatedData 'digits': 500 training samples of 10 clients, 100 test samples, 64 features, 10 classes
    """
    if samples is not None:
        data = replace(data, shards=tuple(rows[: samples // len(data.shards)] for rows in data.shards))
    if test_samples is None:
        return data
    rows = spread(len(data.test), test_samples)
    return with_test(data, data.test.take(rows), None if data.origin is None else data.origin.test.take(rows))


def spread(samples: int, number: int) -> Tensor:
    """So many of the numbers from 0 to samples - 1, at equal distances.

    Example:
        >>> spread(10, 4).tolist()
        [0, 2, 5, 7]
    """
    return torch.arange(number) * samples // number
