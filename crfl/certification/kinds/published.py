"""Kind "published": Corollary 1 of the paper on bounds of the class probabilities."""

from __future__ import annotations

import warnings

import torch

from crfl.certification import assumptions
from crfl.certification.bounds.votes import Method
from crfl.certification.coupling.refusals import UNKNOWN_ATTACK
from crfl.certification.kinds.task import Run, Task, Test
from crfl.certification.lipschitz import lemma1_lipschitz
from crfl.certification.published import corollary1_radius, kl_budget_from_logs, log_contraction
from crfl.certification.radius import RadiusCertificate
from crfl.certification.scenario import PublishedScenario
from crfl.certification.smoothing import VoteCounts
from crfl.errors import CertificateError, CertificateWarning
from crfl.record import RoundRecord, TrainingRecord


def certify_published(
    run: Run,
    test: Test,
    *,
    bounds: Method = "hoeffding",
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_clip_norm: float | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> RadiusCertificate:
    """The paper's certificate (Xie et al., ICML 2021): Corollary 1's radius for each prediction.

        RAD = sqrt(eps(pA, pB) sigma^2 / (2 R L_Z^2 sum_i (p_i gamma_i tau_i eta_i q_i / n_i)^2 prod))

    As printed; docs/theory.md, section 3, says what of it does not hold and where. On raw images it is no guarantee;
    `certify_margin` gives one.

    Args:
        run: A TrainingRun of softmax regression.
        test: Samples with features x (m, d), or data with a test split.
        bounds: How the class probabilities are bounded.
        votes: Votes of this run to reuse, on the whole test set or on the certified rows.
        simultaneous: Clopper-Pearson bounds then hold for all samples at once, not for each by itself.
        attack_clip_norm: Replaces the attack round's clip norm in Lemma 1 (some of the paper's figures keep it at
            another round's value).
        device: Where votes are counted; None: where the run's parameters are.
        progress: Show a bar while votes take long.

    Returns:
        A certificate whose `budget` is eps(pA, pB). Its `warnings` name each assumption that the run breaks.

    Raises:
        CertificateError: more than one attack round, malicious updates, a model that is not linear, or options that do
            not fit.

    Warns:
        CertificateWarning: where the run breaks the assumptions of the paper, so that nothing is guaranteed.

    Example:
        >>> import crfl, warnings
        >>> warnings.simplefilter("ignore", crfl.errors.CertificateWarning)
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}))
        >>> cert = certify_published(crfl.train(exp, data), data.test, bounds="exact")
        >>> cert.label
        'published (not a guarantee here)'
    """
    task, record = Task.of(run, test, device), run.record
    _check(record)
    found, votes = task.bounds(bounds, votes, simultaneous, progress)
    attack = record.attack_rounds[0] if record.attack_rounds else None
    clip_norm = 0.0
    if attack is not None:
        clip_norm = attack.clip_norm if attack_clip_norm is None else attack_clip_norm
    scenario = _scenario(record, attack, clip_norm, run.experiment.smoothing.noise)
    radius = corollary1_radius(
        found.p_a,
        found.p_b,
        strengths=scenario.strengths(),
        lipschitz=scenario.lipschitz,
        noise=scenario.noise,
        log_contraction=scenario.log_contraction,
        logs=(found.log_not_p_a, found.log_p_b),
    )
    certificate = RadiusCertificate(
        kind="published",
        prediction=found.prediction,
        abstained=found.abstained,
        indices=task.indices,
        test_size=task.test_size,
        guarantee=assumptions.published(record, attack, clip_norm, found),
        notes=tuple(assumptions.weak_votes(found)),
        radius=radius,
        budget=kl_budget_from_logs(found.log_not_p_a, found.log_p_b),
        scenario=scenario,
        bounds=found,
        votes=votes,
    )
    _warn(certificate)
    return certificate


def _check(record: TrainingRecord) -> None:
    """CertificateError where the paper's theorem does not say anything."""
    if record.client_reported and not record.attack_rounds:
        raise CertificateError(f"kind 'published' does not hold for this run: {UNKNOWN_ATTACK}")
    if len(record.attack_rounds) > 1:
        rounds = ", ".join(str(r.round) for r in record.attack_rounds)
        raise CertificateError(
            f"kind 'published': got attacks in rounds {rounds}, expected one attack round; kind 'margin' allows several"
        )
    if any(a.update is not None for r in record.attack_rounds for a in r.attackers):
        raise CertificateError(
            "kind 'published': got attackers that sent malicious updates, expected poisoned samples alone"
        )


def _scenario(
    record: TrainingRecord, attack: RoundRecord | None, clip_norm: float, test_noise: float
) -> PublishedScenario:
    """What Theorem 2 takes from the record."""
    if attack is None:
        return PublishedScenario(record, None, float(lemma1_lipschitz(clip_norm)), 0.0, 0.0)
    later = record.rounds[attack.round :]
    # Noise is added after every round but the last, whose factor has the test-time noise.
    stds = [*(r.noise_std for r in record.rounds[:-1]), test_noise]
    log_product = float(log_contraction([r.clip_norm for r in later], stds[attack.round :]))
    return PublishedScenario(record, attack, float(lemma1_lipschitz(clip_norm)), stds[attack.round - 1], log_product)


def _warn(certificate: RadiusCertificate) -> None:
    """Say where nothing is guaranteed."""
    broken = certificate.guarantee.broken
    if broken:
        warnings.warn(
            f"kind 'published' is no guarantee for this run, which breaks {len(broken)} of its assumptions (see "
            f"cert.warnings): {broken[0]}",
            CertificateWarning,
            stacklevel=4,
        )
