"""Certificates whose strength is a radius: how far the attackers' triggers may move a sample."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import BoolArray, FloatArray, IntArray, nonnegative, positive_int
from crfl.certification.bounds.votes import ProbabilityBounds
from crfl.certification.certificate import Certificate
from crfl.certification.coupling.clients import MAX_CLIENT_ROUNDS
from crfl.certification.scenario import Scenario

if TYPE_CHECKING:
    from crfl.certification.smoothing import VoteCounts


@dataclass(frozen=True, repr=False, eq=False)
class RadiusCertificate(Certificate):
    """Predictions that stand whatever triggers of at most some magnitude the attackers plant.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
        >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
        >>> cert.radius_space, bool(cert.any_poison[cert.abstained].any()), cert.critical_radius == cert.critical
        ('input', False, True)
    """

    radius: FloatArray
    """Largest certified magnitude ||delta|| of the triggers, in units of the features; 0 where abstained."""
    budget: FloatArray
    """What an attack may cost: KL divergence (published) or distance in parameter space (smoothing, margin)."""
    scenario: Scenario = field(repr=False)
    """What attacks cost."""
    bounds: ProbabilityBounds | None = None
    """Bounds on the class probabilities, and the estimates; None for `margin`, which needs none."""
    votes: VoteCounts | None = None
    """The votes behind the bounds; None if there were none."""

    @property
    def strength(self) -> FloatArray:
        """`radius`"""
        return self.radius

    @property
    def strength_name(self) -> str:
        """radius"""
        return "radius"

    @property
    def strength_label(self) -> str:
        """For axes: says in which space the norm is, and that everything is certified at infinity."""
        return "radius $r$ (l2 norm of the trigger" + (", feature space)" if self.radius_space == "feature" else ")")

    @property
    def radius_space(self) -> Literal["input", "feature"]:
        """Where radii are measured: "feature" if a fixed map stands between the inputs and the model."""
        return "input" if self.scenario.record.feature_map is None else "feature"

    @property
    def input_radius(self) -> FloatArray | None:
        """The radius in the space of the inputs: radius / L, L the map's Lipschitz constant; None if it is unknown."""
        if self.radius_space == "input":
            return self.radius
        lipschitz = self.scenario.record.lipschitz
        if lipschitz is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.radius > 0, self.radius / lipschitz, 0.0)

    @property
    def any_poison(self) -> BoolArray:
        """Where the prediction stands whatever the poisoned samples contain (the radius is infinite)."""
        return np.isposinf(self.radius) & ~self.abstained

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

    def max_poisoned(self, delta: float) -> IntArray:
        """Sample level: how many samples of each batch an attacker may poison, everything else being as on record.

        Args:
            delta: Magnitude of the triggers, in units of the features; infinite for samples that hold anything.

        Returns:
            The largest certified q_B (m,), at most the batch size; 0 where not even one is certified.

        Raises:
            CertificateError: `delta` is negative or NaN.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
            >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
            >>> bool((cert.max_poisoned(0.1) <= cert.max_poisoned(0.0)).all())
            True
        """
        magnitude = float(nonnegative("delta", delta))
        levels = range(1, self.scenario.record.batch_size + 1)
        return self._count(self.scenario.cost(magnitude, poisoned=q) for q in levels)

    def max_attackers(self, delta: float) -> IntArray:
        """Client level: how many attackers there may be, each like the one on record who costs most.

        Args:
            delta: Magnitude of the triggers, in units of the features; infinite for samples that hold anything.

        Returns:
            The largest certified R (m,), at most all clients; 0 where not even one is certified.

        Raises:
            CertificateError: `delta` is negative or NaN, nobody attacked, or attackers sent malicious updates.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4})
            >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
            >>> bool((cert.max_attackers(0.1)[cert.radius > 0.1] >= 1).all())
            True
        """
        magnitude = float(nonnegative("delta", delta))
        levels = range(1, len(self.scenario.record.client_sizes) + 1)
        return self._count(self.scenario.cost(magnitude, attackers=r) for r in levels)

    def max_malicious(self, *, silent: bool = False, limit: int = MAX_CLIENT_ROUNDS) -> IntArray:
        """How many client-rounds may be malicious: one client in one round sends anything (Theorem 10).

        For a server that clips every update (server.update_clip). The clients and rounds may be any, those of the
        attackers on record among them.

        Args:
            silent: What the run is compared with. False: a run in which those clients sent anything else. True: only
                the run in which they sent nothing, which allows about twice as many.
            limit: Count no further: to ask for a few client-rounds takes less time.

        Returns:
            The largest certified number (m,), at most `limit`.

        Raises:
            CertificateError: the server did not clip updates, the kind is `published`, or `limit` is no positive integer.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4, "server.update_clip": 0.1})
            >>> cert = crfl.certify(crfl.train(exp, data := crfl.load_data(exp)), data.test)
            >>> int(cert.max_malicious(limit=2).max()) <= 2
            True
        """
        return self.scenario.max_malicious(self.budget, silent, positive_int("limit", limit))

    def _count(self, costs: Iterable[float]) -> IntArray:
        """How many of the rising costs each sample's budget certifies."""
        count = np.zeros(self.prediction.shape, dtype=np.int64)
        alive = self.budget > 0
        for cost in costs:
            alive = alive & self.scenario.certifies(self.budget, cost)
            if not alive.any():
                break
            count += alive
        return count

    def _key_strengths(self) -> Iterable[tuple[str, float]]:
        recorded = {a.magnitude for r in self.scenario.record.attack_rounds for a in r.attackers}
        space = " in feature space" if self.radius_space == "feature" else ""
        found = [
            (f"at radius 0{space}", 0.0),
            *((f"at {r:.3g} (on record)", r) for r in sorted(recorded)[-1:] if r > 0),
        ]
        return [*found, ("for any content", np.inf)]

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        names = ("p_a", "p_b", "estimate_a", "estimate_b") if self.bounds is not None else ()
        return {name: getattr(self.bounds, name) for name in names}
