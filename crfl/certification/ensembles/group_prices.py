"""What it costs to change the vote of a group, by the group's own certificate: prices for theorem 2."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

from crfl.certification import assumptions
from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.certificate import Guarantee
from crfl.certification.coupling.distance import CoupledScenario
from crfl.certification.coupling.refusals import check_clients, check_coupled, failed_clients
from crfl.certification.kinds.clients import clients_guarantee, tolerated_clients
from crfl.certification.kinds.task import Run, Task, Test
from crfl.certification.margin import budget_before_clip, class_budgets, lowered_budget
from crfl.errors import CertificateError
from crfl.progress import bar
from crfl.record import AttackerRecord, RoundRecord, TrainingRecord, poison_ratios

RATIO = 1.25
"""Of the larger numbers of poisoned samples that are tried to the next smaller ones."""
SLACK = 1e-9
"""Poison is counted as so much more: in an earlier step of a round it may weigh more, by the rounding of the steps."""
ONE_ROUND = (
    "poisoned samples are trained on in one round at most, whichever it is, another in each group; their clients train "
    "as told and scale nothing"
)

Priced = tuple[IntArray, FloatArray, Guarantee]


class Groups(Protocol):
    """An ensemble of disjoint groups, such as an EnsembleRun.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> ensemble: Groups = crfl.train_ensemble(exp, crfl.load_data(exp), groups=5)
        >>> len(ensemble.groups), ensemble.group_run(0).record.client_names
        (5, ...)
    """

    @property
    def groups(self) -> Sequence[IntArray]: ...
    def group_run(self, group: int) -> Run: ...


def price_groups(
    ensemble: Groups,
    test: Test,
    prices: Literal["clients", "poison"],
    *,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Votes, prices and what they rest on, as `certify_disjoint` and `certify_poison` take them.

    The votes are those that the groups' certificates speak of: logits in float64. A group without a certificate of its
    own has the price 1.

    Args:
        ensemble: Disjoint groups of softmax regression.
        test: What is certified.
        prices: In malicious clients, or in poisoned samples.
        device: Where logits are computed.
        progress: Show a bar.

    Returns:
        `votes` (m, G), `prices` (m, G, C) and `group_guarantee`; for poison also `num_samples`.

    Raises:
        CertificateError: no group has a certificate of its own; the reason is that of the first.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None, "server.clip.start": 30.0})
        >>> ensemble = crfl.train_ensemble(exp, data := crfl.load_data(exp), groups=5)
        >>> found = price_groups(ensemble, data.test, "poison")
        >>> found["votes"].shape, found["prices"].shape
        ((397, 5), (397, 5, 10))
    """
    price = client_prices if prices == "clients" else poison_prices
    votes, costs, found, refused, samples = [], [], [], [], 0
    for group in bar(range(len(ensemble.groups)), desc="pricing", unit="group", shown=progress):
        run = ensemble.group_run(group)
        try:
            vote, cost, guarantee = price(run, test, device)
            found.append(guarantee)
        except CertificateError as error:
            logits = Task.of(run, test, device).linear()[0]  # raises for models of no margin
            vote, cost = logits.argmax(axis=1), np.ones(logits.shape)
            refused.append(str(error))
        samples += sum(run.record.client_sizes)
        votes.append(vote)
        costs.append(cost)
    if not found:
        raise CertificateError(f"prices: got {prices!r}, expected None; of every group, {refused[0]}")
    rests_on = replace(found[0], assumptions=tuple(dict.fromkeys(a for g in found for a in g.assumptions)))
    result = {"votes": np.stack(votes, axis=1), "prices": np.stack(costs, axis=1), "group_guarantee": rests_on}
    return result if prices == "clients" else {**result, "num_samples": samples}


def client_prices(run: Run, test: Test, device: str | torch.device | None = None) -> Priced:
    """How many malicious clients it takes to turn each prediction of a group to each class.

    Args:
        run: The group's.
        test: What is certified.
        device: Where logits are computed.

    Returns:
        Predictions (m,), prices (m, C), and why. inf where all clients of the run do not suffice.

    Raises:
        CertificateError: as `certify_clients`.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None, "server.update_clip": 0.05})
        >>> run = crfl.train(exp, data := crfl.load_data(exp))
        >>> prediction, price, guarantee = client_prices(run, data.test)
        >>> price.shape, float(price.min())
        ((397, 10), 1.0)
    """
    task = Task.of(run, test, device)
    check_clients(run.record)
    prediction, budget = _class_budgets(task)
    tolerated, least = tolerated_clients(run.record, budget)
    others = len(run.record.client_sizes) - len(failed_clients(run.record))
    price = np.where((least < budget) & (tolerated >= others), np.inf, tolerated + 1.0)
    return prediction, price, clients_guarantee(run.record)


