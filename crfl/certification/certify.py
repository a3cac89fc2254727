"""Certify a run: its record, its model and the test inputs in, a Certificate out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, overload

import torch

from crfl.certification.bounds.votes import Method
from crfl.certification.certificate import Certificate, ClientCertificate, Kind
from crfl.certification.kinds.clients import certify_clients
from crfl.certification.kinds.coupled import certify_margin, certify_smoothing
from crfl.certification.kinds.published import certify_published
from crfl.certification.kinds.task import Run, Test, one_of
from crfl.certification.radius import RadiusCertificate
from crfl.certification.smoothing import VoteCounts
from crfl.errors import CertificateError

__all__ = ["Certificate", "certify", "certify_clients", "certify_margin", "certify_published", "certify_smoothing"]

CERTIFIERS: dict[Kind, Callable[..., Certificate]] = {
    "margin": certify_margin,
    "smoothing": certify_smoothing,
    "published": certify_published,
    "clients": certify_clients,
}


@overload
def certify(
    run: Run,
    test: Test,
    *,
    kind: Literal["margin", "smoothing", "published"] = "margin",
    device: str | torch.device | None = None,
    progress: bool = False,
    bounds: Method | None = None,
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_round: Literal["any"] | None = None,
    attack_clip_norm: float | None = None,
) -> RadiusCertificate: ...


@overload
def certify(
    run: Run,
    test: Test,
    *,
    kind: Literal["clients"],
    device: str | torch.device | None = None,
    progress: bool = False,
) -> ClientCertificate: ...


def certify(
    run: Run,
    test: Test,
    *,
    kind: Kind = "margin",
    device: str | torch.device | None = None,
    progress: bool = False,
    bounds: Method | None = None,
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_round: Literal["any"] | None = None,
    attack_clip_norm: float | None = None,
) -> Certificate:
    """Certify the predictions of a run's model on test inputs.

    The kinds, each a function of its own that documents the options that it takes:

    - "margin" (`certify_margin`): sound for this very run, against triggers of a norm. No votes, no alpha.
    - "smoothing" (`certify_smoothing`): the same for the smoothed vote; never larger.
    - "published" (`certify_published`): the paper's Corollary 1, as printed. It warns where it is no guarantee.
    - "clients" (`certify_clients`): how many clients may send anything, in every round.

    They are for softmax regression, whose loss is convex. smoothing.noise, samples, alpha and test_samples and the seed
    come from the run's experiment. A run in which nobody attacked has infinite radii, and says so.

    Args:
        run: A TrainingRun, or anything with experiment, model, params and record.
        test: Samples with features x (m, d), such as data.test or a backdoored copy; or FederatedData, whose test split
            is certified.
        kind: Which certificate.
        device: Where to compute; None: where the run's parameters are.
        progress: Show a bar while votes take long.
        bounds: "smoothing" and "published": "hoeffding", "clopper_pearson" or "exact".
        votes: "smoothing" and "published": votes of this run to reuse.
        simultaneous: "smoothing" and "published": Clopper-Pearson bounds for all samples at once.
        attack_round: "margin" and "smoothing": "any" for one attack in an unknown round.
        attack_clip_norm: "published": replaces the attack round's clip norm in Lemma 1.

    Returns:
        A RadiusCertificate, or for "clients" a ClientCertificate.

    Raises:
        CertificateError: the certificate does not hold for the run, with every reason; or an option is not of its kind.

    Warns:
        CertificateWarning: kind "published" is no guarantee for the run.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}))
        >>> cert = crfl.certify(crfl.train(exp, data), data)
        >>> at_zero, at_a_tenth = cert.certified_accuracy(data.test.y, [0, 0.1])
        >>> bool(1 > at_zero > at_a_tenth > 0.4)
        True
    """
    one_of("kind", kind, list(CERTIFIERS))
    options: dict[str, Any] = {
        "bounds": bounds,
        "votes": votes,
        "simultaneous": simultaneous or None,
        "attack_round": attack_round,
        "attack_clip_norm": attack_clip_norm,
    }
    given = {name: value for name, value in options.items() if value is not None}
    certifier = CERTIFIERS[kind]
    takes = inspect.signature(certifier).parameters
    wrong = [name for name in given if name not in takes]
    if wrong:
        possible = ", ".join(name for name in options if name in takes) or "no option of a kind"
        raise CertificateError(f"kind {kind!r}: got {', '.join(wrong)}, expected {possible}")
    if "progress" in takes:
        given["progress"] = progress
    return certifier(run, test, device=device, **given)
