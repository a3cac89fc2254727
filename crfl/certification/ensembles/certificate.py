"""What is certified of an ensemble's predictions. certify.py makes these certificates from the votes of the groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.bounds.votes import ProbabilityBounds
from crfl.certification.certificate import COUNTS, Certificate, ClientCertificate


@dataclass(frozen=True, repr=False, eq=False)
class EnsembleCertificate(ClientCertificate):
    """Predictions of an ensemble that stand although some clients are malicious in every round, whatever they send.

    Example:
        >>> from crfl.certification.ensembles.certify import certify_disjoint
        >>> certificate: EnsembleCertificate = certify_disjoint([[0, 0, 0, 0, 1]], 2, num_clients=20)
        >>> certificate.num_groups, certificate.counts, certificate.malicious_clients
        (5, array([[4, 1]]), array([1]))
    """

    counts: IntArray
    """(m, C) groups that vote for each class."""
    num_clients: int
    """N"""
    clients_per_group: int | None = None
    """k, if groups were drawn at random; None: groups share no client."""
    price: FloatArray | None = None
    """K: least number of malicious clients that may change the prediction, by the groups' own certificates; None: no
    group has one."""
    bounds: ProbabilityBounds | None = None
    """Bounds on the vote of all groups, if groups were drawn at random."""

    @property
    def num_groups(self) -> int:
        """G"""
        return _num_groups(self.counts)

    def _rows(self) -> list[tuple[str, str]]:
        groups = "disjoint" if self.clients_per_group is None else f"random, of {self.clients_per_group} clients each"
        ensemble = f"{self.num_groups} groups ({groups}) of {self.num_clients} clients"
        return _with_ensemble(super()._rows(), ensemble)

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        more = {} if self.bounds is None else {"p_a": self.bounds.p_a, "p_b": self.bounds.p_b}
        return {**_vote_columns(self.counts, self.prediction), **more}


@dataclass(frozen=True, repr=False, eq=False)
class EnsemblePoisonCertificate(Certificate):
    """Predictions of an ensemble that stand although some training samples are poisoned, with any content.

    `crfl.certify(ensemble, test, prices="poison")` makes it.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None, "server.clip.start": 30.0})
        >>> ensemble = crfl.train_ensemble(exp, data := crfl.load_data(exp), groups=3)
        >>> crfl.certify(ensemble, data.test, prices="poison").strength_name
        'poisoned_samples'
    """

    poisoned_samples: IntArray
    """So many samples, of all clients together, may be poisoned; 0 where abstained."""
    counts: IntArray
    """(m, C) groups that vote for each class."""
    price: FloatArray
    """K: least number of poisoned samples that may change the prediction, by the groups' own certificates."""

    @property
    def num_groups(self) -> int:
        """G"""
        return _num_groups(self.counts)

    @property
    def strength(self) -> IntArray:
        """`poisoned_samples`"""
        return self.poisoned_samples

    @property
    def strength_name(self) -> str:
        """poisoned_samples"""
        return "poisoned_samples"

    @property
    def strength_label(self) -> str:
        """For axes."""
        return "poisoned samples (any content)"

    def _key_strengths(self) -> list[tuple[str, float]]:
        most = self.poisoned_samples.max(initial=0)
        return [("without any", 0.0), *((f"at {n}", float(n)) for n in COUNTS if n <= max(most, 1))]

    def _rows(self) -> list[tuple[str, str]]:
        return _with_ensemble(super()._rows(), f"{self.num_groups} groups (disjoint)")

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return _vote_columns(self.counts, self.prediction)


def count_grid(*certificates: Certificate) -> IntArray:
    """0, 1, .. to one beyond the largest certified count: the x of curves whose y is `certified_accuracy(labels, x)`.

    Args:
        certificates: Of counts: malicious clients or poisoned samples.

    Returns:
        Whole numbers, int64.

    Example:
        >>> from crfl.certification.ensembles.certify import certify_disjoint
        >>> count_grid(certify_disjoint([[1, 1, 1, 1, 1]], 2, num_clients=5))
        array([0, 1, 2, 3])
    """
    return np.arange(max((int(c.strength.max(initial=0)) for c in certificates), default=0) + 2)


def _num_groups(counts: IntArray) -> int:
    return int(counts[0].sum()) if len(counts) else 0


def _with_ensemble(rows: list[tuple[str, str]], text: str) -> list[tuple[str, str]]:
    """The lines of a summary, with one on the ensemble behind that on the guarantee."""
    return [rows[0], ("ensemble", text), *rows[1:]]


def _vote_columns(counts: IntArray, prediction: IntArray) -> dict[str, npt.NDArray[Any]]:
    """Votes for the prediction, and most votes for another class."""
    others = counts.copy()
    np.put_along_axis(others, prediction[:, None], 0, axis=1)
    return {
        "votes": np.take_along_axis(counts, prediction[:, None], axis=1)[:, 0],
        "runner_up_votes": others.max(axis=1),
    }
