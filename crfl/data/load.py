"""From settings to data: the data set by name, dealt out to clients, seen through the feature map."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crfl.config import Experiment
from crfl.data import cifar, digits, images
from crfl.data.deal import Dealt, deal
from crfl.data.federated import FederatedData
from crfl.data.fits import check_fits
from crfl.data.mapped import map_features
from crfl.data.public import draw_public, without
from crfl.data.splits import RowSplit, Split
from crfl.errors import DataError

__all__ = ["check_fits", "data_root", "load_data"]


def load_data(exp: Experiment, download: bool = True, progress: bool = False) -> FederatedData:
    """The data set `exp.data.name`, dealt out to `exp.data.clients` from `exp.seed`, as `exp.features` shows it.

    Args:
        exp: The settings.
        download: Whether MNIST, EMNIST and CIFAR-10 may be fetched if they are missing.
        progress: Whether to show a bar on a terminal while features are made. They are kept in the folder `features`
            of the data's folder, if there is one, and made once.

    Returns:
        The data.

    Raises:
        DataError: If the data set is missing or malformed, or does not fit the settings.
        SettingsError: If the settings of the feature map do not fit each other or the data.

    Example:
        >>> from crfl import Experiment, load_data
        >>> load_data(Experiment())
        FederatedData 'digits': 1400 training samples of 10 clients, 397 test samples, 64 features, 10 classes
    """
    loaders: dict[str, Callable[[Experiment, bool], FederatedData]] = {
        "digits": _digits,
        "mnist": _mnist,
        "emnist": _emnist,
        "cifar10": _cifar10,
        "loan": _loan,
    }
    if exp.data.name not in loaders:
        raise DataError(
            f"data.name: got {exp.data.name!r}, which is not loaded from settings; make it by "
            "FederatedData.from_arrays and pass it to train"
        )
    data = loaders[exp.data.name](exp, download)
    if exp.data.partition == "dirichlet":
        data = replace(data, dirichlet_alpha=exp.data.dirichlet_alpha)
    root = data_root(exp)
    data = map_features(data, exp.features, folder=root / "features" if root.is_dir() else None, progress=progress)
    check_fits(exp, data)
    return data


def data_root(exp: Experiment) -> Path:
    """Folder of the data: data.root, else $CRFL_DATA_DIR, else ./data."""
    return Path(exp.data.root or os.environ.get("CRFL_DATA_DIR") or "data").expanduser()


def _digits(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = digits.load_digits()
    return _images(exp, x, y, test, 10, digits.SCALE, input_shape=digits.IMAGE_SHAPE)


def _mnist(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = images.load_mnist(data_root(exp), download)
    return _images(exp, x, y, test, 10, images.SCALE, input_shape=images.IMAGE_SHAPE)


def _emnist(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = images.load_emnist(data_root(exp), download)
    names = images.EMNIST_CLASSES
    return _images(exp, x, y, test, len(names), images.SCALE, class_names=names, input_shape=images.IMAGE_SHAPE)


def _cifar10(exp: Experiment, download: bool) -> FederatedData:
    x, y, test = cifar.load_cifar10(data_root(exp), download)
    shape = cifar.INPUT_SHAPE
    return _images(exp, x, y, test, len(cifar.CLASSES), cifar.SCALE, class_names=cifar.CLASSES, input_shape=shape)


def _images(
    exp: Experiment, x: Tensor, y: Tensor, test: Split, classes: int, scale: float, **about: Any
) -> FederatedData:
    """Images from 0 to 1, dealt out."""
    dealt = _deal(exp, y)
    about |= {"domain": (0.0, 1.0), "partition": dealt.partition, "public_rows": dealt.public}
    return FederatedData(exp.data.name, x, y, dealt.shards, test, classes, scale, **about)


def _loan(exp: Experiment, download: bool) -> FederatedData:
    """One client a state; or, with another partition, the training rows of all states dealt out anew."""
    from crfl.data import loan  # here, because it is needed for this data set only

    table = loan.load_loans(data_root(exp))
    by_state = exp.data.partition == "natural"
    states = loan.choose_states(table, exp.data.clients) if by_state else loan.states_of(table)
    shards, test = loan.split(table, states, exp.seed)
    x, y = torch.from_numpy(table.x), torch.from_numpy(table.y).long()
    rows = torch.cat(shards)
    if by_state:
        public = draw_public(rows, exp.features.public, exp.seed)
        shards = without(shards, public, len(x))
    else:
        dealt = _deal(exp, y[rows])
        shards = tuple(rows[shard].sort().values for shard in dealt.shards)
        public = rows[:0] if dealt.public is None else rows[dealt.public].sort().values
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
        partition=exp.data.partition,
        public_rows=public if len(public) else None,
    )


def _deal(exp: Experiment, y: Tensor) -> Dealt:
    """Rows of each client and of the server, for data without natural clients."""
    if not isinstance(exp.data.clients, int):
        raise DataError(
            f"data.clients: got {list(exp.data.clients)}, expected for {exp.data.name}: a number of clients"
        )
    if exp.data.partition == "natural":
        raise DataError(
            f"data.partition: got 'natural', expected for {exp.data.name}: 'iid' or 'dirichlet' "
            "(only loan has natural clients)"
        )
    alpha, public = exp.data.dirichlet_alpha, exp.features.public
    return deal(y, exp.data.clients, exp.data.partition, alpha, None, public, exp.seed)