def poison_prices(run: Run, test: Test, device: str | torch.device | None = None) -> Priced:
    """How many poisoned samples of any content it takes to turn each prediction of a group to each class.

    The samples may be those of any clients of the run, in one unknown round.

    Args:
        run: The group's.
        test: What is certified.
        device: Where logits are computed.

    Returns:
        Predictions (m,), prices (m, C), and why. inf where even all samples change nothing.

    Raises:
        CertificateError: the coupling argument does not hold for the run, or somebody attacked in it.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None, "server.clip.start": 30.0})
        >>> run = crfl.train(exp, data := crfl.load_data(exp))
        >>> prediction, price, guarantee = poison_prices(run, data.test)
        >>> price.shape, bool((price >= 1).all())
        ((397, 10), True)
    """
    record, task = run.record, Task.of(run, test, device)
    if record.attack_rounds:
        raise CertificateError("prices 'poison' are about clean runs: got attackers on record, expected none")
    check_coupled(record)
    prediction, budget = _class_budgets(task)
    price, total = np.ones(budget.shape), sum(record.client_sizes)
    most = budget.max(initial=0.0, where=np.isfinite(budget))
    for count in _counts(total):
        cost = CoupledScenario(poisoned_record(record, count), before_clip=True, any_round=True).cost(math.inf)
        if not cost < most:
            break
        price[cost < budget] = np.inf if count == total else count + 1
    return prediction, price, _poison_guarantee(record)


def _class_budgets(task: Task) -> tuple[IntArray, FloatArray]:
    """Predictions (m,), and how far a model must be away to turn each to each class, (m, C)."""
    logits, norms = task.linear()
    record = task.run.record
    return logits.argmax(axis=1), lowered_budget(record, budget_before_clip(record, class_budgets(logits, norms)))


def poisoned_record(record: TrainingRecord, samples: int) -> TrainingRecord:
    """The record with all clients as attackers whose poison together adds as much as that of so many samples, anywhere.

    A poisoned sample adds a_i = p_i eta_i / n_i times a constant, n_i its batch, in one step an epoch. Every client gets
    a share of the samples so large that this is no less than what the worst client adds with all of them.

    Args:
        record: Of a run that nobody attacked.
        samples: How many are poisoned.

    Returns:
        A record of which `CoupledScenario` gives the cost of so many samples.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": None})
        >>> record = crfl.train(exp, crfl.load_data(exp)).record
        >>> len(poisoned_record(record, 5).rounds[0].attackers)
        10
    """
    shares = np.array([max(_ratios(record, size, epochs=1), default=0.0) for size in record.client_sizes])
    spread = max(_spread(record, round_, shares) for round_ in record.rounds)
    ratios = samples * spread * shares * (1 + SLACK)
    first = record.rounds[0]
    attackers = tuple(_attacker(record, first, client, float(ratio)) for client, ratio in enumerate(ratios))
    return replace(
        record,
        attackers=tuple(range(len(shares))),
        rounds=(replace(first, attackers=attackers), *record.rounds[1:]),
    )


def _spread(record: TrainingRecord, round_: RoundRecord, shares: FloatArray) -> float:
    """Share of the poisoned samples that each client is given: max a / sum a, in a round.

    Where updates are clipped, what a client adds is concave in its samples, and the same for all if the clients are
    alike: then no distribution adds more than the even one. If they are not alike, each is given all samples.
    """
    heard = np.array(round_.weights) > 0
    rates = np.minimum(np.array(record.learning_rates), round_.learning_rate_cap)
    added = (np.array(round_.weights) * rates * shares)[heard]
    if not added.any():
        return 0.0
    if round_.update_clip is not None:
        kinds = set(zip(np.array(round_.weights)[heard], rates[heard], shares[heard], strict=True))
        return 1 / len(added) if len(kinds) == 1 else 1.0
    return float(added.max() / added.sum())


def _poison_guarantee(record: TrainingRecord) -> Guarantee:
    """What prices in poisoned samples rest on."""
    supposed = poisoned_record(record, 1)
    slack = CoupledScenario(supposed, before_clip=True, any_round=True).total_rounding
    found = assumptions.coupled(supposed, any_round=True, slack=slack)
    counterpart, attack = found.assumptions[:2]  # who is compared, and who attacks: here it is samples that differ
    return replace(found, assumptions=(ONE_ROUND, *(a for a in found.assumptions if a not in (counterpart, attack))))


def _attacker(record: TrainingRecord, round_: RoundRecord, client: int, ratio: float) -> AttackerRecord:
    """A client with poison of any content in the last step of each epoch."""
    steps = len(_ratios(record, record.client_sizes[client], epochs=1))
    return AttackerRecord(
        client=client,
        weight=round_.weights[client],
        potential_weight=round_.weights[client],
        scale=1.0,
        learning_rate=min(record.learning_rates[client], round_.learning_rate_cap),
        poison_ratios=((0.0,) * (steps - 1) + (ratio,)) * record.epochs,
        magnitude=math.inf,
        label_flip=True,
    )


def _ratios(record: TrainingRecord, size: int, epochs: int) -> tuple[float, ...]:
    """1 / n of every step of a client."""
    return poison_ratios(size, 1, record.batch_size, epochs, record.keep_last_batch)


def _counts(total: int) -> Iterator[int]:
    """1, 2, .. up to the total, in steps that grow with them."""
    count = 1
    while count < total:
        yield count
        count = max(count + 1, math.floor(count * RATIO))
    yield total
