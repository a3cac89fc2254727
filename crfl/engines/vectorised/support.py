"""The features that each client has: a linear model learns nothing from those that are 0 in all of its samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crfl.data.federated import FederatedData
from crfl.engines.vectorised.tuning import SUPPORTED_SHARE
from crfl.matmul import BLOCKS


@dataclass(frozen=True)
class FeatureSupport:
    """The training samples without the features that a client does not have."""

    columns: Tensor
    """(N, w): the features that are left to each client, as many as the client with the most needs."""
    x: Tensor
    """(rows, w): these features of the stored samples, one client after the other."""


def feature_support(data: FederatedData) -> FeatureSupport | None:
    """The support of every client; None if that would leave out too few features to pay."""
    used = torch.zeros(len(data.shards), data.num_features, dtype=torch.bool, device=data.x.device)
    for own, rows in zip(used, data.shards, strict=True):
        for block in rows.split(1024):
            own |= data.x[block].any(dim=0).bool()  # of bytes, any() gives bytes
        if own.sum() > SUPPORTED_SHARE * len(own):
            return None
    width = int(used.sum(1).max())
    width += width % BLOCKS == 0
    columns = used.int().sort(dim=1, descending=True, stable=True).indices[:, :width].clone()
    x = torch.cat([data.x[rows][:, own] for rows, own in zip(data.shards, columns, strict=True)])
    return FeatureSupport(columns, x)
