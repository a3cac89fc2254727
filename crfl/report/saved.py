"""Certificates as a run folder keeps them: what each row is worth, and what all of it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from crfl.certification import metrics
from crfl.certification.certificate import Certificate
from crfl.errors import StoreError
from crfl.runs.certificates import load_certificates

STRENGTHS = ("radius", "malicious_clients", "poisoned_samples", "distance")
SPLITS = ("clean", "backdoored")


@dataclass(frozen=True)
class SavedCertificate:
    """A certificate without the run that it came from: enough for curves, tables and examples."""

    name: str
    frame: pd.DataFrame
    """index, label, prediction, abstained and the strength: a row a certified sample."""
    label: str
    """The kind, and whether it is a guarantee here."""
    strength_label: str
    assumptions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    statement: str = ""
    """What is guaranteed, against whom."""

    @classmethod
    def of(cls, name: str, certificate: Certificate, labels: npt.ArrayLike) -> SavedCertificate:
        """A certificate of this process; `labels` are those of the whole test set."""
        frame = certificate.to_frame()
        frame.insert(1, "label", np.asarray(labels)[certificate.indices])
        about = certificate.guarantee.statement
        return cls(
            name,
            frame,
            certificate.label,
            certificate.strength_label,
            certificate.assumptions,
            certificate.warnings,
            about,
        )

    @classmethod
    def from_files(cls, name: str, frame: pd.DataFrame, about: Mapping[str, Any]) -> SavedCertificate:
        """A certificate from its table and what its JSON file says; StoreError if the table is none of a certificate."""
        needed = {"index", "label", "prediction", "abstained"}
        if not needed <= set(frame.columns) or not set(STRENGTHS) & set(frame.columns):
            raise StoreError(f"{name}.csv: got columns {list(frame.columns)[:8]}, expected those of a certificate")
        axis = "malicious clients" if "malicious_clients" in frame else "radius $r$ (l2 norm of the trigger)"
        return cls(
            name=name,
            frame=frame,
            label=str(about.get("label", about.get("kind", name))),
            strength_label=str(about.get("strength_label", axis)),
            assumptions=_sentences(about, "assumptions"),
            warnings=_sentences(about, "warnings"),
            statement=str(about.get("statement", "")),
        )

    @property
    def split(self) -> str:
        """Which test set: the last part of the name, else clean."""
        last = self.name.rsplit("-", 1)[-1]
        return last if last in SPLITS else "clean"

    @property
    def title(self) -> str:
        """The name without the test set."""
        return self.name.removesuffix(f"-{self.split}")

    @property
    def strength_name(self) -> str:
        """One of STRENGTHS."""
        return next(name for name in STRENGTHS if name in self.frame)

    @property
    def strength(self) -> npt.NDArray[np.float64]:
        """(m,)"""
        return self.frame[self.strength_name].to_numpy(dtype=np.float64)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(m,) the true labels."""
        return self.frame["label"].to_numpy(dtype=np.int64)

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """(m,) whether the prediction is the label."""
        return (self.frame["prediction"] == self.frame["label"]).to_numpy()

    @property
    def abstained(self) -> npt.NDArray[np.bool_]:
        """(m,)"""
        return self.frame["abstained"].to_numpy(dtype=bool)

    def certified_accuracy(self, y: npt.ArrayLike, strengths: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Share of samples predicted as labelled in `y` (m,), not abstained from, with at least this strength."""
        correct = self.frame["prediction"].to_numpy() == np.asarray(y)
        return np.asarray(metrics.certified_accuracy(correct, self.abstained, self.strength, strengths))

    def certified_rate(self, strengths: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Share of samples with at least this strength, right or wrong."""
        return np.asarray(metrics.certified_rate(self.strength, strengths))


def read_certificates(folder: str | Path) -> tuple[SavedCertificate, ...]:
    """The certificates that were saved with a run: radii first, by name, of the clean test set before others.

    Args:
        folder: Of a finished run.

    Raises:
        StoreError: the folder holds no finished run, or a certificate in it is not what was written.
    """
    found = load_certificates(folder).items()
    certificates = [SavedCertificate.from_files(name, frame, about) for name, (frame, about) in found]
    return tuple(sorted(certificates, key=lambda c: (STRENGTHS.index(c.strength_name), c.title, SPLITS.index(c.split))))


def _sentences(about: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = about.get(key, [])
    return tuple(map(str, found)) if isinstance(found, list) else ()
