"""Loss, accuracy and attack success of whole stacks of models on the test set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crfl.config import Experiment
from crfl.config.sections import Trigger as TriggerSetting
from crfl.data.federated import FederatedData
from crfl.training.models import Model, SoftmaxRegression
from crfl.training.triggers import Trigger, make_trigger

MEASURES = ("loss", "accuracy", "attack_success_rate")


class Evaluation:
    """The test set, laid out once for `measure`; a backdoored set is kept as its difference from the clean one.

    Attack success counts triggered samples of other classes that are predicted as the target; NaN where nobody attacks.
    """

    def __init__(self, data: FederatedData, experiments: Sequence[Experiment]) -> None:
        """One experiment for each of the S runs that `measure` will see."""
        self.x, self.y = data.test.x, data.test.y
        changes: dict[tuple[TriggerSetting, float], tuple[Tensor, Tensor]] = {}
        self.backdoors: list[tuple[int, Tensor, Tensor] | None] = []
        for exp in experiments:
            if not exp.attack.active:
                self.backdoors.append(None)
                continue
            look = exp.attack.trigger, exp.attack.magnitude
            if look not in changes:
                changes[look] = _sparse_change(self.x, make_trigger(exp.attack, data, exp.seed))
            self.backdoors.append((exp.attack.target, *changes[look]))

    def measure(self, model: Model, params: Tensor) -> Tensor:
        """Mean cross entropy, accuracy and attack success rate of params (S, P): (S, 3) float64."""
        logits = _logits(model, params, self.x)
        labels = self.y.expand(len(params), -1)
        loss = functional.cross_entropy(logits, labels, reduction="none").mean(1, dtype=torch.float64)
        # Over a leading dimension, max is fifty times faster than argmax.
        accuracy = (logits.max(1).indices == labels).double().mean(1)
        success = torch.full_like(accuracy, torch.nan)
        for run, backdoor in enumerate(self.backdoors):
            if backdoor is not None:
                target, columns, change = backdoor
                moved = _moved_logits(model, params[run], logits[run], self.x, columns, change)
                others = self.y != target
                success[run] = ((moved.max(0).indices == target) & others).sum() / others.sum()
        return torch.stack([loss, accuracy, success], dim=1)


def _logits(model: Model, params: Tensor, x: Tensor) -> Tensor:
    """Class-major logits (S, C, m) of models (S, P): for linear ones by one product."""
    if not isinstance(model, SoftmaxRegression):
        return model.logits(params, x).mT
    weights, bias = model.split(params)
    return (x @ weights.flatten(0, 1).mT).mT.reshape(*bias.shape, -1) + bias.unsqueeze(2)


def _moved_logits(model: Model, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
    """Logits (C, m) of one model (P,) after a change (m, k) of some columns of x, given those before it."""
    if isinstance(model, SoftmaxRegression):
        return logits + model.split(params)[0][:, columns] @ change.mT
    moved = x.clone()
    moved[:, columns] += change
    return model.logits(params, moved).mT


def _sparse_change(x: Tensor, trigger: Trigger) -> tuple[Tensor, Tensor]:
    """The columns (k,) that the trigger touches and its change of them (m, k): few for a pixel pattern."""
    change = trigger(x).sub_(x)
    columns = change.any(dim=0).nonzero().flatten()
    return columns, change[:, columns]
