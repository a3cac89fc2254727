"""Loss, accuracy and attack success of whole stacks of models on the test set."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crfl import matmul as products
from crfl.attack.triggers import Trigger, make_trigger
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.models.base import Model
from crfl.models.softmax import SoftmaxRegression

MEASURES = ("loss", "accuracy", "attack_success_rate")

BLOCK = 2**14
"""Samples that are judged at a time: logits of all would be large."""
TRIGGERED = 500
"""Samples that a trigger gets at a time, as it may make several copies of them."""


class Evaluation:
    """Measures models on the test set, block by block; a backdoored set is kept as its difference from the clean one.

    Attack success counts triggered samples of other classes that are predicted as the target; NaN where nobody attacks.
    """

    def __init__(self, data: FederatedData, experiments: Sequence[Experiment]) -> None:
        """One experiment for each of the S runs that `measure` will see."""
        self.test = data.test
        changes: dict[object, tuple[Tensor, Tensor]] = {}
        self.backdoors: list[tuple[int, Tensor, Tensor] | None] = []
        for exp in experiments:
            if not exp.attack.active:
                self.backdoors.append(None)
                continue
            named = isinstance(exp.attack.trigger, str)  # such a trigger may read any setting
            look: object = exp.attack if named else (exp.attack.trigger, exp.attack.magnitude)
            if look not in changes:
                changes[look] = _sparse_change(self.test, data.num_features, make_trigger(exp.attack, data, exp.seed))
            self.backdoors.append((exp.attack.target, *changes[look]))

    def measure(self, model: Model, params: Tensor) -> Tensor:
        """Mean cross entropy, accuracy and attack success rate of params (S, P): (S, 3) float64."""
        sums = torch.zeros(len(params), 4, dtype=torch.float64, device=params.device)
        for number, block in enumerate(self.test.blocks(BLOCK)):
            sums += self._sums(model, params, block, slice(number * BLOCK, (number + 1) * BLOCK))
        return torch.cat([sums[:, :2] / len(self.test), sums[:, 2:3] / sums[:, 3:]], dim=1)

    def _sums(self, model: Model, params: Tensor, block: Split, rows: slice) -> Tensor:
        """Sums over a block, (S, 4) float64: cross entropy, those right, hit by the backdoor, and that it could hit."""
        logits = _logits(model, params, block.x)
        labels = block.y.expand(len(params), -1)
        loss = functional.cross_entropy(logits, labels, reduction="none").sum(1, dtype=torch.float64)
        # Over a leading dimension, max is fifty times faster than argmax.
        right = (logits.max(1).indices == labels).sum(1)
        hits = loss.new_full((len(params), 2), torch.nan)
        for run, backdoor in enumerate(self.backdoors):
            if backdoor is not None:
                target, columns, change = backdoor
                moved = _moved_logits(model, params[run], logits[run], block.x, columns, change[rows])
                others = block.y != target
                hits[run] = torch.stack([(_won(moved, target) & others).sum(), others.sum()])
        return torch.cat([loss[:, None], right[:, None], hits], dim=1)


def _won(logits: Tensor, target: int) -> Tensor:
    """Where the target is the first of the largest logits (C, m): (m,) bool. Faster than to ask which class that is."""
    mine = logits[target]
    won = mine == mine
    if target > 0:
        won &= mine > logits[:target].amax(0)
    if target < len(logits) - 1:
        won &= mine >= logits[target + 1 :].amax(0)
    return won


def _logits(model: Model, params: Tensor, x: Tensor) -> Tensor:
    """Class-major logits (S, C, m) of models (S, P)."""
    if not isinstance(model, SoftmaxRegression):
        return model.logits(params, x).mT
    weights, bias = model.split(params)
    return products.inner(weights.flatten(0, 1), x).view(*bias.shape, -1).add_(bias.unsqueeze(2))


def _moved_logits(model: Model, params: Tensor, logits: Tensor, x: Tensor, columns: Tensor, change: Tensor) -> Tensor:
    """Logits (C, m) of one model (P,) after a change (m, k) of some columns of x, given those before it."""
    if isinstance(model, SoftmaxRegression):
        return logits + model.split(params)[0][:, columns] @ change.mT
    moved = x.clone()
    moved[:, columns] += change
    return model.logits(params, moved).mT


def _sparse_change(test: Split, num_features: int, trigger: Trigger) -> tuple[Tensor, Tensor]:
    """The columns (k,) that the trigger touches and its change of them (m, k): few for a pixel pattern."""
    touched = torch.zeros(num_features, dtype=torch.bool, device=test.y.device)
    for block in test.blocks(TRIGGERED):
        touched |= (trigger(block.x) != block.x).any(dim=0)
    columns = touched.nonzero().flatten()
    # Allocated at once: pieces kept between blocks that are freed would keep the blocks' memory, too.
    change = torch.empty(len(test), len(columns), dtype=torch.float32, device=test.y.device)
    for block, out in zip(test.blocks(TRIGGERED), change.split(TRIGGERED), strict=True):
        torch.sub(trigger(block.x)[:, columns], block.x[:, columns], out=out)
    return columns, change
