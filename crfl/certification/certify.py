"""Certify a run: its record, its model and the test inputs in, a Certificate out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, overload

import torch

from crfl import sanity
from crfl.certification.bounds.votes import Method
from crfl.certification.certificate import Certificate, ClientCertificate, Kind
from crfl.certification.ensembles.certificate import EnsembleCertificate, EnsemblePoisonCertificate
from crfl.certification.kinds.clients import certify_clients
from crfl.certification.kinds.coupled import certify_margin, certify_smoothing
from crfl.certification.kinds.distance import DistanceCertificate, certify_distance
from crfl.certification.kinds.ensemble import Ensemble, certify_ensemble
from crfl.certification.kinds.published import certify_published
from crfl.certification.kinds.task import Run, Test, labels_of, one_of
from crfl.certification.radius import RadiusCertificate
from crfl.certification.smoothing import VoteCounts
from crfl.errors import CertificateError

__all__ = [
    "Certificate",
    "certify",
    "certify_clients",
    "certify_distance",
    "certify_ensemble",
    "certify_margin",
    "certify_published",
    "certify_smoothing",
]

CERTIFIERS: dict[Kind, Callable[..., Certificate]] = {
    "margin": certify_margin,
    "smoothing": certify_smoothing,
    "published": certify_published,
    "clients": certify_clients,
    "distance": certify_distance,
    "ensemble": certify_ensemble,
}


@overload
def certify(
    run: Run,
    test: Test,
    *,
    kind: Literal["margin", "smoothing", "published"] | None = None,
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


@overload
def certify(
    run: Run,
    test: Test,
    *,
    kind: Literal["distance"],
    device: str | torch.device | None = None,
    progress: bool = False,
    bounds: Method | None = None,
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
) -> DistanceCertificate: ...


@overload
def certify(
    run: Ensemble,
    test: Test,
    *,
    kind: Literal["ensemble"] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    simultaneous: bool = False,
    prices: Literal["clients"] | None = None,
) -> EnsembleCertificate: ...


@overload
def certify(
    run: Ensemble,
    test: Test,
    *,
    kind: Literal["ensemble"] | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    simultaneous: bool = False,
    prices: Literal["poison"],
) -> EnsemblePoisonCertificate: ...


def certify(
    run: Run | Ensemble,
    test: Test,
    *,
    kind: Kind | None = None,
    device: str | torch.device | None = None,
    progress: bool = False,
    bounds: Method | None = None,
    votes: VoteCounts | None = None,
    simultaneous: bool = False,
    attack_round: Literal["any"] | None = None,
    attack_clip_norm: float | None = None,
    prices: Literal["clients", "poison"] | None = None,
) -> Certificate:
    """Certify the predictions of a run's model, or of the vote of an ensemble, on test inputs.

    The kinds, each a function of its own that documents the options that it takes:

    - "margin" (`certify_margin`): sound for this very run, against triggers of a norm. No votes, no alpha.
    - "smoothing" (`certify_smoothing`): the same for the smoothed vote; never larger.
    - "published" (`certify_published`): the paper's Corollary 1, as printed. It warns where it is no guarantee.
    - "clients" (`certify_clients`): how many clients may send anything, in every round.
    - "distance" (`certify_distance`): for one model of any kind, how far its parameters may move. It is no certificate
      against clients, and the only kind for a single network.
    - "ensemble" (`certify_ensemble`): how many clients may send anything, for the vote of groups; of any model.

    All but the last two are for softmax regression, whose loss is convex. The seed and the settings smoothing.noise,
    samples, alpha and test_samples come from the run's experiment. A run in which nobody attacked has infinite radii, and says so.

    Args:
        run: A TrainingRun, or anything with experiment, model, params and record; or an EnsembleRun.
        test: Samples with features x (m, d), such as data.test or a backdoored copy; or FederatedData, whose test split
            is certified. Their labels, if they have any, are for the summary alone.
        kind: Which certificate; None: "margin" of a run, "ensemble" of an ensemble.
        device: Where to compute; None: where the run's parameters are.
        progress: Show a bar while votes take long.
        bounds: "smoothing", "published" and "distance": "hoeffding", "clopper_pearson" or "exact".
        votes: "smoothing", "published" and "distance": votes of this run to reuse.
        simultaneous: "smoothing", "published", "distance" and "ensemble": Clopper-Pearson bounds for all samples at once.
        attack_round: "margin" and "smoothing": "any" for one attack in an unknown round.
        attack_clip_norm: "published": replaces the attack round's clip norm in Lemma 1.
        prices: "ensemble": "clients" or "poison", what a group's vote costs by its own certificate.

    Returns:
        A RadiusCertificate; for "clients" a ClientCertificate, for "distance" a DistanceCertificate, for "ensemble" an EnsembleCertificate (with prices
        "poison" an EnsemblePoisonCertificate).

    Raises:
        CertificateError: the certificate does not hold for the run, with every reason; or an option is not of its kind.

    Warns:
        CertificateWarning: kind "published" is no guarantee for the run.
        SanityWarning: every prediction is the same class.

    Example:
        >>> import crfl
        >>> data = crfl.load_data(exp := crfl.Experiment().override({"server.rounds": 12, "attack.round": 4}))
        >>> cert = crfl.certify(crfl.train(exp, data), data)
        >>> at_zero, at_a_tenth = cert.certified_accuracy(data.test.y, [0, 0.1])
        >>> bool(1 > at_zero > at_a_tenth > 0.4)
        True
    """
    own: Kind = "ensemble" if isinstance(run, Ensemble) else "margin"
    chosen = own if kind is None else kind
    one_of("kind", chosen, list(CERTIFIERS))
    if (chosen == "ensemble") != (own == "ensemble"):
        other = "a TrainingRun" if own == "ensemble" else "an EnsembleRun, as train_ensemble makes it"
        raise CertificateError(f"kind {chosen!r}: got {type(run).__name__}, expected {other}")
    options: dict[str, Any] = {
        "bounds": bounds,
        "votes": votes,
        "simultaneous": simultaneous or None,
        "attack_round": attack_round,
        "attack_clip_norm": attack_clip_norm,
        "prices": prices,
    }
    given = {name: value for name, value in options.items() if value is not None}
    certifier = CERTIFIERS[chosen]
    takes = inspect.signature(certifier).parameters
    wrong = [name for name in given if name not in takes]
    if wrong:
        possible = ", ".join(name for name in options if name in takes) or "no option of a kind"
        raise CertificateError(f"kind {chosen!r}: got {', '.join(wrong)}, expected {possible}")
    if "progress" in takes:
        given["progress"] = progress
    certificate = certifier(run, test, device=device, **given).with_labels(labels_of(test))
    sanity.warn(note for note in certificate.notes if note.startswith(sanity.CONSTANT))
    return certificate
