"""How curved a client's loss can be: a smoothness constant for every batch that it can draw."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from crfl.config import Local
from crfl.data.federated import FederatedData

CHUNK = 256
"""Clients of one size that are looked at together."""
ROUNDED = {"float64": 1e-9, "float32": 2.0**-21}
"""Share by which the eigenvalue is raised: for its own rounding, and in float32 for that of scale times x."""


def batch_smoothness(data: FederatedData, local: Local, bias: bool) -> npt.NDArray[np.float64]:
    """beta_i of each client, (N,): no batch of it has a mean loss with a larger Hessian, whatever the parameters.

    The Hessian of softmax regression's mean loss is the batch mean of J (x) x~ x~^T with 0 <= J <= I / 2, so at most
    half of the largest eigenvalue of the mean of x~ x~^T. For a client with less than two batches the sum over a batch
    is at most that over its whole shard; for others the constant is B^2 / 2, B the largest ||x~||.
    """
    sizes = np.asarray(data.sizes)
    largest = math.hypot(1.0, data.max_feature_norm) if bias else data.max_feature_norm
    smoothness = np.full(len(sizes), largest**2 / 2)
    for size in np.unique(sizes).tolist():
        if not 0 < size < 2 * local.batch_size:
            continue
        last = size % local.batch_size if local.keep_last_batch else 0
        batch = last or min(size, local.batch_size)
        members = np.flatnonzero(sizes == size)
        for start in range(0, len(members), CHUNK):
            some = members[start : start + CHUNK]
            top = _top_eigenvalues(data, some, bias)
            smoothness[some] = np.minimum(smoothness[some], top / batch / 2 * (1 + ROUNDED[local.precision]))
    return smoothness


def _top_eigenvalues(data: FederatedData, clients: npt.NDArray[np.int64], bias: bool) -> npt.NDArray[np.float64]:
    """The largest eigenvalue of the sum of x~ x~^T over the shard of each of these clients of one size, (k,)."""
    rows = torch.stack([data.shards[client] for client in clients.tolist()])
    x = (data.x[rows.flatten()].double() * data.scale).view(*rows.shape, -1)  # as it is trained on in float64
    if bias:
        x = torch.cat([x, x.new_ones(*rows.shape, 1)], dim=2)
    gram = x @ x.mT if rows.shape[1] <= x.shape[2] else x.mT @ x
    return torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).cpu().numpy()
