"""A user's own data: its shape, scale and feature map, from the arguments of `FederatedData.from_arrays`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from crfl.config import Features
from crfl.data import arrays, checks
from crfl.errors import DataError, SettingsError
from crfl.features import FeatureMap

BYTES = 1 / 255
"""Scale of bytes unless another one is given."""


def samples(x: Any, x_test: Any, declared: Any) -> tuple[Tensor, Tensor, tuple[int, ...] | None]:
    """Training and test samples as rows, and the shape of the images; DataError unless they and what was declared agree."""
    inputs, shape = arrays.samples(x, "x")
    held_out, test_shape = arrays.samples(x_test, "x_test")
    if shape is not None and declared is not None and tuple(declared) != shape:
        raise DataError(f"input_shape: got {declared}, expected {shape}, the shape of the images in x")
    if test_shape is not None and shape is not None and test_shape != shape:
        raise DataError(f"x_test: got images of shape {test_shape}, expected {shape} as in x")
    if held_out.shape[1] != inputs.shape[1]:
        raise DataError(f"x_test: got {held_out.shape[1]} features, expected {inputs.shape[1]} as in x")
    return inputs, held_out, declared if shape is None else shape


def scaling(scale: Any, domain: Any, inputs: Tensor, held_out: Tensor) -> tuple[float, Any]:
    """The factor and the domain: bytes are pixels, 0 to 1, unless a scale is given."""
    if scale is not None:
        return checks.positive_number(scale, "scale"), domain
    kinds = {inputs.dtype, held_out.dtype}
    if torch.uint8 not in kinds:
        return 1.0, domain
    if len(kinds) > 1:
        raise DataError(
            f"x, x_test: got {inputs.dtype} and {held_out.dtype}, expected bytes in both or in neither, or a scale"
        )
    return BYTES, (0.0, 1.0) if domain is None else domain


def feature_settings(
    features: Any, public: int, whiten: int | None, norm: float | None
) -> tuple[Features, FeatureMap | None]:
    """What `features.*` would say, and the function, if it was given as such."""
    if isinstance(features, Features):
        if public or whiten is not None or norm is not None:
            raise SettingsError(["features: got settings beside public, whiten or norm, expected the one or the other"])
        return features, None
    if features is None or isinstance(features, str):
        return Features(map=features or "none", public=public, whiten=whiten, norm=norm), None
    if not callable(features):
        raise SettingsError(
            [f"features: got {type(features).__name__}, expected a name, settings, a module or a function"]
        )
    own = getattr(features, "__name__", type(features).__name__)
    return Features(map=own, public=public, whiten=whiten, norm=norm), features


def joined(x: Any, y: Any) -> tuple[Tensor, Tensor, list[Tensor]] | None:
    """All samples in one, and the rows of each client, if x and y are lists of one array a client."""
    lists = isinstance(x, (list, tuple)) and isinstance(y, (list, tuple)) and len(x) > 0 and len(y) > 0
    if not lists or np.ndim(y[0]) != 1:
        return None
    if len(x) != len(y):
        raise DataError(f"x, y: got lists of {len(x)} and {len(y)} arrays, expected one array for each client")
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    shape: tuple[int, ...] | None = None
    for i, (values, own) in enumerate(zip(x, y, strict=True)):
        rows, found = arrays.samples(values, f"x[{i}]")
        if i and (found != shape or (shape is None and rows.shape[1] != xs[0].shape[1])):
            what = f"images of shape {found}" if found else f"{rows.shape[1]} features"
            raise DataError(f"x[{i}]: got {what}, expected {shape or xs[0].shape[1:]} as in x[0]")
        shape = found
        xs.append(rows if shape is None else rows.view(-1, *shape))
        ys.append(arrays.labels(own, len(rows), f"y[{i}]"))
    return torch.cat(xs), torch.cat(ys), list(torch.arange(sum(map(len, ys))).split([len(own) for own in ys]))
