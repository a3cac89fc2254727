"""Certify a run: its record, its model and the test inputs in, a Certificate out."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from crfl import rng
from crfl.certification import assumptions
from crfl.certification._checks import IntArray
from crfl.certification.bounds import ProbabilityBounds, clopper_pearson, hoeffding
from crfl.certification.certificate import Certificate
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.published import kl_budget_from_logs, log_contraction
from crfl.certification.scenario import PublishedScenario
from crfl.certification.smoothing import VoteCounts, smooth
from crfl.config import Experiment
from crfl.errors import CertificateError
from crfl.training.models import SoftmaxRegression
from crfl.training.record import TrainingRecord

__all__ = ["Certificate", "certify"]

SELECTION_SAMPLES = 100
"""Models that choose the class for clopper_pearson, drawn apart from those that are counted (Cohen et al. 2019)."""


class Run(Protocol):
    """What is certified: a TrainingRun, or anything with these."""

    @property
    def experiment(self) -> Experiment: ...
    @property
    def model(self) -> SoftmaxRegression: ...
    @property
    def params(self) -> Tensor: ...
    @property
    def record(self) -> TrainingRecord: ...


class Samples(Protocol):
    """Test samples: features x (m, d)."""

    @property
    def x(self) -> Tensor: ...


def certify(
    run: Run,
    test: Samples,
    *,
    kind: str = "published",
    bounds: str | None = None,
    votes: VoteCounts | None = None,
    attack_clip_norm: float | None = None,
) -> Certificate:
    """Certify the predictions of a run's smoothed model on the test inputs x (m, d).

    kind "published": the paper's Corollary 1, with `bounds` "hoeffding" (default, as the paper), "clopper_pearson" or
    "exact". `votes` reuses earlier votes of the same model; `attack_clip_norm` replaces the attack round's clip norm
    in Lemma 1 (some figures of the paper keep it at another round's value).
    The settings smoothing.noise, samples, alpha and test_samples and the seed come from the run's experiment.

    Raises CertificateError where the certificate asked for does not apply to the run; it names the reason.
    """
    if kind not in KINDS:
        raise CertificateError(f"kind: found {kind!r}, allowed: {', '.join(KINDS)}")
    indices = _indices(run.experiment, len(test.x))
    x = test.x if len(indices) == len(test.x) else test.x[torch.from_numpy(indices)]
    if votes is not None:
        votes = _reused(votes, run, indices, len(test.x))
    return KINDS[kind](run, x, indices, len(test.x), bounds, votes, attack_clip_norm)


def _published(
    run: Run,
    x: Tensor,
    indices: IntArray,
    test_size: int,
    method: str | None,
    votes: VoteCounts | None,
    attack_clip_norm: float | None,
) -> Certificate:
    record, sigma = run.record, run.experiment.smoothing.noise
    found, votes = _bounds(run, x, method or "hoeffding", votes)
    attack, clip_norm, noise, log_product = None, 0.0, 0.0, 0.0
    if len(record.attack_rounds) > 1:
        rounds = ", ".join(str(r.round) for r in record.attack_rounds)
        raise CertificateError(f"kind 'published' knows one attack round, found {rounds}; kind 'margin' knows several")
    if record.attack_rounds:
        attack = record.attack_rounds[0]
        later = record.rounds[attack.round :]
        # Noise is added after every round but the last, whose factor has the test-time noise.
        stds = [*(r.noise_std for r in record.rounds[:-1]), sigma]
        noise = stds[attack.round - 1]
        log_product = float(log_contraction([r.clip_norm for r in later], stds[attack.round :]))
        clip_norm = attack.clip_norm if attack_clip_norm is None else attack_clip_norm
    scenario = PublishedScenario(record, attack, float(lemma1_lipschitz(clip_norm)), noise, log_product)
    budget = kl_budget_from_logs(found.log_not_p_a, found.log_p_b)
    return Certificate(
        kind="published",
        prediction=found.prediction,
        radius=scenario.radius(budget),
        abstained=found.abstained,
        bounds=found,
        budget=budget,
        assumptions=assumptions.published(record, found),
        warnings=assumptions.published_broken(record, attack, clip_norm, found),
        indices=indices,
        test_size=test_size,
        scenario=scenario,
        votes=votes,
    )


KINDS = {"published": _published}


def _bounds(run: Run, x: Tensor, method: str, votes: VoteCounts | None) -> tuple[ProbabilityBounds, VoteCounts | None]:
    """Bounds on the class probabilities of the smoothed model, and the votes behind them."""
    settings, seed = run.experiment.smoothing, run.experiment.seed
    if method not in ("hoeffding", "clopper_pearson"):
        raise CertificateError(f"bounds: found {method!r}, allowed: hoeffding, clopper_pearson, exact")

    def draw(purpose: str, samples: int) -> VoteCounts:
        generator = rng.stream(seed, purpose)
        return smooth(run.model, run.params, x, noise=settings.noise, samples=samples, generator=generator)

    if votes is None:
        votes = draw("votes", settings.samples)
    if method == "hoeffding":
        return hoeffding(votes.counts, settings.alpha), votes
    selection = draw("selection votes", SELECTION_SAMPLES)
    return clopper_pearson(selection.counts, votes.counts, settings.alpha), votes


def _indices(exp: Experiment, size: int) -> IntArray:
    """The rows of the test set to certify: all, or as many as the settings say, drawn from the seed."""
    wanted = exp.smoothing.test_samples
    if wanted is None or wanted >= size:
        return np.arange(size)
    return np.array(rng.choice(size, wanted, rng.stream(exp.seed, "test samples")), dtype=np.int64)


def _reused(votes: VoteCounts, run: Run, indices: IntArray, test_size: int) -> VoteCounts:
    """Votes given by the caller, for the certified rows; CertificateError if they cannot be of this run and test."""
    if votes.noise != run.experiment.smoothing.noise:
        raise CertificateError(
            f"votes: found noise {votes.noise:g}, allowed: smoothing.noise = {run.experiment.smoothing.noise:g}"
        )
    if len(votes.counts) == test_size:
        return replace(votes, counts=votes.counts[indices])
    if len(votes.counts) == len(indices):
        return votes
    allowed = " or ".join(map(str, sorted({len(indices), test_size})))
    raise CertificateError(f"votes: found {len(votes.counts)} test samples, allowed: {allowed}")
