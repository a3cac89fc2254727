"""Certificates of ensembles from the votes of their groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from crfl.certification._checks import FloatArray, IntArray, positive_int
from crfl.certification.certificate import Guarantee
from crfl.certification.ensembles.certificate import EnsembleCertificate, EnsemblePoisonCertificate
from crfl.certification.ensembles.plurality import count_votes, max_changed_votes, plurality
from crfl.certification.ensembles.prices import overturning_price
from crfl.certification.ensembles.random_groups import max_malicious, random_group_bounds
from crfl.errors import CertificateError

ISOLATED = "what a group's model computes depends on its own clients alone, also in rounding and when training fails"
DISJOINT = (
    "every client is in one group, and in the same one whatever any client holds or sends",
    "the list of clients stands before training: nobody joins, leaves or changes names, and nobody poses as several",
    ISOLATED,
)
RANDOM = (
    "groups are drawn uniformly and independently, unknown to the clients until training ends",
    "what a client sends in one group does not depend on which other groups were drawn",
    "the list of clients stands before training, and nobody poses as several",
    ISOLATED,
)


def certify_disjoint(
    votes: npt.ArrayLike,
    num_classes: int,
    *,
    num_clients: int,
    prices: npt.ArrayLike | None = None,
    group_guarantee: Guarantee | None = None,
    indices: npt.ArrayLike | None = None,
    test_size: int | None = None,
) -> EnsembleCertificate:
    """How many clients may be malicious throughout, if the groups share no client. Exact (theorems 1 and 2).

    Args:
        votes: (m, G) the class that each group predicts for each sample.
        num_classes: C
        num_clients: N
        prices: Whole numbers of 1 or more, (m, G) or (m, G, C): how many of its own clients must be malicious to change a
            group's vote (to each class), one more than its own certificate tolerates; inf where that is more than it
            has. None: one each, which needs no assumption on the model or its training.
        group_guarantee: What the prices rest on; required with them.
        indices: (m,) rows of the test set that were certified. Default: all.
        test_size: Rows of the test set. Default: m.

    Returns:
        A certificate of kind "ensemble" that never abstains. Never below the one without prices.

    Raises:
        CertificateError: the arrays do not fit, prices are not whole numbers of 1 or more, or have no guarantee.

    Example:
        >>> certificate = certify_disjoint([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]], 2, num_clients=20)
        >>> certificate.prediction, certificate.malicious_clients
        (array([0, 1]), array([2, 0]))
        >>> certificate.certified_accuracy([0, 1], [0, 1, 2])
        array([1. , 0.5, 0.5])
    """
    counts, price = count_votes(votes, num_classes), None
    most = positive_int("num_clients", num_clients)
    tolerated = max_changed_votes(counts)
    if prices is not None:
        _check_whole(prices)
        price = overturning_price(votes, prices, num_classes)
        tolerated = _below(price, most)
    whatever = "" if prices is not None else ", whatever the model and its training"
    statement = (
        f"each prediction stays the same if up to malicious_clients of the {most} clients hold and send anything, in "
        f"every round{whatever}"
    )
    return EnsembleCertificate(
        kind="ensemble",
        prediction=plurality(counts),
        abstained=np.zeros(len(counts), dtype=bool),
        **_rows_of(len(counts), indices, test_size),
        guarantee=_guarantee(statement, prices is not None, group_guarantee),
        notes=(),
        malicious_clients=np.minimum(tolerated, most),
        counts=counts,
        num_clients=most,
        price=price,
    )


def certify_poison(
    votes: npt.ArrayLike,
    num_classes: int,
    *,
    prices: npt.ArrayLike,
    num_samples: int,
    group_guarantee: Guarantee,
    indices: npt.ArrayLike | None = None,
    test_size: int | None = None,
) -> EnsemblePoisonCertificate:
    """How many training samples may be poisoned, if the groups share no sample. Exact (theorem 2).

    When and how they may be poisoned (in one unknown round, say) is what the groups' own certificates say.

    Args:
        votes: (m, G) the class that each group predicts for each sample.
        num_classes: C
        prices: Numbers of 0 or more, (m, G) or (m, G, C): a group's vote stands (does not turn to class c) if fewer of
            its samples are poisoned. inf: whatever is poisoned.
        num_samples: Training samples of all groups.
        group_guarantee: What the prices rest on.
        indices: (m,) rows of the test set that were certified. Default: all.
        test_size: Rows of the test set. Default: m.

    Returns:
        A certificate of kind "ensemble". It abstains where the price is 0.

    Raises:
        CertificateError: the arrays do not fit.

    Example:
        >>> rests_on = Guarantee("margins of the groups", ("softmax regression",))
        >>> found = certify_poison([[0, 0, 1]], 2, prices=[[3.5, 8, 1]], num_samples=90, group_guarantee=rests_on)
        >>> found.price, found.poisoned_samples
        (array([3.5]), array([3]))
    """
    counts, price = count_votes(votes, num_classes), overturning_price(votes, prices, num_classes)
    statement = (
        "each prediction stays the same if up to poisoned_samples training samples hold anything, label included"
    )
    return EnsemblePoisonCertificate(
        kind="ensemble",
        prediction=plurality(counts),
        abstained=price <= 0,
        **_rows_of(len(counts), indices, test_size),
        guarantee=_guarantee(statement, True, group_guarantee),
        notes=(),
        poisoned_samples=_below(price, positive_int("num_samples", num_samples)),
        counts=counts,
        price=price,
    )


def certify_random(
    votes: npt.ArrayLike,
    num_classes: int,
    *,
    num_clients: int,
    clients_per_group: int,
    alpha: float = 0.001,
    simultaneous: bool = False,
    indices: npt.ArrayLike | None = None,
    test_size: int | None = None,
) -> EnsembleCertificate:
    """How many clients may be malicious throughout, of the vote of all groups of k clients (theorems 4 and 5).

    The certificate is about the class that most of all C(N, k) groups vote for; the G trained groups are a sample. It
    abstains where the sample does not decide which class that is.

    Args:
        votes: (m, G) the class that each drawn group predicts for each sample.
        num_classes: C
        num_clients: N
        clients_per_group: k
        alpha: Probability that a sample's certificate is wrong, over the drawing of the groups.
        simultaneous: Whether alpha is the probability that any of the m is wrong.
        indices: (m,) rows of the test set that were certified. Default: all.
        test_size: Rows of the test set. Default: m.

    Returns:
        A certificate of kind "ensemble".

    Raises:
        CertificateError: the arrays do not fit, or a number is out of range.

    Example:
        >>> votes = [[0] * 100, [0] * 55 + [1] * 45]
        >>> found = certify_random(votes, 2, num_clients=1000, clients_per_group=10)
        >>> found.malicious_clients, found.abstained
        (array([53,  0]), array([False,  True]))
    """
    counts = count_votes(votes, num_classes)
    total, size = positive_int("num_clients", num_clients), positive_int("clients_per_group", clients_per_group)
    bounds = random_group_bounds(counts, alpha, simultaneous=simultaneous)
    statement = (
        f"each prediction is what most of all groups of {size} of the {total} clients vote for, and stays the same if "
        "up to malicious_clients of the clients hold and send anything, in every round, whatever the model and its training"
    )
    return EnsembleCertificate(
        kind="ensemble",
        prediction=bounds.prediction,
        abstained=bounds.abstained,
        **_rows_of(len(counts), indices, test_size),
        guarantee=Guarantee(statement, RANDOM, rounding="proved", alpha=bounds.alpha),
        notes=(),
        malicious_clients=max_malicious(bounds.p_a, bounds.p_b, clients=total, clients_per_group=size),
        counts=counts,
        num_clients=total,
        clients_per_group=size,
        bounds=bounds,
    )


def _below(price: FloatArray, most: int) -> IntArray:
    """The largest whole number, 0 to `most`, that is less than the price."""
    return np.clip(np.ceil(np.minimum(price, most + 1.0)) - 1, 0, most).astype(np.int64)


def _guarantee(statement: str, priced: bool, groups: Guarantee | None) -> Guarantee:
    """That of the ensemble: its own assumptions, and those of the groups' certificates where votes are priced."""
    if not priced:
        return Guarantee(statement, DISJOINT, rounding="proved")
    if groups is None or groups.alpha != 0:
        found = "none" if groups is None else "one without a proved level"
        found = f"one of alpha {groups.alpha:g}" if groups is not None and groups.alpha is not None else found
        raise CertificateError(f"group_guarantee: got {found}, expected what the prices rest on, without sampling")
    inside = tuple(f"within each group: {text}" for text in groups.assumptions)
    return Guarantee(statement, (*DISJOINT, *inside), groups.broken, groups.rounding)


def _check_whole(prices: npt.ArrayLike) -> None:
    cost = np.asarray(prices)
    wrong = ~(cost >= 1) | (cost != np.floor(cost))  # NaN is neither
    if wrong.any():
        raise CertificateError(
            f"prices: got {cost[wrong].flat[0]:g} malicious clients, expected whole numbers of 1 or more"
        )


def _rows_of(count: int, indices: npt.ArrayLike | None, test_size: int | None) -> dict[str, Any]:
    """The fields `indices` and `test_size`."""
    rows = np.arange(count) if indices is None else np.asarray(indices, dtype=np.int64)
    size = count if test_size is None else test_size
    if rows.shape != (count,) or (count and not 0 <= rows.min() <= rows.max() < size):
        raise CertificateError(f"indices: got shape {rows.shape}, expected {count} rows of a test set of {size}")
    return {"indices": rows, "test_size": size}
