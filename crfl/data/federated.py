"""FederatedData: the training samples once, the client that owns each, and the test split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from crfl.errors import DataError


@dataclass(frozen=True)
class Split:
    """Labelled samples: features `x` (m, d) float32 and labels `y` (m,) int64."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: Sequence[int] | Tensor) -> Split:
        """The samples at the given rows."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Split(self.x[index], self.y[index])


@dataclass(frozen=True)
class Client:
    """One client's shard, as a copy in real units: `x` (n_i, d) float32, `y` (n_i,) int64."""

    name: str
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class FederatedData:
    """Training samples in one matrix, dealt to clients by row number, and a test split.

    The features are `scale * x`: images stay in their bytes (scale = 1/255) and are never copied per client.
    """

    name: str
    x: Tensor
    """(n, d) uint8 or float32: stored features of all training samples."""
    y: Tensor
    """(n,) int64: labels."""
    shards: tuple[Tensor, ...]
    """For each client the rows of `x` that it owns, (n_i,) int64."""
    test: Split
    num_classes: int
    scale: float = 1.0
    client_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()
    image_shape: tuple[int, int] | None = None
    """(height, width) if the features are the pixels of an image, row by row."""
    domain: tuple[float, float] | None = None
    """Declared bounds of every feature, e.g. (0, 1); poisoned samples are clamped to them."""

    def __post_init__(self) -> None:
        if not self.client_names:
            object.__setattr__(self, "client_names", tuple(f"client {i}" for i in range(len(self.shards))))
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.num_classes))))

    @property
    def num_features(self) -> int:
        """d"""
        return self.x.shape[1]

    @property
    def sizes(self) -> tuple[int, ...]:
        """n_i: samples of each client."""
        return tuple(len(rows) for rows in self.shards)

    @property
    def clients(self) -> tuple[Client, ...]:
        """The clients' shards as copies in real units; training reads `x` and `shards` instead."""
        return tuple(
            Client(name, self.features(rows), self.y[rows])
            for name, rows in zip(self.client_names, self.shards, strict=True)
        )

    def features(self, rows: Tensor) -> Tensor:
        """Features of the given training rows in real units, (k, d) float32."""
        return self.x[rows].float() * self.scale

    def to(self, device: str | torch.device) -> FederatedData:
        """The same data with its tensors on `device`; the shards' row numbers stay on the CPU."""
        test = Split(self.test.x.to(device), self.test.y.to(device))
        return replace(self, x=self.x.to(device), y=self.y.to(device), test=test)

    @cached_property
    def max_feature_norm(self) -> float:
        """Largest ||x|| among the clients' training samples, in float64."""
        largest = 0.0
        for rows in self.shards:
            for block in rows.split(8192):
                largest = max(largest, float(self.x[block].double().square().sum(1).max()))
        return self.scale * math.sqrt(largest)


def check_labels(y: Tensor, num_classes: int, what: str) -> None:
    """DataError unless every label is 0 .. num_classes - 1."""
    wrong = np.flatnonzero((y < 0) | (y >= num_classes))
    if len(wrong):
        raise DataError(f"{what}: found label {int(y[wrong[0]])} at row {wrong[0]}, allowed: 0 to {num_classes - 1}")
