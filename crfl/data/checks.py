"""What must hold of federated data, however it was made. DataError names what does not."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crfl.data.splits import Inputs, RowSplit, Split
from crfl.errors import DataError

if TYPE_CHECKING:
    from crfl.data.federated import FederatedData

BLOCK = 2**12
"""Samples that are looked at at a time."""


def completed(data: FederatedData) -> dict[str, Any]:
    """The fields that have defaults or another type than what may be given; DataError if they cannot be made."""
    classes = whole_number(data.num_classes, "num_classes")
    return {
        "shards": tuple(data.shards),
        "client_names": tuple(data.client_names) or tuple(f"client {i}" for i in range(len(data.shards))),
        "scale": positive_number(data.scale, "scale"),
        "num_classes": classes,
        "class_names": tuple(data.class_names) or tuple(map(str, range(classes))),
        "domain": None if data.domain is None else interval(data.domain),
    }


def check_data(data: FederatedData) -> None:
    """DataError unless samples, labels, shards, names, domain and feature map are sound and fit each other."""
    _check_matrix(data.x, "x")
    _check_labels(data.y, len(data.x), data.num_classes, "y")
    _check_test(data.test, data.x.shape[1], data.num_classes, "test")
    if (data.origin is None) != (data.feature_map is None):
        raise DataError("origin: expected the samples before the feature map exactly where there is a feature_map")
    if data.origin is not None:
        _check_origin(data, data.origin)
    _check_values(data)
    _check_owners(data)
    _check_names(data)


def positive_number(value: Any, what: str) -> float:
    """The value as a number; DataError unless it is one, positive and finite."""
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not 0 < found < math.inf:
        raise DataError(f"{what}: got {value!r}, expected a positive number")
    return found


def whole_number(value: Any, what: str) -> int:
    """The value as an integer; DataError unless it is one, and at least 1."""
    try:
        found = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = 0
    if found < 1:
        raise DataError(f"{what}: got {value!r}, expected a whole number of at least 1")
    return found


def interval(domain: Any) -> tuple[float, float]:
    """The smallest interval with bounds of float32 around the declared domain: an input at its bound is inside.

    DataError unless `domain` is two finite numbers, the smaller one first.
    """
    try:
        low, high = map(float, domain)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise DataError(f"domain: got {domain!r}, expected two finite numbers, the smaller one first")
    return min(low, float(np.float32(low))), max(high, float(np.float32(high)))


def _check_matrix(x: Any, what: str, kinds: tuple[torch.dtype, ...] = (torch.uint8, torch.float32)) -> None:
    if not isinstance(x, Tensor) or x.dtype not in kinds or x.dim() != 2 or not x.shape[1]:
        names = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
        raise DataError(f"{what}: got {_kind(x)}, expected a tensor (samples, features) of {names}")


def _check_labels(y: Any, samples: int, classes: int, what: str) -> None:
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (samples,):
        raise DataError(f"{what}: got {_kind(y)}, expected {samples} labels in int64, one for each sample")
    if samples:
        least, most = (int(v) for v in torch.aminmax(y))
        if least < 0 or most >= classes:
            row = int(y.argmin() if least < 0 else y.argmax())
            raise DataError(f"{what}: got label {int(y[row])} at row {row}, expected 0 to {classes - 1}")


def _check_test(test: Any, columns: int, classes: int, what: str) -> None:
    if not isinstance(test, Split):
        raise DataError(f"{what}: got {type(test).__name__}, expected a Split")
    lazy = isinstance(test, RowSplit)
    matrix = test.matrix if isinstance(test, RowSplit) else test.x
    _check_matrix(matrix, f"{what}.x", (torch.float32,))
    if matrix.shape[1] != columns:
        raise DataError(f"{what}.x: got {matrix.shape[1]} features, expected {columns} as in x")
    _check_labels(test.y, len(test.rows) if isinstance(test, RowSplit) and lazy else len(matrix), classes, f"{what}.y")
    if isinstance(test, RowSplit):
        _check_rows(test.rows, len(matrix), f"{what}.rows")


def _check_origin(data: FederatedData, origin: Inputs) -> None:
    _check_matrix(origin.x, "origin.x")
    positive_number(origin.scale, "origin.scale")
    if len(origin.x) != len(data.x):
        raise DataError(f"origin.x: got {len(origin.x)} samples, expected {len(data.x)} as in x")
    _check_test(origin.test, origin.x.shape[1], data.num_classes, "origin.test")
    if not torch.equal(origin.test.y, data.test.y):
        raise DataError("origin.test.y: expected the same labels as in test.y")


def _check_values(data: FederatedData) -> None:
    """Every number finite, every input in the domain, every feature vector in its ball."""
    matrices = [("x", data.x, data.scale, data.test)]
    if data.origin is not None:
        matrices = [("origin.x", data.origin.x, data.origin.scale, data.origin.test)]
        _check_ball(data.x, data.scale, data.norm_bound, "x")
        for block in data.test.blocks(BLOCK):
            _check_ball(block.x, 1.0, data.norm_bound, "test.x")
    for what, x, scale, test in matrices:
        _check_range(x, scale, data.domain, what)
        seen = isinstance(test, RowSplit) and test.matrix is x and scale == 1.0
        for number, block in enumerate(() if seen else test.blocks(BLOCK)):
            _check_range(block.x, 1.0, data.domain, what.replace("x", "test.x"), number * BLOCK)


def _check_range(x: Tensor, scale: float, domain: tuple[float, float] | None, what: str, first_row: int = 0) -> None:
    """DataError unless every `scale * x` is finite in float32 and in the domain, which is checked in float64."""
    if not len(x):
        return
    least, most = (scale * float(v) for v in torch.aminmax(x))  # NaN if there is one
    largest = float(np.finfo(np.float32).max)
    low, high = (-largest, largest) if domain is None else domain
    if low <= least and most <= high and max(-least, most) <= largest:
        return
    bad = ~torch.isfinite(x) if not math.isfinite(least + most) else (x == (least if least < low else most) / scale)
    bad = bad if bool(bad.any()) else (x == (x.min() if least < low else x.max()))
    row, column = divmod(int(bad.flatten().int().argmax()), x.shape[1])
    value = scale * float(x[row, column])
    expected = "finite numbers" if domain is None else f"{low} to {high}, the declared domain"
    advice = "" if domain is None else "; scale the inputs or declare another domain"
    raise DataError(f"{what}: got {value} at row {first_row + row}, feature {column}, expected {expected}{advice}")


def _check_ball(x: Tensor, scale: float, bound: float | None, what: str) -> None:
    """DataError unless every feature vector is finite and its norm at most the bound."""
    for number, block in enumerate(x.split(BLOCK)):
        norms = scale * block.double().square().sum(1).sqrt()
        if len(block) and not float(norms.max()) <= (math.inf if bound is None else bound):
            row = int(norms.argmax())
            raise DataError(
                f"{what}: got a norm of {float(norms[row])} at row {number * BLOCK + row}, expected at most {bound}, "
                "the bound of the feature map"
            )


def _check_owners(data: FederatedData) -> None:
    """Every row at most once, with one client or the server."""
    if not data.shards:
        raise DataError("shards: got no clients, expected at least one")
    for i, rows in enumerate(data.shards):
        if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.dim() != 1 or not rows.is_cpu:
            raise DataError(f"shards[{i}]: got {_kind(rows)}, expected row numbers (n_i,) in int64 on the CPU")
    rows = torch.cat(data.shards)
    if not len(rows):
        raise DataError("shards: got clients without any sample, expected at least one sample")
    samples = len(data.x)
    if int(rows.min()) < 0 or int(rows.max()) >= samples:
        i = next(
            i for i, own in enumerate(data.shards) if len(own) and not 0 <= int(own.min()) <= int(own.max()) < samples
        )
        own = data.shards[i]
        found = int(own.min()) if int(own.min()) < 0 else int(own.max())
        raise DataError(f"shards[{i}]: got row {found}, expected 0 to {samples - 1}")
    owners = torch.bincount(rows, minlength=samples)
    if int(owners.max()) > 1:
        row = int(owners.argmax())
        raise DataError(f"shards: got row {row} {int(owners[row])} times, expected every row at most once")
    if data.public_rows is not None:
        _check_rows(data.public_rows, samples, "public_rows")
        owners += torch.bincount(data.public_rows, minlength=samples)
        if int(owners.max()) > 1:
            raise DataError(
                f"public_rows: got row {int(owners.argmax())} with a client or twice, expected rows that belong to the "
                "server alone"
            )


def _check_rows(rows: Any, samples: int, what: str) -> None:
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.dim() != 1:
        raise DataError(f"{what}: got {_kind(rows)}, expected row numbers in int64")
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < samples:
        raise DataError(f"{what}: got rows {int(rows.min())} to {int(rows.max())}, expected 0 to {samples - 1}")


def _check_names(data: FederatedData) -> None:
    for what, names, count in (
        ("client_names", data.client_names, len(data.shards)),
        ("class_names", data.class_names, data.num_classes),
        ("feature_names", data.feature_names, data.num_inputs if data.feature_names else 0),
    ):
        if len(names) != count or len(set(names)) < count:
            raise DataError(f"{what}: got {len(names)} ({len(set(names))} different), expected {count} different")
    sides = data.input_shape
    if sides is not None and (
        len(sides) not in (2, 3)
        or not all(isinstance(n, (int, np.integer)) and n > 0 for n in sides)
        or math.prod(sides) != data.num_inputs
    ):
        raise DataError(
            f"input_shape: got {sides}, expected (height, width) or (height, width, colours) of {data.num_inputs} numbers"
        )


def _kind(value: Any) -> str:
    """What a value is, for a message."""
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
