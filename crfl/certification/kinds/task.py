"""What is certified: the run, the rows of the test set, and bounds on their class probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from crfl import rng
from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.bounds.exact import exact_bounds
from crfl.certification.bounds.votes import Method, ProbabilityBounds, clopper_pearson, hoeffding
from crfl.certification.smoothing import BLOCK_SAMPLES, VoteCounts, smooth
from crfl.config import Experiment
from crfl.devices import resolve_device
from crfl.errors import CertificateError
from crfl.models.base import Model
from crfl.record import TrainingRecord

SELECTION_SAMPLES = 100
"""Models that choose the class for clopper_pearson, drawn apart from those that are counted (Cohen et al. 2019)."""


class Run(Protocol):
    """What is certified: a TrainingRun, or anything with these."""

    @property
    def experiment(self) -> Experiment: ...
    @property
    def model(self) -> Model: ...
    @property
    def params(self) -> Tensor: ...
    @property
    def record(self) -> TrainingRecord: ...


class Samples(Protocol):
    """Test samples: features x (m, d)."""

    @property
    def x(self) -> Tensor: ...


class DataWithTest(Protocol):
    """Data that has a test split: FederatedData."""

    @property
    def test(self) -> Samples: ...


Test = Samples | DataWithTest
"""The samples to certify, or data whose test split it is."""


@dataclass(frozen=True)
class Task:
    """The model and the samples that are certified, on one device."""

    run: Run
    params: Tensor
    """(P,)"""
    x: Tensor
    """(m, d): the certified rows of the test set."""
    indices: IntArray
    """Which rows they are, (m,)."""
    test_size: int

    @classmethod
    def of(cls, run: Run, test: Test, device: str | torch.device | None, *, linear: bool = True) -> Task:
        """The rows that the settings ask for; CertificateError unless they fit the model, and it is linear if it must."""
        if not hasattr(run, "record"):
            raise CertificateError(f"run: got {type(run).__name__}, expected a TrainingRun, such as crfl.train returns")
        record, x = run.record, features_of(test)
        if linear and (not run.model.linear or any(r.start_spectral_norm is None for r in record.rounds)):
            raise CertificateError(
                f"the model is {record.model}: Lemma 1, the margin, the coupling argument and exact probabilities hold for "
                "softmax regression only. Any model is certified in an ensemble (crfl.train_ensemble); for a single one "
                "kind='distance' says how far its parameters may move before a vote can change"
            )
        if run.model.bias != record.bias:
            raise CertificateError(f"model: got bias {run.model.bias}, expected {record.bias}, as on record")
        if x.ndim != 2 or x.shape[1] != record.num_features:
            raise CertificateError(f"test: got x of shape {tuple(x.shape)}, expected (m, {record.num_features})")
        indices = certified_rows(run.experiment, len(x))
        params = run.params if device is None else run.params.to(resolve_device(device))
        return cls(run, params, x if len(indices) == len(x) else x[torch.from_numpy(indices)], indices, len(x))

    def linear(self) -> tuple[FloatArray, FloatArray]:
        """Logits (m, C) of the model and norms ||x~|| (m,) of the samples, in float64."""
        model, params = self.run.model, self.params.double()
        logits, norms = [], []
        for block in self.x.split(BLOCK_SAMPLES):  # small enough for the cache: several times faster than all at once
            x = block.to(params.device, torch.float64)
            logits.append(model.logits(params, x).cpu())
            norms.append(model.feature_norms(x).cpu())
        return torch.cat(logits).numpy(), torch.cat(norms).numpy()

    def bounds(
        self, method: Method, votes: VoteCounts | None, simultaneous: bool, progress: bool
    ) -> tuple[ProbabilityBounds, VoteCounts | None]:
        """Bounds on the class probabilities of the smoothed model, and the votes behind them."""
        settings = self.run.experiment.smoothing
        one_of("bounds", method, get_args(Method))
        if simultaneous and method != "clopper_pearson":
            raise CertificateError(f"simultaneous: got bounds {method!r}, expected 'clopper_pearson'")
        if method == "exact":
            if votes is not None:
                raise CertificateError("votes: got votes with bounds 'exact', which need none; expected None")
            logits, norms = self.linear()
            return exact_bounds(logits, settings.noise * norms), None
        votes = self._draw("votes", settings.samples, progress) if votes is None else self._checked(votes)
        if method == "hoeffding":
            return hoeffding(votes.counts, settings.alpha), votes
        selection = self._draw("selection votes", SELECTION_SAMPLES, progress)
        return clopper_pearson(selection.counts, votes.counts, settings.alpha, simultaneous=simultaneous), votes

    def _draw(self, purpose: str, samples: int, progress: bool) -> VoteCounts:
        return smooth(
            self.run.model,
            self.params,
            self.x,
            noise=self.run.experiment.smoothing.noise,
            samples=samples,
            generator=rng.stream(self.run.experiment.seed, purpose),
            progress=progress,
        )

    def _checked(self, votes: VoteCounts) -> VoteCounts:
        """Votes of the caller, for the certified rows; CertificateError if they cannot be of this run and test."""
        noise, classes = self.run.experiment.smoothing.noise, self.run.record.num_classes
        if votes.noise != noise:
            raise CertificateError(f"votes: got noise {votes.noise:g}, expected smoothing.noise = {noise:g}")
        if votes.counts.shape[1:] != (classes,):
            raise CertificateError(f"votes: got counts of shape {votes.counts.shape}, expected {classes} classes")
        if len(votes.counts) == len(self.indices):
            return votes
        if len(votes.counts) == self.test_size:
            return replace(votes, counts=votes.counts[self.indices])
        expected = " or ".join(map(str, sorted({len(self.indices), self.test_size})))
        raise CertificateError(f"votes: got {len(votes.counts)} test samples, expected {expected}")


def one_of(name: str, value: object, choices: Sequence[object]) -> None:
    """CertificateError unless the value is one of the choices."""
    if value not in choices:
        raise CertificateError(f"{name}: got {value!r}, expected {', '.join(map(repr, choices))}")


def check_attack_round(run: Run, attack_round: object) -> bool:
    """Whether the attack may have been in any round; CertificateError if that is not known of the run."""
    if attack_round is None:
        return False
    if attack_round != "any":
        raise CertificateError(f"attack_round: got {attack_round!r}, expected 'any', or None for that on record")
    if run.experiment.attack.force_participation and run.experiment.server.participation < 1:
        raise CertificateError(
            "attack_round: got 'any', expected None: under attack.force_participation the attackers bring themselves "
            "in, in whatever round they attack, but who took part in the other rounds is as on record"
        )
    return True


def features_of(test: Any) -> Tensor:
    """Features (m, d) of test samples or of the test split of data."""
    samples = getattr(test, "test", test)
    x = getattr(samples, "x", None)
    if isinstance(x, Tensor):
        return x
    shape = f" of shape {tuple(test.shape)}" if hasattr(test, "shape") else ""
    raise CertificateError(
        f"test: got {type(test).__name__}{shape}, expected a split of samples with features x (m, d), such as "
        "data.test, or FederatedData, whose test split is then certified"
    )


def labels_of(test: Any) -> IntArray | None:
    """Labels (m,) of test samples or of the test split of data; None if they have none."""
    samples = getattr(test, "test", test)
    y = getattr(samples, "y", None)
    return y.cpu().numpy() if isinstance(y, Tensor) and len(y) == len(samples.x) else None


def certified_rows(exp: Experiment, size: int) -> IntArray:
    """The rows of the test set to certify: all, or as many as the settings say, drawn from the seed."""
    wanted = exp.smoothing.test_samples
    if wanted is None or wanted >= size:
        return np.arange(size)
    return np.array(rng.choice(size, wanted, rng.stream(exp.seed, "test samples")), dtype=np.int64)
