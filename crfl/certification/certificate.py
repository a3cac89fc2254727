"""Certificate: what is guaranteed for each prediction, against whom, and up to which strength of the attack.

A certificate of any kind is a `Certificate`. Its strengths are radii (`RadiusCertificate` in radius.py: how far
triggers may move a sample) or counts (`ClientCertificate`: how many clients may be malicious in every round).
"""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crfl import sanity
from crfl.certification import metrics
from crfl.certification._checks import BoolArray, IntArray, Result
from crfl.certification._content import Content
from crfl.errors import CertificateError

if TYPE_CHECKING:
    import pandas as pd

Kind = Literal["margin", "smoothing", "published", "clients", "distance", "ensemble"]
Rounding = Literal["proved", "modelled", "ignored"]
ROUNDING: dict[Rounding, str] = {
    "proved": "proved: the statement is about the numbers that were computed",
    "modelled": "a model of float32 checked by measurement, not a proof (local.precision float64 has the proof)",
    "ignored": "ignored: the statement is about real numbers",
}
COUNTS = (1, 2, 5, 10, 20, 50, 100)
"""Numbers of malicious clients that a summary shows, as far as something is certified there."""


@dataclass(frozen=True)
class Guarantee:
    """What a certificate says, and what it rests on.

    Example:
        >>> Guarantee("stands whatever ...", ("the server is honest",), broken=("inputs leave the unit ball",)).holds
        False
    """

    statement: str
    """One sentence: what is guaranteed, against whom."""
    assumptions: tuple[str, ...]
    """What it rests on."""
    broken: tuple[str, ...] = ()
    """Which of the assumptions this run breaks: if any, nothing is guaranteed."""
    rounding: Rounding = "ignored"
    """Whether rounding in training and certification is covered."""
    alpha: float | None = 0.0
    """Probability that sampling made a sample's certificate wrong: 0 where nothing was sampled, None if not proved."""

    @property
    def holds(self) -> bool:
        """Whether the run breaks none of the assumptions that crfl can check."""
        return not self.broken


