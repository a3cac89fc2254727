"""The union of the clients' samples, as methods for central training see it, and an attack that flips its labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.attack.search import targeted_flips, worst_direction
from crfl.data.federated import FederatedData
from crfl.errors import CrflError
from crfl.models.softmax import SoftmaxRegression

__all__ = ["flip_labels", "norm_bound", "union"]

VICTIMS = 1000
"""Test samples against which the direction of an attack is searched."""


def union(data: FederatedData) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Features (n, d) and labels (n,) of all clients' samples, client by client.

    Example:
        >>> import crfl
        >>> x, y = union(crfl.load_data(crfl.Experiment()))
        >>> x.shape, y.shape
        ((1400, 64), (1400,))
    """
    rows = torch.cat(data.shards)
    return data.features(rows).double().numpy(), data.y[rows].numpy()


def norm_bound(data: FederatedData) -> float:
    """A bound on the norm of the features of every possible sample: of the feature map, or of the declared domain.

    Raises:
        CrflError: there is none.

    Example:
        >>> import crfl
        >>> norm_bound(crfl.load_data(crfl.Experiment()))  # 64 pixels from 0 to 1
        8.0
    """
    if data.norm_bound is not None:
        return data.norm_bound
    if data.feature_map is None and data.domain is not None:
        return math.sqrt(data.num_inputs) * max(map(abs, data.domain))
    raise CrflError("data: got features without a bound, expected features.norm, or a declared domain of the inputs")


def flip_labels(data: FederatedData, count: int, params: Tensor | None = None) -> FederatedData:
    """The data after at most `count` labels changed, those of `targeted_flips` against a linear model.

    The direction is the one in which a move by half of the model's norm makes most of the test samples wrong.

    Args:
        data: The federation.
        count: Labels to change, at most as many as there are samples.
        params: The model (P,) that is attacked, of softmax regression without a bias; None: least squares on the union.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(crfl.Experiment())
        >>> int((flip_labels(data, 10).y != data.y).sum())
        10
    """
    model = SoftmaxRegression(data.num_features, data.num_classes, bias=False)
    attacked = _least_squares(data) if params is None else params.double()
    x, y = data.test.x[:VICTIMS], data.test.y[:VICTIMS]
    direction = worst_direction(model, attacked, x, y, float(attacked.norm()) / 2)
    rows, labels = torch.cat(data.shards), data.y.clone()
    chosen, new = targeted_flips(model, data.features(rows), data.y[rows], direction, count)
    labels[rows[chosen]] = new
    return replace(data, y=labels)


def _least_squares(data: FederatedData) -> Tensor:
    """(P,): weights of ridge regression from features to classes, (X^T X + 0.1 mean(X^T X) I)^-1 X^T Y."""
    x, y = union(data)
    gram = x.T @ x
    gram[np.diag_indices(len(gram))] += 0.1 * np.trace(gram) / len(gram)
    return torch.from_numpy(np.linalg.solve(gram, x.T @ np.eye(data.num_classes)[y]).T.copy()).flatten()
