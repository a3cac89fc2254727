"""Kinds "margin" and "smoothing": sound for the single run, by the distance Delta to its benign counterpart."""

from __future__ import annotations

from functools import partial
from typing import Literal

import numpy as np
import torch

from crfl.certification import assumptions
from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.bounds.votes import Method, ProbabilityBounds
from crfl.certification.coupling.advice import advice
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_coupled
from crfl.certification.kinds.task import Run, Task, Test, check_attack_round
from crfl.certification.margin import budget_before_clip, lowered_budget, margin_budget, smoothing_budget_from_logs
from crfl.certification.radius import RadiusCertificate
from crfl.certification.smoothing import VoteCounts


def certify_margin(
    run: Run,
    test: Test,
    *,
    attack_round: Literal["any"] | None = None,
    device: str | torch.device | None = None,
) -> RadiusCertificate:
    """The sound certificate of choice: Delta against the model's margin. No noise, no votes, no alpha.

        certified where  Delta(radius) < min_b (l_A - l_b) / (sqrt(2) ||x~||)

    Delta bounds the distance of the run's model to its benign counterpart's, before the last clipping, which scales a
    linear model and keeps its predictions. Proof: docs/theory.md, sections 5 and 6.

    Args:
        run: A TrainingRun of softmax regression.
        test: Samples with features x (m, d), or data with a test split.
        attack_round: "any" certifies against one attack of the recorded strength in any one round, whichever it was;
            None against attacks in the recorded rounds.
        device: Where logits are computed, in float64; None: where the run's parameters are.

    Returns:
        A certificate whose `budget` is the distance in parameter space that cannot change a prediction.

    Raises:
        CertificateError: the certificate does not hold for the run; it names every reason.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}))
        >>> cert = certify_margin(crfl.train(exp, data), data.test)
        >>> bool(cert.certified_accuracy(data.test.y, 0.1) > 0.4)
        True
    """
    any_round = check_attack_round(run, attack_round)
    task = Task.of(run, test, device)
    check_coupled(run.record, any_round=any_round)
    logits, norms = task.linear()
    budget = budget_before_clip(run.record, margin_budget(logits, norms))
    return _coupled(task, "margin", logits.argmax(axis=1), budget, any_round, None, None)


def certify_smoothing(
    run: Run,
    test: Test,
    *,
    bounds: Method = "clopper_pearson",
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_round: Literal["any"] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> RadiusCertificate:
    """The sound certificate of the smoothed vote, by Cohen et al. 2019.

        certified where  Delta(radius) < sigma / 2 (Phi^-1(pA) - Phi^-1(pB)),  Delta after the last clipping

    Never larger than that of `certify_margin`, whose predictions are the same where the noise is isotropic. It is here
    to compare with, and for the vote itself. Proof: docs/theory.md, sections 5 and 6.

    Args:
        run: A TrainingRun of softmax regression.
        test: Samples with features x (m, d), or data with a test split.
        bounds: How the class probabilities are bounded.
        votes: Votes of this run to reuse, on the whole test set or on the certified rows.
        simultaneous: Clopper-Pearson bounds then hold for all samples at once, not for each by itself.
        attack_round: As for `certify_margin`.
        device: Where votes are counted and logits computed; None: where the run's parameters are.
        progress: Show a bar while votes take long.

    Returns:
        A certificate whose `budget` is the distance in parameter space that cannot change a vote.

    Raises:
        CertificateError: the certificate does not hold for the run, or options do not fit.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}))
        >>> cert = certify_smoothing(crfl.train(exp, data), data.test, bounds="exact")
        >>> bool(cert.certified_accuracy(data.test.y, 0.1) > 0.4)
        True
    """
    any_round = check_attack_round(run, attack_round)
    task = Task.of(run, test, device)
    check_coupled(run.record, any_round=any_round)
    found, votes = task.bounds(bounds, votes, simultaneous, progress)
    noise = run.experiment.smoothing.noise
    budget = smoothing_budget_from_logs(found.log_not_p_a, found.log_p_b, noise=noise)
    if found.method == "exact" and np.isinf(budget).any():  # where the logs overflow; the margin is never smaller
        budget = np.minimum(budget, margin_budget(*task.linear()))
    return _coupled(task, "smoothing", found.prediction, budget, any_round, found, votes)


def _coupled(
    task: Task,
    kind: Literal["margin", "smoothing"],
    prediction: IntArray,
    budget: FloatArray,
    any_round: bool,
    found: ProbabilityBounds | None,
    votes: VoteCounts | None,
) -> RadiusCertificate:
    """The certificate of predictions that no model closer than their budget (m,) changes."""
    record, noise = task.run.record, task.run.experiment.smoothing.noise
    scenario = CoupledScenario(record, before_clip=kind == "margin", any_round=any_round)
    budget = lowered_budget(record, budget)
    least = scenario.cost(0.0)
    helps = partial(advice, record, budget, before_clip=scenario.before_clip, any_round=any_round)
    return RadiusCertificate(
        kind=kind,
        prediction=prediction,
        abstained=~scenario.certifies(budget, least),
        indices=task.indices,
        test_size=task.test_size,
        guarantee=assumptions.coupled(record, any_round=any_round, slack=scenario.total_rounding, bounds=found),
        notes=assumptions.nothing_certified(found, noise, budget, least, helps),
        radius=scenario.radius(budget),
        budget=budget,
        scenario=scenario,
        bounds=found,
        votes=votes,
    )
