"""Kind "distance": how far the parameters of any model may move before its smoothed vote can change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from crfl.certification import assumptions
from crfl.certification._checks import FloatArray
from crfl.certification.bounds.votes import Method, ProbabilityBounds
from crfl.certification.certificate import Certificate
from crfl.certification.kinds.task import Run, Task, Test
from crfl.certification.margin import smoothing_budget_from_logs
from crfl.certification.smoothing import VoteCounts


@dataclass(frozen=True, repr=False, eq=False)
class DistanceCertificate(Certificate):
    """Votes that are the same for every model within some distance of the trained one. `certify_distance` makes it.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "smoothing.samples": 100})
        >>> cert = certify_distance(crfl.train(exp, data := crfl.load_data(exp)), data.test)
        >>> bool((cert.distance[cert.abstained] == 0).all()), cert.strength_label
        (True, 'l2 distance of the models, in all parameters')
    """

    distance: FloatArray
    """No model closer than this, in the l2 norm over all parameters, votes otherwise; 0 where abstained."""
    bounds: ProbabilityBounds = field(repr=False)
    """Bounds on the class probabilities, and the estimates."""
    votes: VoteCounts | None = field(default=None, repr=False)
    """The votes behind the bounds."""

    @property
    def strength(self) -> FloatArray:
        """`distance`"""
        return self.distance

    @property
    def strength_name(self) -> str:
        """distance"""
        return "distance"

    @property
    def strength_label(self) -> str:
        """For axes."""
        return "l2 distance of the models, in all parameters"

    def _key_strengths(self) -> Iterable[tuple[str, float]]:
        largest = self.distance.max(initial=0.0)
        return [(f"at distance {d:.2g}", d) for d in (0.0, largest / 4, largest / 2)]

    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return {"p_a": self.bounds.p_a, "p_b": self.bounds.p_b}


def certify_distance(
    run: Run,
    test: Test,
    *,
    bounds: Method = "clopper_pearson",
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> DistanceCertificate:
    """How far the parameters may move before the vote of noisy models can change: for any model, such as a CNN.

        distance = sigma / 2 (Phi^-1(pA) - Phi^-1(pB))    (Cohen et al. 2019, in the space of the parameters)

    It says nothing of how far an attack can move a model that is not linear: nobody knows a useful bound on that. Where
    an attack has been simulated, compare with its distance (`crfl.train_pair`). An ensemble does have a certificate,
    whatever the model: `crfl.train_ensemble`.

    Args:
        run: A TrainingRun of any model.
        test: Samples with features x (m, d), or data with a test split.
        bounds: How the class probabilities are bounded; "exact" for softmax regression only.
        votes: Votes of this run to reuse, on the whole test set or on the certified rows.
        simultaneous: Clopper-Pearson bounds then hold for all samples at once, not for each by itself.
        device: Where votes are counted; None: where the run's parameters are.
        progress: Show a bar while votes take long.

    Returns:
        A certificate whose strength is `distance`.

    Raises:
        CertificateError: options do not fit.

    Example:
        >>> import crfl
        >>> from torch import nn
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 3, "attack.round": 2}))
        >>> network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        >>> cert = certify_distance(crfl.train(exp, data, model=network), data.test)
        >>> cert.distance.shape
        (397,)
    """
    task = Task.of(run, test, device, linear=bounds == "exact")
    found, votes = task.bounds(bounds, votes, simultaneous, progress)
    noise = run.experiment.smoothing.noise
    return DistanceCertificate(
        kind="distance",
        prediction=found.prediction,
        abstained=found.abstained,
        indices=task.indices,
        test_size=task.test_size,
        guarantee=assumptions.distance(len(run.params), noise, found),
        notes=tuple(assumptions.weak_votes(found)),
        distance=np.asarray(smoothing_budget_from_logs(found.log_not_p_a, found.log_p_b, noise=noise)),
        bounds=found,
        votes=votes,
    )
