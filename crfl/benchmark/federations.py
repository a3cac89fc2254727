"""The federations on which methods are compared: for each data set one of few clients, and one of many."""

from __future__ import annotations

from dataclasses import dataclass

from crfl.benchmark.entry import Task
from crfl.config import Experiment
from crfl.data.load import load_data
from crfl.errors import SettingsError

__all__ = ["DATA_SETS", "MANY_CLIENTS", "DataSet", "federation", "load_task"]

MANY_CLIENTS = ("clients", "label flips", "replaced samples")
"""Threats that are tried on the federation of many clients: there groups of clients are small and numerous."""


@dataclass(frozen=True)
class DataSet:
    """A data set of the comparison."""

    recipe: str
    """Settings that name the fixed feature map, the server's samples and how many clients are few."""
    many: int
    """How many clients are many."""


DATA_SETS = {
    "digits": DataSet("certified/digits", 100),
    "loan": DataSet("certified/loan", 100),
    "mnist": DataSet("certified/mnist", 1000),
    "emnist": DataSet("certified/emnist", 1000),
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
    exp = Experiment.named(known.recipe).override({"seed": seed})
    if threat not in MANY_CLIENTS:
        return exp
    return exp.override({"data.clients": known.many, "attack.round": None, "local.keep_last_batch": True})


def load_task(data_name: str, threat: str, seed: int, smoke: bool = False) -> Task:
    """The federation of `federation`, loaded. DataError if the data set is missing.

    Example:
        >>> load_task("digits", "clients", 0).data
        FederatedData 'digits': 1100 training samples of 100 clients, 300 public samples, 397 test samples, 80 features (scattering of 64 inputs), 10 classes
    """
    exp = federation(data_name, threat, seed)
    return Task(data_name, load_data(exp, download=False), seed, smoke)
