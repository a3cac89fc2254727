"""Labelled samples: a split, a split that is rows of a matrix, a client's shard, and samples before a feature map."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Labelled samples: features `x` (m, d) float32 and labels `y` (m,) int64.

    Example:
        >>> split = Split(torch.rand(5, 2), torch.tensor([0, 1, 1, 0, 1]))
        >>> len(split), split.majority_accuracy, [len(block) for block in split.blocks(2)]
        (5, 0.6, [2, 2, 1])
        >>> split.to("cpu").take([3, 4]).y
        tensor([0, 1])
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    @property
    def majority_accuracy(self) -> float:
        """Accuracy of predicting the most frequent class for every sample; NaN without samples."""
        return float(self.y.bincount().max()) / len(self) if len(self) else math.nan

    def take(self, rows: Sequence[int] | Tensor) -> Split:
        """Some of the samples.

        Args:
            rows: Their row numbers (k,); a row may come several times.

        Returns:
            The k samples, in the order of `rows`.
        """
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Split(self.x[index], self.y[index])

    def blocks(self, size: int) -> Iterator[Split]:
        """The samples in order, some at a time.

        Args:
            size: Samples a block; the last one has what is left.

        Returns:
            The blocks, which share the memory of the split.
        """
        return map(Split, self.x.split(size), self.y.split(size))

    def to(self, device: str | torch.device) -> Split:
        """The same samples on another device.

        Args:
            device: Such as "cuda".

        Returns:
            The samples; the split itself if it is there already.
        """
        return self if self.y.device == torch.device(device) else Split(self.x.to(device), self.y.to(device))


class RowSplit(Split):
    """The given rows of a matrix as a split: `x` is copied when it is first asked for, `blocks` copy as they go."""

    matrix: Tensor
    rows: Tensor

    @classmethod
    def of(cls, matrix: Tensor, rows: Tensor, y: Tensor) -> RowSplit:
        """`matrix` (n, d); `rows` (m,) int64; `y` (m,) int64, the labels of these rows."""
        split = cls.__new__(cls)
        vars(split).update(matrix=matrix, rows=rows, y=y)  # frozen
        return split

    @cached_property
    def x(self) -> Tensor:
        """(m, d)"""
        return self.matrix[self.rows]

    def blocks(self, size: int) -> Iterator[Split]:
        """The samples in order, `size` at a time."""
        if "x" in vars(self):
            return super().blocks(size)
        return (Split(self.matrix[rows], y) for rows, y in zip(self.rows.split(size), self.y.split(size), strict=True))

    def take(self, rows: Sequence[int] | Tensor) -> Split:
        """The samples at the given rows."""
        if "x" in vars(self):
            return super().take(rows)
        index = torch.as_tensor(rows, dtype=torch.int64)
        return Split(self.matrix[self.rows[index]], self.y[index])

    def __reduce__(self) -> tuple[type[Split], tuple[Tensor, Tensor]]:
        """Copies and pickles hold the samples, not the matrix."""
        return Split, (self.x, self.y)


@dataclass(frozen=True)
class Client:
    """One client's shard, as a copy in real units: `x` (n_i, d) float32, `y` (n_i,) int64.

    Example:
        >>> import crfl
        >>> client = crfl.load_data(crfl.Experiment()).clients[0]
        >>> client.name, len(client), client.x.shape
        ('client 0', 140, torch.Size([140, 64]))
    """

    name: str
    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The samples that a feature map was applied to: what triggers are planted in."""

    x: Tensor
    """(n, d_in) uint8 or float32: stored inputs of the training samples."""
    scale: float
    """The inputs are scale * x."""
    test: Split
    """Inputs (m, d_in) float32 of the test samples, in real units, with their labels."""

    def to(self, device: str | torch.device) -> Inputs:
        """The same samples with their tensors on `device`."""
        return Inputs(self.x.to(device), self.scale, self.test.to(device))
