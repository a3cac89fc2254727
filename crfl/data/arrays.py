"""A user's own arrays -> checked tensors: features (n, d) uint8 or float32, labels (n,) int64, rows of each client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfl.errors import DataError

MOST_CLASSES = 2**16
"""A larger label stands for something else, such as "ignore me"."""


def samples(values: Any, what: str) -> tuple[Tensor, tuple[int, ...] | None]:
    """Inputs (n, d), and the input shape if `values` are images: (n, height, width), or with 1 or 3 channels.

    Channels may come first or last (last, if both could be); inputs have them last, (height, width, 3). uint8 and
    float32 stay as they are, not copied if possible; other numbers become float32. DataError if `values` is not such
    an array.
    """
    x = _tensor(values, what)
    if x.is_complex() or x.dim() not in (2, 3, 4) or not x.numel() or (x.dim() == 4 and not _channels(x)):
        raise DataError(
            f"{what}: got {x.dtype} of shape {tuple(x.shape)}, expected numbers (n, d), or images (n, h, w), "
            "(n, h, w, 3) or (n, 3, h, w)"
        )
    if x.dtype != torch.uint8:
        x = x.to(torch.float32)
    if x.dim() == 4 and x.shape[3] not in (1, 3):
        x = x.permute(0, 2, 3, 1)
    shape = tuple(x.shape[1:3] if x.dim() == 3 or (x.dim() == 4 and x.shape[3] == 1) else x.shape[1:])
    return x.reshape(len(x), -1), shape if x.dim() > 2 else None


def _channels(x: Tensor) -> bool:
    return x.shape[3] in (1, 3) or x.shape[1] in (1, 3)


def labels(values: Any, samples: int, what: str) -> Tensor:
    """Labels (n,) int64. DataError unless `values` is one whole number of at least 0 for each sample."""
    y = _tensor(values, what)
    if y.is_floating_point() or y.is_complex() or y.shape != (samples,):
        raise DataError(
            f"{what}: got {y.dtype} of shape {tuple(y.shape)}, expected {samples} integers, one for each sample"
        )
    y = y.to(torch.int64)
    if int(y.min()) < 0:
        raise DataError(f"{what}: got label {int(y.min())} at row {int(y.argmin())}, expected 0 and up")
    return y


def number_of_classes(y: Tensor, y_test: Tensor) -> int:
    """The largest label + 1. DataError if that is no sensible number of classes."""
    largest = max(int(v.max()) for v in (y, y_test) if len(v))
    if largest >= MOST_CLASSES:
        raise DataError(f"y: got label {largest}, expected below {MOST_CLASSES} unless num_classes says otherwise")
    return 1 + largest


def row_sets(shards: Sequence[Any]) -> tuple[Tensor, ...]:
    """Rows of each client, int64. DataError if a client has none, or what it has are not row numbers."""
    sets = []
    for i, given in enumerate(shards):
        rows = given if isinstance(given, Tensor) else _tensor(given, f"shards[{i}]")
        if rows.dim() != 1 or not len(rows) or rows.is_floating_point() or rows.dtype == torch.bool:
            raise DataError(
                f"shards[{i}]: got {rows.dtype} of shape {tuple(rows.shape)}, expected one row number or more"
            )
        sets.append(rows.to("cpu", torch.int64))
    return tuple(sets)


def _tensor(values: Any, what: str) -> Tensor:
    """A tensor on the CPU that shares memory with `values` if it can."""
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        if np.ma.is_masked(values):
            raise DataError(f"{what}: got masked values, expected a number everywhere; fill them first")
        array = np.asarray(values)
        if not array.flags.writeable or any(step < 0 for step in array.strides):
            array = array.copy()
        return torch.from_numpy(array)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what}: {error}; expected a NumPy array or torch tensor of numbers") from None
