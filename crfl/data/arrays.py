"""A user's own arrays -> checked tensors: features (n, d) uint8 or float32, labels (n,) int64, rows of each client."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfl.errors import DataError

MOST_CLASSES = 2**16
"""A larger label stands for something else, such as "ignore me"."""


def features(
    values: Any, what: str, image_shape: tuple[int, int] | None = None
) -> tuple[Tensor, tuple[int, int] | None]:
    """Features (n, d), and the image shape if `values` is (n, height, width).

    uint8 and float32 stay as they are, not copied if possible; other numbers become float32. DataError if `values` is
    not such an array or holds a number that is not finite in float32.
    """
    x = _tensor(values, what)
    if x.is_complex() or x.ndim not in (2, 3) or not x.numel():
        raise DataError(f"{what}: got {x.dtype} of shape {tuple(x.shape)}, expected numbers (n, d) or images (n, h, w)")
    if x.ndim == 3:
        if image_shape is not None and tuple(image_shape) != x.shape[1:]:
            raise DataError(f"{what}: got images of shape {tuple(x.shape[1:])}, expected {tuple(image_shape)}")
        image_shape = (x.shape[1], x.shape[2])
    if x.dtype != torch.uint8:
        x = x.to(torch.float32)
    x = x.reshape(len(x), -1)
    if x.dtype != torch.uint8 and not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        row, column = torch.isfinite(x).logical_not().nonzero()[0].tolist()
        raise DataError(f"{what}: got {float(x[row, column])} at row {row}, feature {column}, expected finite numbers")
    return x, image_shape


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


def factor(scale: Any, *features: Tensor) -> float:
    """The scale as a number; DataError unless it is positive and every feature times it is finite in float32."""
    try:
        found = math.nan if isinstance(scale, (bool, str)) else float(scale)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise DataError(f"scale: got {scale!r}, expected a positive number")
    largest = max(abs(float(v)) for x in features for v in torch.aminmax(x))
    if found * largest > torch.finfo(torch.float32).max:
        raise DataError(f"scale: got {scale!r}, expected a factor under which features stay finite in float32")
    return found


def number_of_classes(declared: Any, y: Tensor, test_y: Tensor) -> int:
    """The declared number of classes C or, if None, the largest label + 1. DataError unless it is a sensible number."""
    if declared is None:
        largest = max(int(y.max()), int(test_y.max()))
        if largest >= MOST_CLASSES:
            raise DataError(f"y: got label {largest}, expected below {MOST_CLASSES} unless num_classes says otherwise")
        return 1 + largest
    try:
        found = 0 if isinstance(declared, bool) else operator.index(declared)
    except TypeError:
        found = 0
    if found < 1:
        raise DataError(f"num_classes: got {declared!r}, expected a whole number of at least 1")
    return found


def check_labels(y: Tensor, num_classes: int, what: str) -> None:
    """DataError unless every label is 0 .. num_classes - 1."""
    wrong = ((y < 0) | (y >= num_classes)).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise DataError(f"{what}: got label {int(y[row])} at row {row}, expected 0 to {num_classes - 1}")


def interval(domain: Any) -> tuple[float, float]:
    """The smallest interval with bounds of float32 around the declared domain: a feature at its bound is inside.

    DataError unless `domain` is two finite numbers, the smaller one first.
    """
    try:
        low, high = map(float, domain)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise DataError(f"domain: got {domain!r}, expected two finite numbers, the smaller one first")
    return min(low, float(np.float32(low))), max(high, float(np.float32(high)))


def check_domain(x: Tensor, scale: float, domain: tuple[float, float], what: str) -> None:
    """DataError unless every feature `scale * x` lies in the declared domain."""
    low, high = domain
    least, most = (scale * float(v) for v in torch.aminmax(x))
    if least < low or most > high:
        flat = int(x.argmin() if least < low else x.argmax())
        row, column = divmod(flat, x.shape[1])
        raise DataError(
            f"{what}: got {least if least < low else most} at row {row}, feature {column}, expected {low} to {high}, "
            "the declared domain; scale the features or declare another domain"
        )


def row_sets(shards: Sequence[Any], samples: int) -> tuple[Tensor, ...]:
    """Rows of each client, int64. DataError if a client has none, a row does not exist or is given twice."""
    sets = []
    owners = torch.zeros(samples, dtype=torch.int64)
    for i, given in enumerate(shards):
        rows = _tensor(given, f"shards[{i}]")
        if rows.ndim != 1 or not len(rows) or rows.is_floating_point() or rows.dtype == torch.bool:
            raise DataError(
                f"shards[{i}]: got {rows.dtype} of shape {tuple(rows.shape)}, expected one row number or more"
            )
        rows = rows.to(torch.int64)
        if int(rows.min()) < 0 or int(rows.max()) >= samples:
            found = int(rows.min()) if int(rows.min()) < 0 else int(rows.max())
            raise DataError(f"shards[{i}]: got row {found}, expected 0 to {samples - 1}")
        owners += torch.bincount(rows, minlength=samples)
        sets.append(rows)
    if not sets or int(owners.max()) > 1:
        found_twice = f"row {int(owners.argmax())} {int(owners.max())} times" if sets else "no clients"
        raise DataError(f"shards: got {found_twice}, expected at least one client, and every row at most once")
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
