"""What one method made of one federation: kept in a file, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crfl.files import read_tensors, write_tensors

__all__ = ["Result", "read_result", "result_path", "write_result"]

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """Predictions of one method on one federation, how long they stand, and what attacks made of them."""

    threat: str
    method: str
    data_name: str
    seed: int
    labels: npt.NDArray[np.int64]
    """(m,)"""
    prediction: npt.NDArray[np.int64]
    """(m,)"""
    strength: FloatArray
    """(m,): -1 where the method abstains."""
    attacked: dict[float, npt.NDArray[np.int64]]
    """By strength of the attack, predictions (k, m) under k attacks; {} if nobody attacked."""
    models_trained: int
    trusted_samples: int
    cpu_seconds: float
    """Of training and certification; attacks are not counted."""
    num_clients: int

    @property
    def correct(self) -> BoolArray:
        """Where the method does not abstain and is right, (m,)."""
        return (self.prediction == self.labels) & (self.strength >= 0)

    @property
    def accuracy(self) -> float:
        """Without an attack; to abstain counts as an error."""
        return float(self.correct.mean())

    @property
    def abstain_rate(self) -> float:
        """Share of the samples on which the method abstains."""
        return float((self.strength < 0).mean())

    @property
    def median_strength(self) -> float:
        """The largest strength at which at least half of the samples are right and certified; -1 if there is none."""
        known = np.sort(np.where(self.correct, self.strength, -1.0))
        return float(known[len(known) // 2])

    def certified_accuracy(self, strengths: npt.ArrayLike) -> FloatArray:
        """Share of the samples that are right and whose prediction stands at each of the strengths."""
        asked = np.asarray(strengths, dtype=np.float64)
        shares = [(self.correct & (self.strength >= s)).mean() for s in asked.ravel()]
        return np.array(shares).reshape(asked.shape)

    def attacked_accuracy(self, strength: float) -> float | None:
        """Share of the samples that are right whatever attack of at most this strength was tried; None if none was.

        Each sample is taken under the attack that hurts it most: an upper bound of what any sound certificate can say.
        """
        tried = [found for s, found in self.attacked.items() if s <= strength]
        if strength not in self.attacked:
            return None
        right = self.correct & np.all(np.concatenate(tried) == self.labels, axis=0)
        return float(right.mean())

    def contradicted(self) -> BoolArray:
        """Where an attack changed a prediction that was certified against it, (m,)."""
        found = np.zeros(len(self.labels), dtype=bool)
        for strength, predictions in self.attacked.items():
            found |= (self.strength >= strength) & np.any(predictions != self.prediction, axis=0)
        return found


def result_path(out: Path, threat: str, method: str, data_name: str, seed: int) -> Path:
    """Where a result lies: results/<threat>/<method>/<data>-<seed>.safetensors."""
    return out / "results" / _slug(threat) / _slug(method) / f"{_slug(data_name)}-{seed}.safetensors"


def write_result(path: Path, result: Result, key: str) -> None:
    """Write a result whole or not at all, with the key of all that it depends on."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(result, name))) for name in _ARRAYS}
    tensors |= {f"attacked {s!r}": torch.from_numpy(p.astype(np.int16)) for s, p in result.attacked.items()}
    about = {name: getattr(result, name) for name in _FACTS}
    write_tensors(path, tensors, key=key, result=about)


def read_result(path: Path, key: str) -> Result | None:
    """The result in a file if it was made under the same key; None if it was not, or there is none.

    Raises:
        DamagedFileError: The file is there and is not what was written.
    """
    if not path.is_file():
        return None
    tensors, about = read_tensors(path)
    if about.get("key") != key:
        return None
    arrays: dict[str, Any] = {name: tensors[name].numpy() for name in _ARRAYS}
    attacked = {
        float(name.removeprefix("attacked ")): found.numpy().astype(np.int64)
        for name, found in tensors.items()
        if name.startswith("attacked ")
    }
    return Result(**about["result"], **arrays, attacked=dict(sorted(attacked.items())))


_ARRAYS = ("labels", "prediction", "strength")
_FACTS = (
    "threat",
    "method",
    "data_name",
    "seed",
    "models_trained",
    "trusted_samples",
    "cpu_seconds",
    "num_clients",
)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
