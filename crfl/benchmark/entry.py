"""What a method of the comparison is: a paper, a threat, and a function that trains and certifies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from crfl.data.federated import FederatedData
from crfl.errors import CrflError

__all__ = ["THREATS", "Entry", "Outcome", "Task", "Threat"]

IntArray = npt.NDArray[np.integer[Any]]
Guarantee = Literal["sound", "as printed", "statistical"]


@dataclass(frozen=True)
class Threat:
    """What an attacker may do, and the unit in which its strength is counted."""

    name: str
    text: str
    """One sentence for the head of the table."""
    unit: str
    strengths: tuple[float, ...]
    """Strengths at which the table shows certified accuracy."""


THREATS = {
    threat.name: threat
    for threat in (
        Threat(
            "trigger",
            "In one known round one client plants a trigger of norm r in 5 % of each of its batches, labels them as it "
            "likes and scales its update by 10.",
            "l2 norm of the trigger, in the units of the inputs",
            (0.1, 0.5, 1, 2),
        ),
        Threat(
            "any content",
            "In one unknown round q samples of each batch of one client hold any image and any label.",
            "poisoned samples in the round",
            (1, 10, 50, 100),
        ),
        Threat(
            "label flips",
            "So many labels of the training set are changed, in every round.",
            "changed labels",
            (1, 10, 50, 100),
        ),
        Threat(
            "replaced samples",
            "So many samples of the training set are replaced by any others, in every round.",
            "replaced samples",
            (1, 10, 50, 100),
        ),
        Threat(
            "client-rounds",
            "So many updates are anything: each of one client in one round, whichever clients and rounds.",
            "client-rounds",
            (1, 2, 5, 10),
        ),
        Threat(
            "clients",
            "So many clients are malicious throughout: they send anything, in every round.",
            "malicious clients",
            (1, 5, 20, 50),
        ),
    )
}


@dataclass(frozen=True)
class Task:
    """One federation on which a method is tried, with one seed."""

    data_name: str
    data: FederatedData
    """With features that a linear model can use (a fixed map for images); `data.origin` has the inputs."""
    seed: int
    smoke: bool = False
    """Whether seconds matter more than numbers: train few models, draw few samples."""


@dataclass(frozen=True)
class Outcome:
    """What a method says of each test sample of `task.data.test`."""

    prediction: IntArray
    """Classes, (m,) int."""
    strength: npt.NDArray[np.floating[Any]]
    """Up to which strength of the threat the prediction stands, (m,) float: -1 where the method abstains, 0 where
    nothing but the prediction without an attack is certified, inf where the strength does not matter."""
    models_trained: int
    trusted_samples: int = 0
    """Samples that the server must own and trust."""
    cpu_seconds: float | None = None
    """Of training and certification, where an entry shares its training with others; None: as long as it took."""

    def __post_init__(self) -> None:
        """Raises CrflError: the two differ in length, or a strength is NaN."""
        if self.prediction.shape != self.strength.shape or self.prediction.ndim != 1:
            raise CrflError(f"strength: got shape {self.strength.shape}, expected {self.prediction.shape}")
        if np.isnan(self.strength).any():
            raise CrflError("strength: got NaN, expected -1 for samples on which the method abstains")


@dataclass(frozen=True)
class Entry:
    """One row of one table."""

    name: str
    paper: str
    """Authors, venue and link."""
    threat: str
    """A key of THREATS."""
    guarantee: Guarantee
    """Sound: a theorem that holds for this run. Statistical: true with confidence 1 - alpha. As printed: a formula of
    the paper whose assumptions this run breaks."""
    assumptions: tuple[str, ...]
    run: Callable[[Task], Outcome]
    attack: Callable[[Task, float], IntArray | None] | None = None
    """(task, strength): trains once more under the best attack of that strength that its author knows, and returns the
    predictions, (m,) int, or (k, m) of k attacks; None where it tries none. An upper bound, and a check: no certified
    prediction may differ."""
    data: tuple[str, ...] | None = None
    """The data sets that it covers; None: all."""
