"""What a training run leaves behind: the model, the record and the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from crfl.config import Experiment
from crfl.errors import DataError
from crfl.models import Model
from crfl.record import TrainingRecord
from crfl.wording import amount

if TYPE_CHECKING:
    from pandas import DataFrame

    from crfl.data.federated import Split

Columns = Mapping[str, npt.NDArray[Any]]
"""By name, a number a round (T,)."""

BLOCK = 4096
"""Samples that are predicted at a time."""


@dataclass(frozen=True, eq=False)
class TrainingRun:
    """A trained global model and how it came about: what `crfl.train` returns.

    Example:
        >>> import crfl
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
        >>> run = crfl.train(exp, crfl.load_data(exp))
        >>> run.params.shape, [a.scale for r in run.record.attack_rounds for a in r.attackers]
        (torch.Size([650]), [5.0])
    """

    experiment: Experiment
    model: Model
    params: Tensor
    """(P,): the final model, clipped, without noise."""
    record: TrainingRecord
    columns: Columns
    """The columns of the history."""
    checkpoints: Mapping[int, Tensor] = field(default_factory=dict)
    """The clipped model (P,) after each round asked for: the final model of a run of so many rounds."""

    @cached_property
    def history(self) -> DataFrame:
        """A row a round: what the clipped model does on the test set, and the norms.

        top_prediction_share is the share of the most frequent prediction, majority_accuracy the accuracy of always
        predicting the most frequent class.
        """
        from pandas import DataFrame  # here, because it is slow to import and large: training does without

        return DataFrame(self.columns)

    @property
    def history_since_attack(self) -> DataFrame:
        """The history from the first attack on; all of it if nobody attacked."""
        first = min((r.round for r in self.record.attack_rounds), default=0)
        return self.history[self.history["round"] >= first]

    def logits(self, x: npt.ArrayLike | Tensor) -> Tensor:
        """What the final model without noise computes.

        Args:
            x: features (m, d).

        Returns:
            Logits (m, C), on the CPU.

        Raises:
            DataError: if x has another shape.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> data = crfl.load_data(exp)
            >>> crfl.train(exp, data).logits(data.test.x[:4]).shape
            torch.Size([4, 10])
        """
        features = torch.as_tensor(x)
        if features.ndim != 2 or features.shape[1] != self.model.num_features:
            raise DataError(f"x: got shape {tuple(features.shape)}, expected (m, {self.model.num_features})")
        params = self.params.cpu()
        return torch.cat([self.model.logits(params, block.to(params)) for block in features.cpu().split(BLOCK)])

    def predict(self, x: npt.ArrayLike | Tensor) -> npt.NDArray[np.int64]:
        """The class of each sample, as the final model without noise sees it.

        Args:
            x: features (m, d).

        Returns:
            Classes (m,).

        Raises:
            DataError: if x has another shape.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> data = crfl.load_data(exp)
            >>> crfl.train(exp, data).predict(data.test.x[:4]).shape
            (4,)
        """
        return self.logits(x).argmax(dim=1).numpy()

    def score(self, split: Split) -> float:
        """Accuracy on labelled samples.

        Args:
            split: features and labels, such as `data.test`.

        Returns:
            The share of samples whose predicted class is their label.

        Raises:
            DataError: the features have another shape than the model's.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> data = crfl.load_data(exp)
            >>> run = crfl.train(exp, data)
            >>> bool(run.score(data.test) == run.history["accuracy"].iloc[-1])
            True
        """
        return float(np.mean(self.predict(split.x) == split.y.cpu().numpy()))

    def to_module(self) -> nn.Module:
        """The trained model as a torch module.

        Returns:
            A torch.nn.Linear for softmax regression; else a copy of the user's module, in eval mode.

        Example:
            >>> import crfl
            >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2})
            >>> crfl.train(exp, crfl.load_data(exp)).to_module()
            Linear(in_features=64, out_features=10, bias=True)
        """
        return self.model.to_module(self.params)

    def __repr__(self) -> str:
        exp, record = self.experiment, self.record
        accuracy, majority, top = (
            self.columns[name][-1] for name in ("accuracy", "majority_accuracy", "top_prediction_share")
        )
        attack = amount(exp.attack.count, "attacker") if record.attackers else "no attack"
        benign = ", benign counterpart" if record.benign else ""
        measured = (
            f"; accuracy {accuracy:.4f}, always the most frequent class {majority:.4f}, share of the most frequent "
            f"prediction {top:.4f}"
        )
        return (
            f"TrainingRun({exp.data.name}: {amount(len(record.client_sizes), 'client')}, "
            f"{amount(len(record.rounds), 'round')}, {attack}{benign}{'' if np.isnan(accuracy) else measured})"
        )
