"""Kind "ensemble": the vote of groups of clients (docs/theory-ensembles.md). Any model, rule, optimiser and behaviour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from crfl.certification._checks import IntArray
from crfl.certification.ensembles.certificate import EnsembleCertificate, EnsemblePoisonCertificate
from crfl.certification.ensembles.certify import certify_disjoint, certify_poison, certify_random
from crfl.certification.kinds.task import Run, Test, certified_rows, features_of, one_of
from crfl.config import Experiment
from crfl.errors import CertificateError

Prices = Literal["clients", "poison"]


@runtime_checkable
class Ensemble(Protocol):
    """What is certified: an EnsembleRun, or anything with these."""

    @property
    def experiment(self) -> Experiment: ...
    @property
    def num_clients(self) -> int: ...
    @property
    def num_classes(self) -> int: ...
    @property
    def clients_per_group(self) -> int | None: ...
    @property
    def groups(self) -> Sequence[IntArray]: ...
    def votes(self, x: Any, device: str | torch.device = "cpu") -> IntArray: ...
    def group_run(self, group: int) -> Run: ...


def certify_ensemble(
    ensemble: Ensemble,
    test: Test,
    *,
    prices: Prices | None = None,
    simultaneous: bool = False,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> EnsembleCertificate | EnsemblePoisonCertificate:
    """How many clients may do anything, in every round, before the vote of the groups can change.

    Disjoint groups: the margin of the vote, exactly, without a level (theorem 1). Groups drawn at random:
    Clopper-Pearson bounds at smoothing.alpha (theorems 4 and 5). Nothing is assumed of model, loss, optimiser, rule or
    behaviour; `assumptions` says what is.

    Args:
        ensemble: An EnsembleRun.
        test: Samples with features x (m, d), or data with a test split. smoothing.test_samples chooses among them.
        prices: For softmax regression in disjoint groups (theorem 2): "clients" counts how many malicious clients it
            takes to change a group's vote, by the group's own certificate of kind "clients"; "poison" counts poisoned
            samples of any content, in one unknown round of each group, by its margins. None: one client each.
        simultaneous: Groups drawn at random: alpha is for all samples at once, not for each by itself.
        device: Where to compute the votes; None: on the CPU.
        progress: Show a bar while the groups' own certificates are made.

    Returns:
        An EnsembleCertificate, whose strength is `malicious_clients`; for "poison" an EnsemblePoisonCertificate, whose
        strength is `poisoned_samples`.

    Raises:
        CertificateError: an option does not fit the ensemble, or no group has a certificate of its own.

    Example:
        >>> import crfl
        >>> settings = {"data.clients": 20, "server.rounds": 20, "local.learning_rate": 0.5, "attack.round": None}
        >>> exp = crfl.Experiment().override(settings)
        >>> data = crfl.load_data(exp)
        >>> cert = certify_ensemble(crfl.train_ensemble(exp, data, groups=10), data.test)
        >>> at_none, at_two = cert.certified_accuracy(data.test.y, [0, 2])
        >>> bool(at_none > at_two > 0.5)
        True
    """
    size = ensemble.clients_per_group
    disjoint = size is None
    if prices is not None:
        one_of("prices", prices, ["clients", "poison"])
        if not disjoint:
            raise CertificateError(f"prices: got {prices!r}, expected None: groups drawn at random share clients")
    if simultaneous and disjoint:
        raise CertificateError("simultaneous: got True, expected False: the vote of disjoint groups is certain")
    x = features_of(test)
    indices = certified_rows(ensemble.experiment, len(x))
    rows: dict[str, Any] = {"indices": indices, "test_size": len(x)}
    if prices is not None:
        from crfl.certification.ensembles.group_prices import price_groups  # here: most ensembles do without

        found = price_groups(ensemble, test, prices, device=device, progress=progress)
        if prices == "poison":
            return certify_poison(**found, num_classes=ensemble.num_classes, **rows)
        return certify_disjoint(**found, num_classes=ensemble.num_classes, num_clients=ensemble.num_clients, **rows)
    votes = ensemble.votes(x if len(indices) == len(x) else x[torch.from_numpy(indices)], device or "cpu")
    if size is None:
        return certify_disjoint(votes, ensemble.num_classes, num_clients=ensemble.num_clients, **rows)
    return certify_random(
        votes,
        ensemble.num_classes,
        num_clients=ensemble.num_clients,
        clients_per_group=size,
        alpha=ensemble.experiment.smoothing.alpha,
        simultaneous=simultaneous,
        **rows,
    )
