"""Certificate: what is certified for each test sample, on which assumptions, and how strong an attack may be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from crfl.certification import metrics
from crfl.certification._checks import BoolArray, FloatArray, IntArray, Result, nonnegative
from crfl.certification.bounds.votes import ProbabilityBounds
from crfl.certification.scenario import Scenario
from crfl.errors import CertificateError

if TYPE_CHECKING:
    import pandas as pd

    from crfl.certification.smoothing import VoteCounts


@dataclass(frozen=True)
class Certificate:
    """Certified robustness of m predictions. Arrays have shape (m,)."""

    kind: str
    """published, smoothing or margin"""
    prediction: IntArray
    """The predicted class, also where the certificate abstains."""
    radius: FloatArray
    """Largest certified magnitude ||delta|| of the triggers, in units of the features; 0 where abstained."""
    abstained: BoolArray
    """Where nothing is certified, not even at magnitude 0."""
    bounds: ProbabilityBounds | None
    """Bounds on the class probabilities, and the estimates; None for `margin`, which needs none."""
    budget: FloatArray
    """What an attack may cost: KL divergence (published) or distance in parameter space (smoothing, margin)."""
    assumptions: tuple[str, ...]
    """What the certificate rests on."""
    warnings: tuple[str, ...]
    """Which of the assumptions this run breaks, and what else keeps the certificate from meaning much."""
    indices: IntArray
    """The certified rows of the test set."""
    test_size: int
    """Number of rows of the test set."""
    scenario: Scenario = field(repr=False)
    votes: VoteCounts | None = field(default=None, repr=False)
    """The votes behind the bounds; None if there were none."""

    @property
    def p_a(self) -> FloatArray | None:
        """Lower bound of the predicted class's probability; None for `margin`."""
        return None if self.bounds is None else self.bounds.p_a

    @property
    def p_b(self) -> FloatArray | None:
        """Upper bound of every other class's probability; None for `margin`."""
        return None if self.bounds is None else self.bounds.p_b

    @property
    def critical_radius(self) -> float:
        """The radius beyond which the certified rate is 0."""
        return float(self.radius.max(initial=0.0))

    def certified_rate(self, radii: npt.ArrayLike) -> Result:
        """Share of the certified samples whose radius is at least r, for each r."""
        return metrics.certified_rate(self.radius, radii)

    def certified_accuracy(self, y: npt.ArrayLike, radii: npt.ArrayLike) -> Result:
        """Share of samples predicted as labelled, not abstained from, with a radius of at least r, for each r.

        `y`: labels of the whole test set given to `certify`, or those of its rows `indices`.
        """
        labels = np.asarray(y.cpu() if hasattr(y, "cpu") else y)
        if len(labels) == self.test_size:
            labels = labels[self.indices]
        if labels.shape != self.prediction.shape:
            allowed = sorted({len(self.prediction), self.test_size})
            raise CertificateError(f"y: got shape {labels.shape}, expected lengths {' or '.join(map(str, allowed))}")
        return metrics.certified_accuracy(labels == self.prediction, self.abstained, self.radius, radii)

    def max_poisoned(self, delta: float) -> IntArray:
        """Sample level: the largest q_B certified for triggers of magnitude `delta`, at most the batch size; (m,).

        Everything else is as on record. 0 where not even one poisoned sample is certified.
        """
        magnitude = float(nonnegative("delta", delta))
        levels = range(1, self.scenario.record.batch_size + 1)
        return self._levels(self.scenario.cost(magnitude, poisoned=q) for q in levels)

    def max_attackers(self, delta: float) -> IntArray:
        """Client level: the largest R certified for triggers of magnitude `delta`, at most all clients; (m,).

        R attackers, each like the one on record who costs most. 0 where not even one is certified.
        """
        magnitude = float(nonnegative("delta", delta))
        levels = range(1, len(self.scenario.record.client_sizes) + 1)
        return self._levels(self.scenario.cost(magnitude, attackers=r) for r in levels)

    def max_malicious(self, *, silent: bool = False) -> IntArray:
        """Largest number of certified malicious client-rounds (one client in one round sends what it likes); (m,).

        For a server that clips every update to a norm (server.update_clip); any clients in any rounds, those on record
        as attackers among them. The prediction is that of a run in which they had sent anything else of that norm; with
        `silent`, only of the run in which they had sent nothing, which allows twice as many.
        """
        return self.scenario.max_malicious(self.budget, silent)

    def _levels(self, costs: Iterable[float]) -> IntArray:
        """How many of the rising costs each sample's budget affords."""
        count = np.zeros(self.prediction.shape, dtype=np.int64)
        alive = self.budget > 0
        for cost in costs:
            alive = alive & self.scenario.certifies(self.budget, cost)
            if not alive.any():
                break
            count += alive
        return count

    def to_frame(self) -> pd.DataFrame:
        """A row for each certified sample: index, prediction, radius, abstained, and the bounds and estimates."""
        import pandas as pd

        names = ("indices", "prediction", "radius", "abstained")
        columns = {name.replace("indices", "index"): getattr(self, name) for name in names}
        if self.bounds is not None:
            for name in ("p_a", "p_b", "estimate_a", "estimate_b"):
                columns[name] = getattr(self.bounds, name)
        return pd.DataFrame(columns)
