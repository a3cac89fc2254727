"""What is allowed but hardly meant, in a sentence each: a constant predictor, bytes used as they are, an empty class.

Pure functions from numbers to sentences; `warn` issues them. Data is checked where it is made
(`FederatedData.from_arrays`), settings, model and what was learnt in training, predictions in certification.
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crfl.errors import SanityWarning
from crfl.wording import amount

if TYPE_CHECKING:
    from torch import nn

    from crfl.config import Data, Local

PACKAGE = str(Path(__file__).parent)
LARGE = 10.0
"""Root mean square of the entries of a sample that is not normalised; of standardised features it is about 1."""
CONSTANT = "constant predictor"
"""So begins what is said of one."""
BYTE = 255
"""The largest."""
FEW = 20
"""Fewer samples may well get the same prediction."""
NAMED = 5
"""Classes that a sentence names."""


def warn(findings: Iterable[str]) -> None:
    """A SanityWarning for each finding, at the line outside crfl that led here: Python shows it there once."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    for finding in findings:
        warnings.warn(finding, SanityWarning, stacklevel=level)


@contextmanager
def quiet() -> Iterator[None]:
    """Without these warnings: for whoever makes many runs and looks at their numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SanityWarning)
        yield


def empty_classes(train: npt.NDArray[np.int64], test: npt.NDArray[np.int64]) -> list[str]:
    """Labels that do not start at 0, and classes nobody can learn, from the labels of both splits (n,), (m,)."""
    classes = 1 + int(max(train.max(initial=-1), test.max(initial=-1)))
    learnt, asked = (np.bincount(y, minlength=classes) > 0 for y in (train, test))
    empty = np.flatnonzero(~learnt & ~asked)
    first = int(np.argmax(learnt | asked))
    found = []
    if first > 0:
        found.append(
            f"y: labels start at {first}, so the model has {amount(first, 'class', 'classes')} without any sample; "
            f"subtract {first}, or give num_classes = {classes} if that is meant"
        )
    if len(empty) > first:
        found.append(
            f"y: no sample has label {_listed(empty[empty > first])}, yet the model has outputs for 0 to {classes - 1}; "
            f"number the classes without gaps, or give num_classes = {classes} if that is meant"
        )
    if (asked & ~learnt).any():
        found.append(f"y_test: label {_listed(np.flatnonzero(asked & ~learnt))} is in no training sample of y")
    return found


def feature_scale(norm: float, some: npt.NDArray[np.floating]) -> list[str]:
    """Features so large that learning rates of the usual size are too large for them.

    Args:
        norm: the largest l2 norm of a training sample.
        some: (k, d) features, to see what they may be.
    """
    size = norm / math.sqrt(some.shape[1])
    if size <= LARGE:
        return []
    pixels = bool(some.min() >= 0 and some.max() <= BYTE)
    advice = (
        "these look like pixels from 0 to 255: divide them by 255 (scale=1/255)"
        if pixels
        else "scale every feature to about -1 to 1 or 0 to 1, or give features a norm (norm=1.0)"
    )
    return [
        f"features are not normalised: the largest training sample has norm {norm:.4g}, {size:.3g} a feature (root mean "
        f"square). SGD diverges unless local.learning_rate is very small, and certificates refuse longer steps than "
        f"{4 / norm**2:.2g}; {advice}"
    ]


def eval_mode(module: nn.Module) -> list[str]:
    """Layers of a module that do something else in training mode: crfl runs it in eval mode."""
    from torch import nn  # here, because formulas import this module

    said = {
        nn.modules.batchnorm._BatchNorm: "batch normalisation runs in eval mode, with the running statistics that the "
        "module came with (in a new one mean 0 and variance 1, which normalise nothing); nn.GroupNorm and nn.LayerNorm "
        "normalise",
        nn.modules.dropout._DropoutNd: "dropout runs in eval mode, so nothing is dropped in training",
    }
    found = []
    for kind, text in said.items():
        names = [name or type(part).__name__ for name, part in module.named_modules() if isinstance(part, kind)]
        if names:
            found.append(f"model ({_listed(names)}): {text}")
    return found


def ignored_settings(data: Data, local: Local, partition: str | None) -> list[str]:
    """Settings that have no effect on this run; `partition` is how the data was dealt out, None if that is not known."""
    found = []
    if data.dirichlet_alpha != type(data)().dirichlet_alpha and (partition or data.partition) != "dirichlet":
        found.append(
            f"data.dirichlet_alpha is {data.dirichlet_alpha:g}, which has no effect: data.partition is "
            f"{(partition or data.partition)!r}, not 'dirichlet'"
        )
    if partition is None and data.partition != type(data)().partition:
        found.append(f"data.partition is {data.partition!r}, which has no effect: the data came with shards of its own")
    if local.schedule_offset and local.schedule == "constant":
        found.append(
            f"local.schedule_offset is {local.schedule_offset:g}, which has no effect: local.schedule is 'constant'"
        )
    return found


def predictions(
    top_share: float, size: int, accuracy: float | None = None, majority_accuracy: float | None = None
) -> list[str]:
    """A model that has learnt nothing.

    Args:
        top_share: share of the most frequent prediction.
        size: number of samples.
        accuracy: share that is predicted right; None: labels are not known.
        majority_accuracy: what predicting the most frequent class for every sample has.
    """
    if majority_accuracy == 1 or size < FEW:
        return []
    told = "" if accuracy is None else f", right for {accuracy:.4g} of them"
    if top_share == 1:
        return [
            f"{CONSTANT}: every test sample gets the same class{told}. Any certificate of it holds and means "
            "nothing; train longer, with a larger learning rate or normalised features"
        ]
    if accuracy is not None and majority_accuracy is not None and accuracy < majority_accuracy:
        return [
            f"accuracy {accuracy:.4g} is below {majority_accuracy:.4g}, that of always predicting the most frequent "
            f"class (the most frequent prediction makes up {top_share:.4g}): the model has not learnt yet; train longer, "
            "with a larger learning rate or normalised features"
        ]
    return []


def summarised(findings: Sequence[Sequence[str]]) -> list[str]:
    """The findings on each of several runs as one sentence: the first, and how many runs have any."""
    found = [texts[0] for texts in findings if texts]
    if len(findings) < 2 or not found:
        return found
    return [f"{len(found)} of {len(findings)} runs: {found[0]}"]


def share_of_top(predictions: npt.NDArray[np.int64]) -> float:
    """Share of the most frequent value of (m,) classes; NaN for none."""
    return float(np.bincount(predictions).max() / len(predictions)) if len(predictions) else math.nan


def _listed(values: Sequence[object] | npt.NDArray[np.int64]) -> str:
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(map(str, values[:NAMED])) + more
