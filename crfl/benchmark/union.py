"""The union of the clients' samples, as methods for central training see it, and an attack that flips its labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from crfl.data.federated import FederatedData
from crfl.errors import CrflError

__all__ = ["flip_labels", "norm_bound", "union"]


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


def flip_labels(data: FederatedData, count: int) -> FederatedData:
    """The data after at most `count` labels changed, those of one class to another that is like it.

    Of the two classes a and b whose means are nearest to each other, the samples of a that are nearest to the mean of
    b get the label b; then, if that is not enough, the samples of b nearest to the mean of a get the label a.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(crfl.Experiment())
        >>> int((flip_labels(data, 10).y != data.y).sum())
        10
    """
    x, y = union(data)
    present = np.unique(y)
    means = np.stack([x[y == c].mean(axis=0) for c in present])
    apart = np.linalg.norm(means[:, None] - means, axis=2)
    np.fill_diagonal(apart, np.inf)
    first, second = np.unravel_index(apart.argmin(), apart.shape)
    flipped, left = y.copy(), int(count)
    for own, other in ((first, second), (second, first)):
        rows = np.flatnonzero(y == present[own])
        chosen = rows[np.argsort(np.linalg.norm(x[rows] - means[other], axis=1))[:left]]
        flipped[chosen] = present[other]
        left -= len(chosen)
    labels = data.y.clone()
    labels[torch.cat(data.shards)] = torch.from_numpy(flipped)
    return replace(data, y=labels)