@dataclass(frozen=True, repr=False, eq=False)
class Certificate(Content, ABC):
    """Certified robustness of m predictions. Arrays have shape (m,).

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
        >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
        >>> cert.kind, cert.strength_name, cert.guarantee.holds, cert.strength.shape
        ('margin', 'radius', True, (397,))
    """

    kind: Kind
    prediction: IntArray
    """The predicted class, also where the certificate abstains."""
    abstained: BoolArray
    """Where nothing is certified, not even at strength 0."""
    indices: IntArray
    """The certified rows of the test set."""
    test_size: int
    """Number of rows of the test set."""
    guarantee: Guarantee
    notes: tuple[str, ...]
    """What keeps the certificate from meaning much, though it holds: too few votes, say."""
    labels: IntArray | None = field(default=None, kw_only=True, compare=False)
    """True classes of the certified samples, if they are known; only the summary reads them."""

    @property
    @abstractmethod
    def strength(self) -> npt.NDArray[Any]:
        """The largest certified strength of the attack, (m,): radius or count; 0 where abstained."""

    @property
    @abstractmethod
    def strength_name(self) -> str:
        """What the strength is, as a column of a table: radius, malicious_clients."""

    @property
    @abstractmethod
    def strength_label(self) -> str:
        """What the strength is, as the label of an axis."""

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What the certificate rests on."""
        return self.guarantee.assumptions

    @property
    def warnings(self) -> tuple[str, ...]:
        """Which of the assumptions this run breaks, and what else keeps the certificate from meaning much."""
        return (*self.guarantee.broken, *self.notes)

    @property
    def label(self) -> str:
        """The kind, for legends and tables; it says so where nothing is guaranteed."""
        return self.kind if self.guarantee.holds else f"{self.kind} (not a guarantee here)"

    @property
    def critical(self) -> float:
        """The largest certified strength of any sample."""
        return float(self.strength.max(initial=0))

    def certified_rate(self, strengths: npt.ArrayLike) -> Result:
        """Share of the certified samples whose strength is at least s, right or wrong.

        Args:
            strengths: s, radii or counts: a number or an array.

        Returns:
            A number for a number, an array for an array.

        Raises:
            CertificateError: if there are no samples, or a strength is NaN.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
            >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
            >>> bool(cert.certified_rate(0.0) >= cert.certified_accuracy(data.test.y, 0.0))
            True
        """
        return metrics.certified_rate(self.strength, strengths)

    def certified_accuracy(self, y: npt.ArrayLike, strengths: npt.ArrayLike) -> Result:
        """Share of samples predicted as labelled, not abstained from, with a strength of at least s.

        Args:
            y: Labels of the whole test set given to `certify`, or those of its rows `indices`.
            strengths: Radii or counts, a number or an array. Infinity asks for what stands whatever the attack.

        Returns:
            A number for a number, an array for an array.

        Raises:
            CertificateError: if the labels do not fit, there are no samples, or a strength is NaN.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
            >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
            >>> cert.certified_accuracy(data.test.y, [0.0, 0.1]).shape
            (2,)
        """
        labels = np.asarray(y.cpu() if hasattr(y, "cpu") else y)
        if len(labels) == self.test_size:
            labels = labels[self.indices]
        if labels.shape != self.prediction.shape:
            expected = sorted({len(self.prediction), self.test_size})
            raise CertificateError(f"y: got shape {labels.shape}, expected lengths {' or '.join(map(str, expected))}")
        return metrics.certified_accuracy(labels == self.prediction, self.abstained, self.strength, strengths)

    def to_frame(self) -> pd.DataFrame:
        """A row for each certified sample: index, prediction, the strength by its name, abstained, and more."""
        import pandas as pd

        columns = {"index": self.indices, "prediction": self.prediction, self.strength_name: self.strength}
        return pd.DataFrame({**columns, "abstained": self.abstained, **self._columns()})

    def summary(self) -> str:
        """A few lines: what is guaranteed against whom, the key numbers, and on what they rest."""
        return "\n".join([self._title(), *(f"  {name}: {value}" for name, value in self._rows())])

    def __repr__(self) -> str:
        return self.summary()

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
            for name, value in self._rows()
        )
        return f"<b>{html.escape(self._title())}</b><table>{rows}</table>"

    def _title(self) -> str:
        some = "" if len(self.indices) == self.test_size else f" of {self.test_size}"
        return f"{self.label}: certificate of {len(self.indices)}{some} test samples"

    def _rows(self) -> list[tuple[str, str]]:
        """At most nine lines, by name."""
        rows = [("guarantee" if self.guarantee.holds else "claim", self.guarantee.statement)]
        if len(self.indices):
            certified = ~self.abstained
            shares = [f"{(certified & (self.strength >= s)).mean():.4g} {text}" for text, s in self._key_strengths()]
            rows += [("certified share", ", ".join([*shares, f"abstained {self.abstained.mean():.4g}"]))]
            rows += [("accuracy", self._accuracy())]
        rows += [("rounding", ROUNDING[self.guarantee.rounding])]
        if self.guarantee.alpha is None:
            rows += [("sampled", "no level is proved for these bounds; clopper_pearson's is")]
        elif self.guarantee.alpha > 0:
            rows += [("sampled", f"wrong for a sample with probability at most {self.guarantee.alpha:.3g}")]
        if self.guarantee.broken:
            rows += [("not a guarantee", _first(self.guarantee.broken, "warnings"))]
        if self.notes:
            rows += [("note", _first(self.notes, "notes"))]
        return [*rows, ("rests on", f"{len(self.assumptions)} assumptions (.assumptions)")]

    def with_labels(self, y: IntArray | None) -> Certificate:
        """The same certificate, that knows the labels of the whole test set, and notes what is wrong with the predictions.

        Args:
            y: (test_size,), or None if they are not known.

        Returns:
            A copy with labels; `crfl.certify` has made it already where the test split has labels.

        Example:
            >>> from crfl.certification.ensembles.certify import certify_disjoint
            >>> certify_disjoint([[1, 1, 0], [0, 0, 0]], 2, num_clients=3).with_labels(np.array([1, 1])).labels
            array([1, 1])
        """
        labels = None if y is None else y[self.indices]
        known = {} if labels is None or not len(labels) else _accuracies(self.prediction, labels)
        found = sanity.predictions(sanity.share_of_top(self.prediction), len(self.prediction), **known)
        return replace(self, labels=labels, notes=(*self.notes, *found))

    def _accuracy(self) -> str:
        """Accuracy of the predictions, robust or not, and what says whether it is any."""
        top = f"the most frequent prediction makes up {sanity.share_of_top(self.prediction):.4g}"
        if self.labels is None:
            return f"not known without labels: certified_accuracy(y, {self.strength_name}); {top}"
        known = _accuracies(self.prediction, self.labels)
        return f"{known['accuracy']:.4g}, always the most frequent class {known['majority_accuracy']:.4g}; {top}"

    @abstractmethod
    def _key_strengths(self) -> Iterable[tuple[str, float]]:
        """Strengths that a summary shows, and their names."""

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """Further columns of the table."""
        return {}


@dataclass(frozen=True, repr=False, eq=False)
class ClientCertificate(Certificate):
    """Predictions that stand although some clients are malicious in every round, whatever they send.

    Example:
        >>> from crfl.certification.ensembles.certify import certify_disjoint
        >>> certificate: ClientCertificate = certify_disjoint([[1, 1, 1, 1, 1]], 2, num_clients=5)
        >>> certificate.malicious_clients, certificate.strength_name
        (array([2]), 'malicious_clients')
    """

    malicious_clients: IntArray
    """So many clients may send anything, in every round; 0 where abstained."""

    @property
    def strength(self) -> IntArray:
        """`malicious_clients`"""
        return self.malicious_clients

    @property
    def strength_name(self) -> str:
        """malicious_clients"""
        return "malicious_clients"

    @property
    def strength_label(self) -> str:
        """For axes."""
        return "malicious clients (any updates, in every round)"

    def _key_strengths(self) -> Iterable[tuple[str, float]]:
        most = self.malicious_clients.max(initial=0)
        return [("without any", 0.0), *((f"at {n}", float(n)) for n in COUNTS if n <= max(most, 1))]


def _accuracies(prediction: IntArray, labels: IntArray) -> dict[str, float]:
    """Accuracy, and that of always predicting the most frequent class."""
    return {"accuracy": float((prediction == labels).mean()), "majority_accuracy": sanity.share_of_top(labels)}


def _first(texts: tuple[str, ...], where: str) -> str:
    """The first text, and how many there are."""
    return texts[0] + (f" (and {len(texts) - 1} more: .{where})" if len(texts) > 1 else "")
