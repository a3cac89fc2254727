"""From settings to data: the data set by name, dealt out to clients."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from crfl.config import Experiment
from crfl.data import digits, images, partition
from crfl.data.federated import FederatedData, RowSplit
from crfl.errors import DataError
from crfl.rng import stream


def load_data(exp: Experiment, download: bool = True) -> FederatedData:
    """The data set `exp.data.name`, dealt out to `exp.data.clients` from `exp.seed`.

    download: whether MNIST and EMNIST may be fetched if they are missing. DataError if the data set is missing or
    malformed, or does not fit the settings.
    """
    loaders = {"digits": _digits, "mnist": _mnist, "emnist": _emnist, "loan": _loan}
    if exp.data.name not in loaders:
        raise DataError(
            f"data.name: got {exp.data.name!r}, which is not loaded from settings; make it by "
            "FederatedData.from_arrays and pass it to train"
        )
    data = loaders[exp.data.name](exp, download)
    check_fits(exp, data)
    return data


def data_root(exp: Experiment) -> Path:
    """Folder of the data: data.root, else $CRFL_DATA_DIR, else ./data."""
    return Path(exp.data.root or os.environ.get("CRFL_DATA_DIR") or "data").expanduser()


def check_fits(exp: Experiment, data: FederatedData) -> None:
    """DataError unless every client fills a batch and has its learning rate. (The attack's plan checks the attack.)"""
    rates, clients = exp.local.learning_rate, len(data.shards)
    if isinstance(rates, tuple) and len(rates) != clients:
        raise DataError(f"local.learning_rate: got {len(rates)}, expected one, or one for each of {clients} clients")
    smallest = 1 if exp.local.keep_last_batch else exp.local.batch_size
    short = [(name, size) for name, size in zip(data.client_names, data.sizes, strict=True) if size < smallest]
    if short:
        (name, size), others = short[0], f" (so have {len(short) - 1} other clients)" if len(short) > 1 else ""
        raise DataError(
            f"{name} has {size} training samples{others}, expected at least one batch of {smallest}; "
            f"{'lower local.batch_size or ' if size else ''}choose other data.clients"
        )


def _digits(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = digits.load_digits()
    return FederatedData(
        "digits", x, y, _deal(exp, y), test, 10, digits.SCALE, image_shape=digits.IMAGE_SHAPE, domain=(0.0, 1.0)
    )


def _mnist(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = images.load_mnist(data_root(exp), download)
    return FederatedData(
        "mnist", x, y, _deal(exp, y), test, 10, images.SCALE, image_shape=images.IMAGE_SHAPE, domain=(0.0, 1.0)
    )


def _emnist(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = images.load_emnist(data_root(exp), download)
    return FederatedData(
        "emnist",
        x,
        y,
        _deal(exp, y),
        test,
        len(images.EMNIST_CLASSES),
        images.SCALE,
        class_names=images.EMNIST_CLASSES,
        image_shape=images.IMAGE_SHAPE,
        domain=(0.0, 1.0),
    )


def _loan(exp: Experiment, download: bool) -> FederatedData:
    """One client a state; or, with another partition, the training rows of all states dealt out anew."""
    from crfl.data import loan  # here, because it is needed for this data set only

    table = loan.load_loans(data_root(exp))
    by_state = exp.data.partition == "natural"
    states = loan.choose_states(table, exp.data.clients) if by_state else loan.states_of(table)
    shards, test = loan.split(table, states, exp.seed)
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y).long()
    if not by_state:
        rows = torch.cat(shards)
        shards = tuple(rows[shard].sort().values for shard in _deal(exp, y[rows]))
    return FederatedData(
        "loan",
        x,
        y,
        shards,
        RowSplit.of(x, test, y[test]),
        len(loan.LABELS),
        client_names=tuple(states) if by_state else (),
        class_names=loan.LABELS,
        feature_names=loan.FEATURES,
        domain=(0.0, 1.0),
        notes=(f"{table.footers} footer rows skipped",) if table.footers else (),
    )


def _deal(exp: Experiment, y: Tensor) -> partition.Shards:
    """Rows of each client for data without natural clients."""
    clients, generator = exp.data.clients, stream(exp.seed, "partition")
    if not isinstance(clients, int):
        raise DataError(f"data.clients: got {list(clients)}, expected for {exp.data.name}: a number of clients")
    if exp.data.partition == "iid":
        return partition.iid(len(y), clients, generator)
    if exp.data.partition == "dirichlet":
        return partition.dirichlet(y, clients, exp.data.dirichlet_alpha, generator)
    raise DataError(
        f"data.partition: got {exp.data.partition!r}, expected for {exp.data.name}: 'iid' or 'dirichlet' "
        "(only loan has natural clients)"
    )
