"""Loss, accuracy, attack success and the most frequent prediction of whole batches of models on the test set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from crfl.attack.triggers import ValidatedTrigger, make_trigger, triggered
from crfl.config import Experiment
from crfl.data.federated import FederatedData, Split
from crfl.models import Model

BLOCK = 2**14
"""Samples that are judged at a time: logits of all would be large."""
TRIGGERED = 500
"""Samples that a trigger gets at a time, as it may make several copies of them."""


class Evaluation:
    """Measures models on the test set, block by block; a backdoored set is kept as its difference from the clean one.

    Attack success counts triggered samples of other classes that are predicted as the target; NaN where nobody attacks.
    """

    def __init__(self, model: Model, data: FederatedData, experiments: Sequence[Experiment]) -> None:
        """One experiment for each of the S runs that `measure` will see."""
        self.model, self.test = model, data.test
        changes: dict[object, tuple[Tensor, Tensor]] = {}
        self.backdoors: list[tuple[int, Tensor, Tensor] | None] = []
        for exp in experiments:
            if not exp.attack.active:
                self.backdoors.append(None)
                continue
            named = isinstance(exp.attack.trigger, str)  # such a trigger may read any setting
            look: object = exp.attack if named else (exp.attack.trigger, exp.attack.magnitude)
            if look not in changes:
                changes[look] = _sparse_change(data, make_trigger(exp.attack, data, exp.seed))
            self.backdoors.append((exp.attack.target, *changes[look]))

    def measure(self, params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of params (S, P) mean cross entropy, accuracy, attack success rate and share of the most frequent prediction.

        Each is (S,) float64.
        """
        sums = torch.zeros(len(params), 4 + self.model.num_classes, dtype=torch.float64, device=params.device)
        for number, block in enumerate(self.test.blocks(BLOCK)):
            sums += self._sums(params, block, slice(number * BLOCK, (number + 1) * BLOCK))
        loss, correct, hits, others = sums[:, :4].unbind(1)
        size = len(self.test)
        return loss / size, correct / size, hits / others, sums[:, 4:].amax(1) / size

    def _sums(self, params: Tensor, block: Split, rows: slice) -> Tensor:
        """Sums over a block, (S, 4 + C) float64: cross entropy, correct, hit by the backdoor, and that it could hit;
        how often each class is predicted."""
        x = block.x.to(params.dtype)
        logits = self.model.class_logits(params, x)
        labels = block.y.expand(len(params), -1)
        loss = functional.cross_entropy(logits, labels, reduction="none").sum(1, dtype=torch.float64)
        # Over a leading dimension, max is fifty times faster than argmax.
        predicted = logits.max(1).indices
        correct = (predicted == labels).sum(1)
        counts = torch.zeros_like(logits[:, :, 0], dtype=torch.float64)
        counts.scatter_add_(1, predicted, counts.new_ones(1).expand(predicted.shape))
        hits = loss.new_full((len(params), 2), torch.nan)
        for run, backdoor in enumerate(self.backdoors):
            if backdoor is not None:
                target, columns, change = backdoor
                moved = change[rows].to(params.dtype)
                changed = self.model.changed_logits(params[run], logits[run], x, columns, moved)
                others = block.y != target
                hits[run] = torch.stack([(_wins(changed, target) & others).sum(), others.sum()])
        return torch.cat([loss[:, None], correct[:, None], hits, counts], dim=1)


def unmeasured(params: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `measure` returns, NaN: for a round without evaluation."""
    missing = torch.full((len(params),), torch.nan, dtype=torch.float64, device=params.device)
    return missing, missing, missing, missing


def _wins(logits: Tensor, target: int) -> Tensor:
    """Where the target is the first of the largest logits (C, m): (m,) bool. Faster than asking which class that is."""
    mine = logits[target]
    won = mine == mine
    if target > 0:
        won &= mine > logits[:target].amax(0)
    if target < len(logits) - 1:
        won &= mine >= logits[target + 1 :].amax(0)
    return won


def _sparse_change(data: FederatedData, trigger: ValidatedTrigger) -> tuple[Tensor, Tensor]:
    """The columns (k,) that the trigger touches and its change of them (m, k): few for a pixel pattern."""
    test, touched = data.test, torch.zeros(data.num_features, dtype=torch.bool, device=data.test.y.device)
    if data.feature_map is None:
        for _, block in _blocks(test):
            touched |= (trigger(block.x) != block.x).any(dim=0)
    everything = torch.arange(data.num_features, device=test.y.device)
    columns = touched.nonzero().flatten() if data.feature_map is None else everything
    # Allocated at once: pieces kept between blocks that are freed would keep the blocks' memory, too.
    change = torch.empty(len(test), len(columns), dtype=torch.float32, device=test.y.device)
    for rows, block in _blocks(test):
        moved = triggered(data, trigger, block.x, rows)
        torch.sub(moved[:, columns], block.x[:, columns], out=change[rows])
    return columns, change


def _blocks(test: Split) -> Iterator[tuple[slice, Split]]:
    """Some test samples at a time, and which: all at once would be a copy of them."""
    starts = range(0, len(test), TRIGGERED)
    return ((slice(s, s + TRIGGERED), block) for s, block in zip(starts, test.blocks(TRIGGERED), strict=True))
