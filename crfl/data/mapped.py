"""Federated data seen through a feature map: features beside the inputs that they were made of."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from crfl.config import Features
from crfl.data.federated import FederatedData
from crfl.data.splits import Inputs, RowSplit, Split
from crfl.features import FeatureMap, FittedMap, find_map, fit_map, frozen
from crfl.features import cache as cached
from crfl.features.fitted import BLOCK
from crfl.progress import bar

CONSTANTS = ("mean", "scale", "centre", "directions")


def map_features(
    data: FederatedData,
    settings: Features,
    function: FeatureMap | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> FederatedData:
    """The data with features in place of its samples, as the settings say; the samples are kept as its inputs.

    Args:
        data: Data without a feature map; its public rows set the constants.
        settings: What the map consists of. If all of it is off, the data stays as it is.
        function: The map itself, in place of the one that `features.map` names.
        folder: Where features are kept from one time to the next; None: nowhere.
        progress: Whether to show a bar on a terminal.

    Raises:
        SettingsError: If the settings do not fit each other or the data.
        DataError: If the map's results are of no use.
    """
    if settings == Features() and function is None:
        return data
    function = find_map(settings) if function is None else function
    shape = data.input_shape or (data.num_inputs,)
    public = torch.empty(0, dtype=torch.int64) if data.public_rows is None else data.public_rows
    path, key = _place(data, (settings, shape, function, public), folder)
    tensors = None if path is None else cached.load(path, key)
    if tensors is None:
        fitted = fit_map(settings, data.input_features(public), shape, function)
        tensors = _features(fitted, data, progress)
        constants = {name: value for name in CONSTANTS if (value := getattr(fitted, name)) is not None}
        if path is not None:
            cached.save(path, key, tensors | constants)
    else:
        constants = {name: tensors[name] for name in CONSTANTS if name in tensors}
        fitted = FittedMap(settings, shape, frozen(function), **constants)
    x = tensors["x"]
    rows = _test_rows(data)
    test = Split(tensors["test"], data.test.y) if rows is None else RowSplit.of(x, rows, data.test.y)
    return replace(data, x=x, scale=1.0, test=test, feature_map=fitted, origin=Inputs(data.x, data.scale, data.test))


def _features(fitted: FittedMap, data: FederatedData, progress: bool) -> dict[str, Tensor]:
    """Features of the training samples, "x" (n, k), and of the test samples, "test" (m, k), float32."""
    parts = {"x": (len(data.x), (block.float() * data.scale for block in data.x.split(BLOCK)))}
    if _test_rows(data) is None:
        parts["test"] = (len(data.test), (block.x for block in data.test.blocks(BLOCK)))
    found = {}
    total = sum(count for count, _ in parts.values())
    with bar(total=total, desc="features", unit="sample", shown=progress, leave=False) as shown:
        for name, (count, blocks) in parts.items():
            made = map(fitted, blocks)
            first = next(made)
            found[name] = first.new_empty(count, first.shape[1])
            for block, out in zip(chain([first], made), found[name].split(BLOCK), strict=True):
                out.copy_(block)
                shown.update(len(block))
    return found


def _test_rows(data: FederatedData) -> Tensor | None:
    """The rows of `x` that the test samples are, if they are."""
    test = data.test
    return test.rows if isinstance(test, RowSplit) and test.matrix is data.x and data.scale == 1.0 else None


def _place(
    data: FederatedData, about: tuple[Features, tuple[int, ...], FeatureMap | None, Tensor], folder: Path | None
) -> tuple[Path | None, str]:
    """Where the features are kept, and the key of what they depend on; no path if the map cannot be told apart."""
    settings, shape, function, public = about
    if folder is None:
        return None, ""
    test = [(block.x, block.y) for block in data.test.blocks(2**14)]
    key = cached.feature_key(function, repr(settings), shape, data.scale, public, data.x, test)
    if key is None:
        return None, ""
    return folder / f"{data.name}-{settings.map}-{key[:16]}.safetensors", key


def with_test(data: FederatedData, test: Split, inputs: Split | None) -> FederatedData:
    """The data with another test split, and the inputs of its samples if there is a feature map."""
    if data.origin is None or inputs is None:
        return replace(data, test=test)
    return replace(data, test=test, origin=replace(data.origin, test=inputs))


def judged_on(data: FederatedData, rows: Tensor) -> FederatedData:
    """The data whose test samples are these rows of the training samples, (k,)."""
    labels = data.y[rows]
    return with_test(data, Split(data.features(rows), labels), Split(data.input_features(rows), labels))
