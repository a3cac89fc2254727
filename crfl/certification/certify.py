"""Certify a run: its record, its model and the test inputs in, a Certificate out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from crfl import rng
from crfl.certification import assumptions
from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.bounds.exact import exact_bounds
from crfl.certification.bounds.votes import ProbabilityBounds, clopper_pearson, hoeffding
from crfl.certification.certificate import Certificate
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_coupled
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.margin import lowered_budget, margin_budget, smoothing_budget_from_logs
from crfl.certification.published import kl_budget_from_logs, log_contraction
from crfl.certification.scenario import PublishedScenario
from crfl.certification.smoothing import BLOCK_SAMPLES, VoteCounts, smooth
from crfl.config import Experiment
from crfl.errors import CertificateError
from crfl.models.base import Model
from crfl.models.softmax import SoftmaxRegression
from crfl.record import TrainingRecord

__all__ = ["Certificate", "certify"]

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


@dataclass(frozen=True)
class _Task:
    """What is asked for: the certified rows of the test set, and the options of `certify`."""

    run: Run
    x: Tensor
    indices: IntArray
    test_size: int
    bounds: str | None
    votes: VoteCounts | None
    simultaneous: bool
    any_round: bool
    attack_clip_norm: float | None
    progress: bool


def certify(
    run: Run,
    test: Samples,
    *,
    kind: str = "published",
    bounds: str | None = None,
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_round: Literal["any"] | None = None,
    attack_clip_norm: float | None = None,
    progress: bool = False,
) -> Certificate:
    """Certify the predictions of a run's model on the test inputs x (m, d) against triggers of larger magnitude.

    `kind`:
    - "published": the paper's Corollary 1; `bounds` "hoeffding" (default), "clopper_pearson" or "exact".
    - "smoothing": sound for this run: Delta against the smoothed vote; `bounds` "clopper_pearson" by default.
    - "margin": sound for this run: Delta against the model's margin. No noise, no votes, no alpha; never smaller.

    All kinds are for softmax regression, whose loss is convex. For other models hold votes by `smooth`, bounds on them
    and `smoothing_budget`, the distance in parameter space that changes no vote. `votes` reuses votes of the run.
    `simultaneous`: clopper_pearson bounds then hold for all test samples at once, not for each by itself.
    `attack_round="any"`: the sound kinds then certify against one attack of the recorded strength in any one round.
    `attack_clip_norm` replaces, for "published", the attack round's clip norm in Lemma 1 (some of the paper's figures
    keep it at another round's value). `progress` shows a bar while votes take long. smoothing.noise, samples, alpha and
    test_samples and the seed come from the run's experiment. A run in which nobody attacked has infinite radii and an
    assumption that says so.

    Raises CertificateError where the certificate asked for does not hold for the run; it names every reason.
    """
    if kind not in KINDS:
        raise CertificateError(f"kind: got {kind!r}, expected {', '.join(KINDS)}")
    if attack_round not in (None, "any"):
        raise CertificateError(f"attack_round: got {attack_round!r}, expected 'any', or None for that on record")
    if not isinstance(run.model, SoftmaxRegression):
        raise CertificateError(
            f"the model is {type(run.model).__name__}: Lemma 1, the margin and the coupling argument hold for softmax "
            "regression only. For other models: votes by `smooth`, bounds on them, `smoothing_budget` for the distance "
            "in parameter space that changes no vote, and `corollary1_radius` with a Lipschitz constant of your own"
        )
    indices = _indices(run.experiment, len(test.x))
    x = test.x if len(indices) == len(test.x) else test.x[torch.from_numpy(indices)]
    if x.ndim != 2 or x.shape[1] != run.record.num_features:
        raise CertificateError(f"test: got x of shape {tuple(x.shape)}, expected (m, {run.record.num_features})")
    if votes is not None:
        votes = _reused(votes, run, indices, len(test.x))
    any_round = attack_round == "any"
    if any_round and run.experiment.attack.force_participation and run.experiment.server.participation < 1:
        raise CertificateError(
            "attack_round: 'any' takes who took part as on record, but under attack.force_participation the attackers bring "
            "themselves in, in whatever round they attack"
        )
    return KINDS[kind](
        _Task(run, x, indices, len(test.x), bounds, votes, simultaneous, any_round, attack_clip_norm, progress)
    )


def _published(task: _Task) -> Certificate:
    """Corollary 1 on bounds of the class probabilities."""
    record, sigma = task.run.record, task.run.experiment.smoothing.noise
    if task.any_round:
        raise CertificateError("attack_round: 'any' is for kind 'margin' and 'smoothing'; the paper's is of one round")
    if len(record.attack_rounds) > 1:
        rounds = ", ".join(str(r.round) for r in record.attack_rounds)
        raise CertificateError(f"kind 'published' knows one attack round, got {rounds}; kind 'margin' knows several")
    if any(a.update is not None for r in record.attack_rounds for a in r.attackers):
        raise CertificateError("kind 'published' knows backdoors only; here attackers sent malicious updates")
    found, votes = _bounds(task, task.bounds or "hoeffding")
    attack, clip_norm, noise, log_product = None, 0.0, 0.0, 0.0
    if record.attack_rounds:
        attack = record.attack_rounds[0]
        later = record.rounds[attack.round :]
        # Noise is added after every round but the last, whose factor has the test-time noise.
        stds = [*(r.noise_std for r in record.rounds[:-1]), sigma]
        noise = stds[attack.round - 1]
        log_product = float(log_contraction([r.clip_norm for r in later], stds[attack.round :]))
        clip_norm = attack.clip_norm if task.attack_clip_norm is None else task.attack_clip_norm
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
        indices=task.indices,
        test_size=task.test_size,
        scenario=scenario,
        votes=votes,
    )


def _smoothing(task: _Task) -> Certificate:
    """Delta after the last clipping, against the smoothed vote."""
    check_coupled(task.run.record, any_round=task.any_round)
    found, votes = _bounds(task, task.bounds or "clopper_pearson")
    noise = task.run.experiment.smoothing.noise
    budget = smoothing_budget_from_logs(found.log_not_p_a, found.log_p_b, noise=noise)
    if found.method == "exact" and np.isinf(budget).any():  # where the logs overflow; the margin is never smaller
        budget = np.minimum(budget, margin_budget(*_linear(task)))
    return _coupled(task, "smoothing", found.prediction, budget, found, votes)


def _margin(task: _Task) -> Certificate:
    """Delta before the last clipping, against the margin: clipping scales a linear model, which keeps its argmax."""
    if task.bounds is not None or task.votes is not None or task.simultaneous:
        raise CertificateError(
            "kind 'margin' needs no bounds and no votes: leave `bounds`, `votes`, `simultaneous` out"
        )
    check_coupled(task.run.record, any_round=task.any_round)
    logits, norms = _linear(task)
    last = task.run.record.rounds[-1]
    budget = margin_budget(logits, norms) * max(1.0, last.pre_clip_norm / last.clip_norm)
    return _coupled(task, "margin", logits.argmax(axis=1), budget, None, None)


def _coupled(
    task: _Task,
    kind: str,
    prediction: IntArray,
    budget: FloatArray,
    found: ProbabilityBounds | None,
    votes: VoteCounts | None,
) -> Certificate:
    """The certificate of predictions that no model closer than their budget (m,) changes."""
    if task.attack_clip_norm is not None:
        raise CertificateError("attack_clip_norm: is for kind 'published'; the sound kinds use the recorded norms")
    record, noise = task.run.record, task.run.experiment.smoothing.noise
    scenario = CoupledScenario(record, before_clip=kind == "margin", any_round=task.any_round)
    budget = lowered_budget(record, budget)
    least = scenario.cost(0.0)
    return Certificate(
        kind=kind,
        prediction=prediction,
        radius=scenario.radius(budget),
        abstained=~scenario.certifies(budget, least),
        bounds=found,
        budget=budget,
        assumptions=(
            *assumptions.coupled(record, any_round=task.any_round, rounding=scenario.total_rounding),
            *(assumptions.probabilities(found) if found else ()),
        ),
        warnings=assumptions.coupled_broken(found, noise, budget, least),
        indices=task.indices,
        test_size=task.test_size,
        scenario=scenario,
        votes=votes,
    )


KINDS: dict[str, Callable[[_Task], Certificate]] = {
    "published": _published,
    "smoothing": _smoothing,
    "margin": _margin,
}


def _bounds(task: _Task, method: str) -> tuple[ProbabilityBounds, VoteCounts | None]:
    """Bounds on the class probabilities of the smoothed model, and the votes behind them."""
    run, settings, seed = task.run, task.run.experiment.smoothing, task.run.experiment.seed
    if method not in ("hoeffding", "clopper_pearson", "exact"):
        raise CertificateError(f"bounds: got {method!r}, expected hoeffding, clopper_pearson, exact")
    if task.simultaneous and method != "clopper_pearson":
        raise CertificateError(f"simultaneous: is for clopper_pearson bounds, got {method}")
    if method == "exact":
        if task.votes is not None:
            raise CertificateError("votes: exact bounds need none; leave `votes` out")
        logits, norms = _linear(task)
        return exact_bounds(logits, settings.noise * norms), None

    def draw(purpose: str, samples: int) -> VoteCounts:
        generator = rng.stream(seed, purpose)
        return smooth(
            run.model,
            run.params,
            task.x,
            noise=settings.noise,
            samples=samples,
            generator=generator,
            progress=task.progress,
        )

    votes = task.votes or draw("votes", settings.samples)
    if method == "hoeffding":
        return hoeffding(votes.counts, settings.alpha), votes
    selection = draw("selection votes", SELECTION_SAMPLES)
    return clopper_pearson(selection.counts, votes.counts, settings.alpha, simultaneous=task.simultaneous), votes


def _linear(task: _Task) -> tuple[FloatArray, FloatArray]:
    """Logits (m, C) of the model and norms ||x~|| (m,) of the samples, in float64: rounding is then far below slack."""
    model, params = task.run.model, task.run.params.cpu().double()
    logits, norms = [], []
    for block in task.x.split(BLOCK_SAMPLES):  # small enough for the cache: several times faster than all at once
        wide = block.cpu().double()
        logits.append(model.logits(params, wide))
        norms.append(torch.linalg.vector_norm(wide, dim=1))
    return torch.cat(logits).numpy(), np.hypot(1.0, torch.cat(norms).numpy())


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
            f"votes: got noise {votes.noise:g}, expected smoothing.noise = {run.experiment.smoothing.noise:g}"
        )
    if len(votes.counts) == len(indices):
        return votes
    if len(votes.counts) == test_size:
        return replace(votes, counts=votes.counts[indices])
    allowed = " or ".join(map(str, sorted({len(indices), test_size})))
    raise CertificateError(f"votes: got {len(votes.counts)} test samples, expected {allowed}")
