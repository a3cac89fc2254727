"""Kind "clients": clients that are malicious in every round, against one model (docs/theory.md, section 11)."""

from __future__ import annotations

import numpy as np
import torch

from crfl.certification import assumptions
from crfl.certification._checks import FloatArray, IntArray
from crfl.certification.certificate import ClientCertificate, Guarantee
from crfl.certification.coupling.advice import clients_advice
from crfl.certification.coupling.clients import ClientScenario
from crfl.certification.coupling.refusals import check_clients, failed_clients
from crfl.certification.kinds.task import Run, Task, Test
from crfl.certification.margin import budget_before_clip, lowered_budget, margin_budget
from crfl.record import TrainingRecord


def certify_clients(run: Run, test: Test, *, device: str | torch.device | None = None) -> ClientCertificate:
    """How many clients may send anything, in every round, before a prediction can change.

    The server clips updates to norms S_t that honest updates never reach; honest training then brings two runs
    together by the server's decay, and a malicious client adds at most 2 p S_t a round. A client whose reply was missing
    or unusable in some round counts as one more malicious client, beside those that are certified (Theorem 26).

    Args:
        run: A TrainingRun of softmax regression with server.update_clip and server.decay.
        test: Samples with features x (m, d), or data with a test split.
        device: Where logits are computed, in float64; None: where the run's parameters are.

    Returns:
        A certificate whose strength is `malicious_clients`. It abstains where rounding, or what clients that failed might
        have sent, may change a prediction.

    Raises:
        CertificateError: the certificate does not hold for the run; it names every reason.

    Example:
        >>> import crfl
        >>> settings = {"data.clients": 700, "local.batch_size": 2, "local.learning_rate": 0.15, "attack.round": None}
        >>> defence = {"server.update_clip": 0.8, "server.decay": 0.3, "server.clip.start": 50, "server.noise": 1e-4}
        >>> data = crfl.load_data(exp := crfl.Experiment().override({**settings, **defence}))
        >>> cert = certify_clients(crfl.train(exp, data), data)
        >>> cert.certified_accuracy(data.test.y, [0, 1, 2]).round(1)
        array([0.9, 0.5, 0.1])
    """
    task, record = Task.of(run, test, device), run.record
    check_clients(record)
    logits, norms = task.linear()
    budget = lowered_budget(record, budget_before_clip(record, margin_budget(logits, norms)))
    tolerated, least = tolerated_clients(record, budget)
    return ClientCertificate(
        kind="clients",
        prediction=logits.argmax(axis=1),
        abstained=~(least < budget),
        indices=task.indices,
        test_size=task.test_size,
        guarantee=clients_guarantee(record),
        notes=() if tolerated.any() or not len(tolerated) else (clients_advice(ClientScenario(record), budget),),
        malicious_clients=tolerated,
    )


def tolerated_clients(record: TrainingRecord, budget: FloatArray) -> tuple[IntArray, float]:
    """How many clients may send anything, beside those who failed, within each budget; and the cost of none.

    Where that cost is no less than the budget nothing is known, and the number is 0.
    """
    scenario, failed = ClientScenario(record), len(failed_clients(record))
    most = scenario.max_clients(budget.ravel()).reshape(budget.shape)
    return np.maximum(most - failed, 0), scenario.cost(failed)


def clients_guarantee(record: TrainingRecord) -> Guarantee:
    """What it says, and what it rests on."""
    return assumptions.clients(record, slack=ClientScenario(record).cost(0), failed=len(failed_clients(record)))
