"""Other forms of a user's data -> the arrays that `FederatedData.from_arrays` takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from crfl.errors import DataError
from crfl.progress import bar
from crfl.rng import permutation, stream

if TYPE_CHECKING:
    from pandas import DataFrame


def from_dataset(dataset: Any, what: str) -> tuple[Any, Any]:
    """Samples and labels of a torch Dataset."""
    try:
        samples = [dataset[i] for i in bar(range(len(dataset)), desc=what, unit="sample", delay=2, leave=False)]
        x = np.stack([np.asarray(sample[0]) for sample in samples])
        return x, np.array([int(sample[1]) for sample in samples])
    except (TypeError, ValueError, IndexError, KeyError, RuntimeError) as error:
        raise DataError(f"{what}: {error}; expected a Dataset of (sample, label), samples of one shape") from None


def from_frame(
    frame: DataFrame, test: DataFrame | float, label: str, client: str | None, seed: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """x, y, x_test, y_test and the options that follow from the columns."""
    if isinstance(test, (int, float)):
        if not 0 < test < 1:
            raise DataError(f"test: got {test}, expected a share between 0 and 1, or a frame")
        order = permutation(len(frame), stream(seed, "test split")).numpy()
        cut = round(len(frame) * test)
        frame, test = frame.iloc[np.sort(order[cut:])], frame.iloc[np.sort(order[:cut])]
    for name in (label, client):
        if name is not None and name not in frame.columns:
            raise DataError(f"column {name!r} is missing, expected one of: {', '.join(map(str, frame.columns))}")
    columns = [name for name in frame.columns if name not in (label, client)]
    missing = [name for name in (*columns, label) if name not in test.columns]
    if missing:
        raise DataError(f"test: column {missing[0]!r} is missing, expected the columns of the training frame")
    y, y_test, options = _labels(frame[label].to_numpy(), test[label].to_numpy(), label)
    options["feature_names"] = tuple(map(str, columns))
    if client is not None:
        options["clients"] = frame[client].to_numpy()
    return (_numbers(frame, columns), y, _numbers(test, columns), y_test), options


def from_file(path: Path) -> dict[str, Any] | DataFrame:
    """The arrays of an NPZ file by name, or the frame of a CSV or Parquet file."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as content:
                return {name: content[name] for name in content.files}
        import pandas  # here, because it is slow to import

        if path.suffix in (".parquet", ".pq"):
            return pandas.read_parquet(path)
        if path.suffix == ".csv":
            return pandas.read_csv(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    raise DataError(f"{path}: got a file of kind {path.suffix!r}, expected .npz, .csv or .parquet")


def _labels(y: Any, y_test: Any, label: str) -> tuple[Any, Any, dict[str, Any]]:
    """Integers as they are, words by their place in the alphabet."""
    if np.issubdtype(y.dtype, np.integer) and np.issubdtype(y_test.dtype, np.integer):
        return y, y_test, {}
    words = [np.array([str(value) for value in values]) for values in (y, y_test)]
    names = np.unique(np.concatenate(words))
    if len(names) > 1000:
        raise DataError(
            f"column {label!r}: got {len(names)} different labels, expected integers, or at most 1000 words"
        )
    return np.searchsorted(names, words[0]), np.searchsorted(names, words[1]), {"class_names": tuple(names.tolist())}


def _numbers(frame: DataFrame, columns: list[Any]) -> Any:
    """The columns as float32. DataError names the first that holds anything but numbers."""
    for name in columns:
        kind = frame[name].dtype
        if not isinstance(kind, np.dtype) or kind.kind not in "biuf":
            raise DataError(f"column {name!r}: got {kind}, expected numbers; encode it, or leave it out")
    return torch.from_numpy(frame[columns].to_numpy(dtype=np.float32).copy())
