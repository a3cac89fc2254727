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
    """A certificate without the run that it came from: enough for curves, tables and examples.

    Example:
        >>> from crfl.certification.ensembles.certify import certify_disjoint
        >>> certificate = certify_disjoint([[1, 1, 1], [1, 0, 0]], 2, num_clients=3)
        >>> saved = SavedCertificate.of("ensemble-clean", certificate, labels=[1, 1])
        >>> saved.title, saved.split, saved.strength_name, saved.correct
        ('ensemble', 'clean', 'malicious_clients', array([ True, False]))
        >>> saved.certified_accuracy(saved.labels, [0, 1]), saved.certified_rate([0, 1])
        (array([0.5, 0.5]), array([1. , 0.5]))
        >>> SavedCertificate.from_files("ensemble-clean", saved.frame, {"kind": "ensemble"}).label
        'ensemble'
    """

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
        """A certificate of this process.

        Args:
            name: Such as "margin-clean".
            certificate: Of any kind.
            labels: Those of the whole test set, (test_size,).

        Returns:
            What a run folder would keep of it.
        """
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
        """A certificate as a run folder keeps it.

        Args:
            name: Of the file, without its ending.
            frame: The table, as `load_certificates` reads it.
            about: What its JSON file says. What is missing there stays empty.

        Returns:
            The certificate.

        Raises:
            StoreError: The table is none of a certificate.
        """
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
        """Share of samples that are predicted as labelled and not abstained from, with at least some strength.

        Args:
            y: Labels of the certified samples, (m,).
            strengths: Radii or counts, a number or an array.

        Returns:
            The shares, in the shape of `strengths`.
        """
        correct = self.frame["prediction"].to_numpy() == np.asarray(y)
        return np.asarray(metrics.certified_accuracy(correct, self.abstained, self.strength, strengths))

    def certified_rate(self, strengths: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Share of samples with at least some strength, right or wrong.

        Args:
            strengths: Radii or counts, a number or an array.

        Returns:
            The shares, in the shape of `strengths`.
        """
        return np.asarray(metrics.certified_rate(self.strength, strengths))


def read_certificates(folder: str | Path) -> tuple[SavedCertificate, ...]:
    """The certificates that were saved with a run: radii first, by name, of the clean test set before others.

    Args:
        folder: Of a finished run.

    Returns:
        The certificates; none if none was saved.

    Raises:
        StoreError: the folder holds no finished run, or a certificate in it is not what was written.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, crfl.train(exp, crfl.load_data(exp)))
        ...     read_certificates(folder)
        ()
    """
    found = load_certificates(folder).items()
    certificates = [SavedCertificate.from_files(name, frame, about) for name, (frame, about) in found]
    return tuple(sorted(certificates, key=lambda c: (STRENGTHS.index(c.strength_name), c.title, SPLITS.index(c.split))))


def _sentences(about: Mapping[str, Any], key: str) -> tuple[str, ...]:
    found = about.get(key, [])
    return tuple(map(str, found)) if isinstance(found, list) else ()
